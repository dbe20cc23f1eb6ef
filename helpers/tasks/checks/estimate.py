"""How long a training will take on this machine, and how much memory: an estimate before anything is loaded.

The time is the arithmetic of the training divided by the speed of this machine. A token takes two operations
for each weight forward and two backward, and two more for each weight of the LoRA. Where memory asks for
gradient checkpointing, the forward pass is computed again. The head is computed for learned tokens only. The
speed is that of matrices of the model's sizes, measured for a moment, times EFFICIENCY: what remains of it in
a training. On a GPU, every step takes a time of its own.
"""

import math
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from helpers.common.errors import KitError
from helpers.common.machine import Choice, measure_memory, name_dtype, pick_device, pick_dtype
from helpers.common.training_settings import AUTO, TrainingSettings
from helpers.tasks.checks.lengths import TokenizedRows, find_p95
from helpers.weights.batches import estimate_batch, estimate_checkpointing
from helpers.weights.folders import ModelFolder
from helpers.weights.memory import estimate_training
from helpers.weights.shape import Shape, get_text_part, read_number
from helpers.weights.sizes import build_facts, explain_unknown_shape
from helpers.weights.step_memory import count_lora_parameters, count_upper_layers
from helpers.weights.terms import Term, add_up

# "cpu": measured with trainings of SmolLM2-135M-Instruct in bfloat16 on two cores: 0.39 to 0.46 for rows of
# 25 to 400 tokens in batches of 4 and 8. "cuda": what the steps in benchmarks/results.md come to (1.1 billion
# parameters, H100).
# "mps": not measured. STEP_SECONDS of "cuda" is from before steps became CUDA graphs. Those without
# checkpointing may take less, which was not measured.
EFFICIENCY = {"cpu": 0.4, "cuda": 0.4, "mps": 0.4}
STEP_SECONDS = {"cpu": 0.0, "cuda": 0.36, "mps": 0.36}  # whatever is in the step
MEASURED_SECONDS = 0.5


@dataclass(frozen=True)
class Estimate:
    """An estimate of a training; None where it cannot be known, with the reason."""

    minutes: float | None = None
    memory_bytes: int | None = None
    free_bytes: int | None = None
    rows: int = 0  # rows that are trained on
    steps: int = 0
    tokens: int = 0  # that are computed: what the rows of a batch share counts once
    speed: float | None = None  # operations a second of this machine, as measured
    terms: list[Term] = field(default_factory=list)  # of the memory
    reason: str = ""  # why something is not known
    batch_reason: str = ""  # the rows of a batch and why, if the settings leave that to the kit


def estimate_run(
    folder: ModelFolder, sample: TokenizedRows, rows: int, settings: TrainingSettings
) -> Estimate:
    """The estimate of a training on `rows` rows, some of which are the sample."""
    if folder.gguf:
        return Estimate(rows=rows, reason="llama.cpp's GGUF files are not trained; take a safetensors model")
    lengths = [min(len(one.ids), settings.max_length) for one in sample.sequences]
    shared = min(sample.shared, min(lengths))
    reason = ""
    if settings.batch == AUTO:
        settings, reason = settle_batch(folder, lengths, shared, rows, settings)
    batch = min(settings.batch_size, rows)
    steps = max(round(math.ceil(rows / batch) * settings.epochs), 1)
    own = sum(lengths) / len(lengths) - shared
    tokens = round(steps * (shared + batch * own))
    try:
        with explain_unknown_shape(folder.name):
            checkpointing, terms = estimate_memory(folder, lengths, shared, batch, settings)
            learned = steps * batch * sum(sum(one.mask) for one in sample.sequences) / len(lengths)
            operations = count_operations(folder, settings, tokens, learned, checkpointing)
    except KitError as error:
        return Estimate(rows=rows, steps=steps, tokens=tokens, reason=str(error))
    device = pick_device().value
    speed = measure_speed(folder.shape, min(tokens // steps, 2048))
    return Estimate(
        minutes=(steps * STEP_SECONDS[device] + operations / (speed * EFFICIENCY[device])) / 60,
        memory_bytes=add_up(terms),
        free_bytes=measure_memory(device).value[0],
        rows=rows,
        steps=steps,
        tokens=tokens,
        speed=speed,
        terms=terms,
        batch_reason=reason and f"batch_size {batch}: {reason}",
    )


def settle_batch(
    folder: ModelFolder, lengths: Sequence[int], shared: int, rows: int, settings: TrainingSettings
) -> Choice[TrainingSettings]:
    """The settings with the number of rows that a training would take for `auto`, and why."""
    try:
        with explain_unknown_shape(folder.name):
            chosen = estimate_batch(
                *describe_model(folder), measure_memory(pick_device().value).value[0], settings.batch_size,
                settings.accumulation, rows, **describe_step(lengths, shared, settings),
            )  # fmt: skip
    except KitError as error:
        return Choice(settings.take_batch(settings.batch_size), error.problem)
    return Choice(settings.take_batch(chosen.value), chosen.reason)


def estimate_memory(
    folder: ModelFolder, lengths: Sequence[int], shared: int, batch: int, settings: TrainingSettings
) -> tuple[bool, list[Term]]:
    """(whether the training will checkpoint gradients, the memory of a step of `batch` rows)."""
    model = describe_model(folder)
    step = {**describe_step(lengths, shared, settings), "batch": batch}
    free = measure_memory(pick_device().value).value[0]
    checkpointing = estimate_checkpointing(*model, free, **step).value
    return checkpointing, estimate_training(*model, **step, checkpointing=checkpointing)


def describe_model(folder: ModelFolder) -> tuple[dict[str, Any], int, str, str]:
    """What estimates are given of a model first: config, bytes of the weights, dtype and device here."""
    device = pick_device().value
    facts = build_facts(folder.config, folder.quantization, folder.disk_bytes, folder.weight_bytes)
    return facts.config, facts.weight_bytes, name_dtype(pick_dtype(device).value), device


def describe_step(lengths: Sequence[int], shared: int, settings: TrainingSettings) -> dict[str, Any]:
    """What estimates are given of a step whose rows are as long as the 95% of all rows are at most."""
    return {
        "r": settings.lora_r,
        "targets": settings.targets,
        "optimizer": settings.optimizer,
        "length": find_p95(lengths),
        "shared": shared,
    }


def count_operations(
    folder: ModelFolder, settings: TrainingSettings, tokens: int, learned: float, checkpointing: bool
) -> float:
    """Multiplications and additions of a training on so many tokens, some of which are learned."""
    shape = folder.shape
    passes = 6 if checkpointing else 4  # two of them forward, which all layers do
    in_a_layer = sum(inputs * outputs for inputs, outputs in shape.list_linears().values())
    back = count_upper_layers(shape, settings.targets)
    linears = in_a_layer * (2 * shape.layers + (passes - 2) * back)
    lora = count_lora_parameters(shape, settings.lora_r, settings.targets)
    head = shape.hidden * (read_number(get_text_part(folder.config), "vocab_size") or 0)
    return tokens * (linears + (passes + 2) * lora) + 4 * learned * head


def measure_speed(shape: Shape, tokens: int) -> float:
    """Operations a second in products of the sizes that a training step has, on the device that it uses."""
    import torch

    device = pick_device().value
    options = {"device": device, "dtype": pick_dtype(device).value}
    row = torch.randn(max(tokens, 1), shape.hidden, **options)
    weights = torch.randn(shape.hidden, shape.intermediate, **options)
    result = row @ weights  # written to again and again: new memory would cost time
    count, start = 0, time.perf_counter()
    while (spent := time.perf_counter() - start) < MEASURED_SECONDS:
        torch.mm(row, weights, out=result)
        if device != "cpu":
            torch.accelerator.synchronize()
        count += 1
    return 2 * row.numel() * shape.intermediate * count / spent
