"""How long prompts are read: in chunks, so that other answers go on in between.

A pass over a prompt of 7,000 tokens takes a minute on a CPU, and nobody else would get a token meanwhile, nor
could the request be cancelled. Each chunk is computed on the keys and values of those before it, which is
the same as one pass, up to the rounding, for a model that the tests compare.
"""

from typing import Any

from helpers.loading.attention import find_window
from helpers.weights.engine_sizes import count_chunk_tokens

# transformers' model_type. A test compares each of them with the plain computation.
ARCHITECTURES = {"llama", "mistral", "qwen2", "qwen3"}
# These turn position by position, from the length of the longest sequence.
LENGTH_DEPENDENT_ROPE = {"dynamic", "longrope"}


def find_obstacle(config: Any, context: int) -> str | None:
    """Why the model's keys and values are not always those of one plain pass; None if they are."""
    rope = (getattr(config, "rope_parameters", None) or {}).get("rope_type", "default")
    window = find_window(config)
    if config.model_type not in ARCHITECTURES:
        return f"it was not tested on the architecture '{config.model_type}'"
    if window and window < context:
        return f"a token sees {window} tokens only (sliding-window attention)"
    if rope in LENGTH_DEPENDENT_ROPE:
        return f"rotary embeddings of the kind '{rope}' depend on the longest answer"
    return None


def choose_chunk(model: Any, context: int) -> int | None:
    """Tokens of a chunk; None for a model whose prompts are read in one pass."""
    return None if find_obstacle(model.config, context) else count_chunk_tokens(model.device.type)
