"""How much memory a model takes, to run it and to train a LoRA on it: a list of terms with their formulas.

All sizes are in bytes. The formulas are those of a decoder like Llama: attention with grouped keys and
values, and a gated MLP. What a training step keeps is in step_memory. tests/weights/test_memory.py checks the
sums against the measured peak of the embedded model.
"""

from typing import Any

from helpers.common.errors import UnsupportedError
from helpers.weights.config import read_dtype, read_quantization
from helpers.weights.engine_sizes import count_chunk_tokens, round_up_columns, round_up_rows
from helpers.weights.shape import Shape, read_context, read_shape
from helpers.weights.step_memory import TrainingStep, estimate_step
from helpers.weights.terms import DTYPE_BYTES, Term, add_up

# Python, torch, transformers and the buffers of a first pass. "cpu": what runs with torch 2.13 took beyond
# the other terms. "cuda": an allowance for the CUDA context, which none of torch's counters shows.
# "mps": that of a CPU, since nothing was measured there.
OVERHEAD_RUNNING = {"cpu": 470_000_000, "cuda": 500_000_000, "mps": 470_000_000}
OVERHEAD_TRAINING = {"cpu": 700_000_000, "cuda": 500_000_000, "mps": 700_000_000}


def estimate_running(
    config: dict[str, Any],
    file_bytes: int,
    dtype: str,
    device: str = "cpu",
    context: int = 2048,
    batch: int = 1,
    slots: bool | None = None,
) -> list[Term]:
    """Memory to generate: `batch` answers at once, each with prompt and answer of `context` tokens together.

    `config` is a config.json, `file_bytes` the size of the weight files, `dtype` a key of DTYPE_BYTES, and
    `device` one of OVERHEAD_RUNNING. `slots` says whether the engine computes the answers in slots, which
    False leaves out, as transformers' `generate` does; None: on CUDA. Raises UnsupportedError for weights
    stored in another dtype, and KeyError if the config is not that of a decoder like Llama.
    """
    shape = read_shape(config)
    number_bytes = DTYPE_BYTES[dtype]
    weights = estimate_weights(config, file_bytes, dtype)
    if device == "cuda" if slots is None else slots:
        most = max(read_context(config), context)
        answering = estimate_answering_in_slots(shape, number_bytes, most, context, batch, device)
    else:
        answering = [
            estimate_kv_cache(shape, number_bytes, context * batch),
            estimate_running_activations(shape, number_bytes, context * batch),
        ]
    # While a CPU converts weights to another dtype, the file and its copy are both in memory. That is over
    # before the first token, so that only the larger of the two amounts counts.
    converted = device == "cpu" and weights.bytes != file_bytes
    if converted and file_bytes > add_up(answering):
        formula = "bytes on disk; gone when loading ends, more than cache and activations"
        answering = [Term("the file while it is converted", file_bytes, formula)]
    return [weights, *answering, estimate_overhead(OVERHEAD_RUNNING, device)]


def estimate_answering_in_slots(
    shape: Shape, number_bytes: int, most: int, context: int, batch: int, device: str
) -> list[Term]:
    """What the engine takes beside the weights: slots, and the prompts that are read before they get one.

    `most` are the tokens that the model takes. Prompts of up to a chunk are read side by side, longer ones
    one by one and chunk by chunk (helpers.generation.reading).
    """
    side_by_side = batch * min(context, count_chunk_tokens(device))
    return [
        estimate_kv_cache(shape, number_bytes, max(context, side_by_side)),
        estimate_slots(shape, number_bytes, round_up_rows(batch), round_up_columns(context, most)),
        estimate_running_activations(shape, number_bytes, side_by_side),
    ]


def estimate_training(
    config: dict[str, Any], file_bytes: int, dtype: str, device: str = "cpu", **step: Any
) -> list[Term]:
    """Memory to train a LoRA with helpers.training; `step` takes the fields of TrainingStep, such as r=8.

    The other parameters are those of estimate_running, and so are the errors; UsageError for unknown targets
    or optimizers. TRL's own SFTTrainer takes more, about twice the activations and the logits of every token:
    it repeats the shared tokens and computes the LoRA in float32.
    """
    chosen = TrainingStep(**step)
    return [
        estimate_weights(config, file_bytes, dtype),
        *estimate_step(read_shape(config), dtype, chosen, chosen.tokens, device),
        estimate_overhead(OVERHEAD_TRAINING, device),
    ]


def estimate_weights(config: dict[str, Any], file_bytes: int, dtype: str) -> Term:
    """The weights in memory. Quantised ones stay as they are on disk, others are converted to `dtype`.

    Raises UnsupportedError if the config says that they are stored in a dtype whose size is not known here.
    """
    if read_quantization(config):
        return Term("weights", file_bytes, "as on disk: quantised weights stay packed")
    stored = read_dtype(config)
    if stored not in DTYPE_BYTES:
        problem = f"The weights are stored as {stored}, whose cost is not known here."
        raise UnsupportedError(problem, f"Known: {', '.join(DTYPE_BYTES)}, and quantised weights.")
    parameters = file_bytes // DTYPE_BYTES[stored]
    number_bytes = DTYPE_BYTES[dtype]
    formula = f"{parameters / 1e6:,.1f} million parameters x {number_bytes} bytes ({dtype})"
    return Term("weights", parameters * number_bytes, formula)


def estimate_kv_cache(shape: Shape, number_bytes: int, tokens: int) -> Term:
    """The KV cache: for every token, one key and one value in each KV head of each layer."""
    numbers = 2 * shape.layers * shape.kv_heads * shape.head_size * tokens
    formula = (
        f"2 x {shape.layers} layers x {shape.kv_heads} KV heads x {shape.head_size} x {number_bytes} bytes"
        f" x {tokens} tokens"
    )
    return Term("KV cache", numbers * number_bytes, formula)


def estimate_slots(shape: Shape, number_bytes: int, rows: int, columns: int) -> Term:
    """Where keys and values of the running answers are on a GPU (helpers.generation.slot_cache)."""
    cache = estimate_kv_cache(shape, number_bytes, rows * columns)
    return Term("slots", cache.bytes, f"{rows} rows x {columns} columns: {cache.formula}")


def estimate_running_activations(shape: Shape, number_bytes: int, tokens: int) -> Term:
    """What one layer computes for the prompt; the next layer uses the same memory.

    For each token: 3 vectors as long as the MLP is wide, and 4 as long as the hidden state.
    """
    numbers = tokens * (3 * shape.intermediate + 4 * shape.hidden)
    formula = (
        f"{tokens} tokens x (3 x {shape.intermediate} + 4 x {shape.hidden}) x {number_bytes} bytes,"
        " one layer at a time"
    )
    return Term("activations", numbers * number_bytes, formula)


def estimate_overhead(overhead: dict[str, int], device: str) -> Term:
    """What Python and its libraries take on a device."""
    return Term("overhead", overhead[device], f"Python and its libraries, measured ({device})")
