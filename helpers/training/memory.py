"""Whether the activations of a training step fit into a GPU's memory, or must be computed again."""

import heapq
from typing import Any, cast

from datasets import Dataset
from transformers import PreTrainedModel

from helpers.common.errors import KitError
from helpers.common.machine import Choice, measure_memory, name_dtype
from helpers.common.training_settings import TrainingSettings
from helpers.training.packing import pack_sequences
from helpers.weights.memory import (
    DTYPE_BYTES,
    TrainingStep,
    estimate_layout,
    estimate_lora,
    estimate_training_activations,
)
from helpers.weights.shape import read_shape

# A recorded step (helpers.training.step_graph) keeps its memory while one of another shape is computed.
STEPS_AT_ONCE = 2


def pick_checkpointing(
    model: PreTrainedModel,
    settings: TrainingSettings,
    examples: Dataset,
    shares: bool,
    free: int | None = None,
) -> Choice[bool]:
    """Whether to use gradient checkpointing, and why: layers are computed again in the backward pass.

    It saves memory and costs a third of the time. `shares` says whether what the examples begin with is
    computed once, and `free` the bytes of GPU memory beside the model; None measures them.
    """
    if model.device.type == "cpu":
        return Choice(False, "a CPU has more memory than time")
    tokens, longest = count_step_tokens(examples, settings, shares)
    try:
        needed = estimate_step(model, settings, tokens, longest)
    except (KitError, KeyError):
        return Choice(True, "what the layers of this model keep is not known")
    free = measure_memory("cuda").value[0] if free is None else free
    amounts = (
        f"a step of {tokens:,} tokens keeps about {needed / 1e9:.1f} GB, and {free / 1e9:.1f} GB are free"
    )
    return Choice(needed > free, amounts)


def estimate_step(model: PreTrainedModel, settings: TrainingSettings, tokens: int, longest: int) -> int:
    """The bytes of the LoRA, its optimizer, and what steps of this many tokens keep without checkpointing."""
    config: Any = model.config
    shape = read_shape(config.to_dict())
    step = TrainingStep(settings.lora_r, settings.targets, batch=settings.batch_size, length=longest)
    number_bytes = DTYPE_BYTES[name_dtype(cast(Any, model.dtype))]
    kept = estimate_training_activations(shape, number_bytes, tokens, checkpointing=False).bytes
    kept += estimate_layout(shape, number_bytes, step, "cuda", checkpointing=False).bytes
    return STEPS_AT_ONCE * kept + sum(term.bytes for term in estimate_lora(shape, step))


def count_step_tokens(examples: Dataset, settings: TrainingSettings, shares: bool) -> tuple[int, int]:
    """(tokens that a step of the longest rows computes, tokens of the longest row).

    The step is packed if it `shares` the prefix of its rows, or else padded.
    """
    rows = [row[: settings.max_length] for row in examples["input_ids"]]
    longest = heapq.nlargest(settings.batch_size, rows, key=len)
    if not longest:
        return 0, 0
    length = len(longest[0])
    return pack_sequences(longest).count_tokens() if shares else len(longest) * length, length
