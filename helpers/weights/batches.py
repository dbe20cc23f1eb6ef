"""How many rows a training step takes where the settings say `batch_size: auto`, and why; and checkpointing.

The rules are pure: what a step needs and what is free are given to them. The training counts the tokens of
its rows, the check of a table those of a sample, and `size` what the command line says.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

from helpers.common.machine import Choice
from helpers.weights.config import read_quantization
from helpers.weights.memory import OVERHEAD_TRAINING, estimate_overhead, estimate_weights
from helpers.weights.shape import read_shape
from helpers.weights.step_memory import TrainingStep, estimate_step
from helpers.weights.terms import add_up

# A batch is at most so many times the one for which the learning rate was chosen. Malladi et al. (2022) scale
# 1 - beta 1 with the batch: from 0.1, Adam's usual value, it reaches 1 with 10 times the rows, and there the
# rule ends.
MOST_TIMES = 8
# Optimizer steps that an epoch has at least: a warm-up of 3% is one of them, and Adam's average of gradients
# spans ten, so that few remain in which the model learns.
LEAST_STEPS = 32
# Of the free memory: the rest is for what estimates leave out, such as one layer's unpacked weights, and for
# gaps between tensors.
SHARE = 0.9
CPU_KEEPS_ALL = Choice(False, "a CPU has more memory than time")  # of judge_checkpointing


@dataclass(frozen=True)
class BatchFacts:
    """What the number of rows follows from."""

    needed: Callable[[int, bool], int]  # bytes of a step of so many rows, with gradient checkpointing or not
    free: int  # bytes beside the model
    device: str  # "cuda", "mps" or "cpu"
    quantised: bool  # weights that every step unpacks, however many rows it has
    meant: int  # rows in a forward pass for which the learning rate was chosen
    accumulation: int = 1  # forward passes in an optimizer step
    rows: int | None = None  # of an epoch; None: unknown


def pick_batch(facts: BatchFacts) -> Choice[int]:
    """The rows of a forward pass, with the reason: the most that memory and rows allow, in doublings.

    A CPU keeps the number that is meant: it is busy with few rows. (Batches of 16 made 14% more rows a
    second than batches of 8, benchmarks/results.md.) So few rows that an epoch has fewer than LEAST_STEPS
    steps do the same. Less than that number is taken only where memory asks for it.
    """
    limit, why = limit_batch(facts)
    for batch in list_halves(limit):
        if needed := find_fitting(facts, batch):
            amounts = f"a step takes about {needed / 1e9:.1f} of {facts.free / 1e9:.1f} GB"
            reason = why if batch == limit else f"{2 * batch} rows would not fit"
            return Choice(batch, f"{reason}; {amounts}")
    return Choice(1, f"even one row may not fit into the {facts.free / 1e9:.1f} GB that are free")


def estimate_batch(
    config: dict[str, Any],
    file_bytes: int,
    dtype: str,
    device: str,
    free: int,
    meant: int = 4,
    accumulation: int = 1,
    rows: int | None = None,
    **step: Any,
) -> Choice[int]:
    """pick_batch for a model that is not in memory: its weights have to fit into `free` bytes too.

    The first four parameters and `step` are those of estimate_training, and so are the errors; the others are
    fields of BatchFacts. It is what a training takes whose rows all have the length of `step`.
    """

    def need(batch: int, checkpointing: bool) -> int:
        return estimate_need(
            config, dtype, device, **{**step, "batch": batch, "checkpointing": checkpointing}
        )

    beside = leave_room(config, file_bytes, dtype, device, free)
    quantised = read_quantization(config) is not None
    return pick_batch(BatchFacts(need, beside, device, quantised, meant, accumulation, rows))


def estimate_checkpointing(
    config: dict[str, Any], file_bytes: int, dtype: str, device: str, free: int, **step: Any
) -> Choice[bool]:
    """judge_checkpointing for a model that is not in memory; parameters and errors are estimate_batch's."""
    needed = estimate_need(config, dtype, device, **{**step, "checkpointing": False})
    beside = leave_room(config, file_bytes, dtype, device, free)
    return judge_checkpointing(device, TrainingStep(**step).tokens, needed, beside)


def estimate_need(config: dict[str, Any], dtype: str, device: str, **step: Any) -> int:
    """The bytes of a training beside the model; `step` takes the fields of TrainingStep."""
    chosen = TrainingStep(**step)
    return add_up(estimate_step(read_shape(config), dtype, chosen, chosen.tokens, device))


def leave_room(config: dict[str, Any], file_bytes: int, dtype: str, device: str, free: int) -> int:
    """What remains of `free` bytes when the model is in memory; 0 if it does not fit."""
    taken = [estimate_weights(config, file_bytes, dtype), estimate_overhead(OVERHEAD_TRAINING, device)]
    return max(free - add_up(taken), 0)


def judge_checkpointing(device: str, tokens: int, needed: int, free: int) -> Choice[bool]:
    """Whether to use gradient checkpointing, and why: layers are computed again in the backward pass.

    It saves memory and costs a third of the time. Without it, a step of `tokens` tokens takes `needed` of the
    `free` bytes beside the model.
    """
    if device == "cpu":
        return CPU_KEEPS_ALL
    amounts = (
        f"a step of {tokens:,} tokens keeps about {needed / 1e9:.1f} GB, and {free / 1e9:.1f} GB are free"
    )
    return Choice(needed > SHARE * free, amounts)


def limit_batch(facts: BatchFacts) -> tuple[int, str]:
    """(most rows of a forward pass whatever the memory, why not more)."""
    if facts.device != "cuda":
        words = "a CPU gains little from more rows at once"
        return facts.meant, words if facts.device == "cpu" else "more rows were not measured on this device"
    batch = facts.meant
    while 2 * batch <= MOST_TIMES * facts.meant:
        if facts.rows is not None and 2 * batch * facts.accumulation * LEAST_STEPS > facts.rows:
            words = f"of {facts.rows:,} rows, twice as many a step would leave fewer than {LEAST_STEPS} steps"
            return batch, f"{words} in an epoch"
        batch *= 2
    return batch, f"{MOST_TIMES} times the {facts.meant} rows that the learning rate was chosen for"


def list_halves(number: int) -> Iterator[int]:
    """The number, half of it, and so on down to 1."""
    while number >= 1:
        yield number
        number //= 2


def find_fitting(facts: BatchFacts, batch: int) -> int | None:
    """The bytes of a step of so many rows if it fits, as it will be computed; None if it does not.

    Gradient checkpointing makes room for more rows, and costs a third of the time. More rows than are meant
    are worth that only where every step unpacks the weights again.
    """
    room = SHARE * facts.free
    if (needed := facts.needed(batch, False)) <= room:
        return needed
    if facts.device != "cuda" or not (facts.quantised or batch <= facts.meant):
        return None
    needed = facts.needed(batch, True)
    return needed if needed <= room else None
