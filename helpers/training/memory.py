"""What a training step keeps in memory: how many rows fit, and whether layers must be computed again."""

import dataclasses
import heapq
import os
from typing import Any, cast

from datasets import Dataset
from transformers import PreTrainedModel

from helpers.common.errors import KitError
from helpers.common.machine import Choice, measure_memory, name_dtype
from helpers.common.training_settings import AUTO, TrainingSettings
from helpers.training.packing import pack_sequences
from helpers.weights.batches import CPU_KEEPS_ALL, BatchFacts, judge_checkpointing, pick_batch
from helpers.weights.shape import read_shape
from helpers.weights.step_memory import OPTIMIZER_BYTES, TrainingStep, estimate_step
from helpers.weights.terms import add_up


def pick_checkpointing(
    model: PreTrainedModel,
    settings: TrainingSettings,
    examples: Dataset,
    shares: bool,
    free: int | None = None,
    device: str | None = None,
) -> Choice[bool]:
    """judge_checkpointing for this model and the longest of these rows.

    `shares` says whether what the examples begin with is computed once. `free`, the bytes beside the model,
    and `device` are measured if they are None.
    """
    device = device or model.device.type
    if device == "cpu":
        return CPU_KEEPS_ALL
    tokens, longest = count_step_tokens(examples, settings, shares)
    try:
        needed = estimate_needed(model, settings, tokens, longest, device, checkpointing=False, shares=shares)
    except (KitError, KeyError):
        return Choice(True, "what the layers of this model keep is not known")
    free = measure_memory(device).value[0] if free is None else free
    return judge_checkpointing(device, tokens, needed, free)


def settle_batch(
    model: PreTrainedModel,
    settings: TrainingSettings,
    examples: Dataset,
    shares: bool = True,
    device: str | None = None,
    free: int | None = None,
) -> Choice[TrainingSettings]:
    """The settings with a number of rows for batch_size `auto`, and why; others as they are.

    The learning rate follows (TrainingSettings.take_batch). `device` and `free`, the bytes beside the model,
    are measured if they are None. Of several processes each keeps the number in the settings.
    """
    if settings.batch != AUTO:
        return Choice(settings, "the settings say so")
    device = device or model.device.type
    if int(os.environ.get("WORLD_SIZE", "1")) > 1:
        words = "each of several processes takes the rows that the settings name"
        return Choice(settings.take_batch(settings.batch_size), words)
    try:
        chosen = pick_batch(state_facts(model, settings, examples, shares, device, free))
    except (KitError, KeyError):
        words = "what the layers of this model keep is not known, so that the number in the settings is taken"
        return Choice(settings.take_batch(settings.batch_size), words)
    return Choice(settings.take_batch(chosen.value), chosen.reason)


def state_facts(
    model: PreTrainedModel,
    settings: TrainingSettings,
    examples: Dataset,
    shares: bool,
    device: str,
    free: int | None,
) -> BatchFacts:
    """What the number of rows follows from, for this model and these rows."""

    def need(batch: int, checkpointing: bool) -> int:
        tried = dataclasses.replace(settings, batch_size=batch)
        tokens, longest = count_step_tokens(examples, tried, shares)
        return estimate_needed(model, tried, tokens, longest, device, checkpointing, shares)

    return BatchFacts(
        needed=need,
        free=measure_memory(device).value[0] if free is None else free,
        device=device,
        quantised=bool(getattr(model.config, "quantization_config", None)),
        meant=settings.batch_size,
        accumulation=settings.accumulation,
        rows=len(examples),
    )


def estimate_needed(
    model: PreTrainedModel,
    settings: TrainingSettings,
    tokens: int,
    longest: int,
    device: str,
    checkpointing: bool,
    shares: bool,
) -> int:
    """The bytes of the LoRA, its optimizer, and what steps of this many tokens keep.

    Only packed steps, whose rows share what they begin with, are recorded as CUDA graphs.
    """
    config: Any = model.config
    step = TrainingStep(
        r=settings.lora_r,
        targets=settings.targets,
        optimizer=settings.optimizer if settings.optimizer in OPTIMIZER_BYTES else TrainingStep.optimizer,
        batch=settings.batch_size,
        length=longest,
        checkpointing=checkpointing,
        recorded=None if shares else False,
    )
    dtype = name_dtype(cast(Any, model.dtype))
    return add_up(estimate_step(read_shape(config.to_dict()), dtype, step, tokens, device))


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
