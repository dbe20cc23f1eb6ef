"""What fits the usual GPUs, which this machine need not have: to run a model, and to train a LoRA on it."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from helpers.common.machine import name_dtype, pick_dtype
from helpers.weights.batches import SHARE
from helpers.weights.config import read_dtype, read_quantization
from helpers.weights.memory import estimate_running, estimate_training
from helpers.weights.shape import read_shape
from helpers.weights.terms import DTYPE_BYTES, add_up

AS_STORED = "as stored"
GPTQ = "GPTQ, 4 bits"
GPTQ_CONFIG = {"quant_method": "gptq", "bits": 4, "group_size": 128}
MOST_ROWS = 256  # in a step, for which training is estimated


@dataclass(frozen=True)
class Card:
    """A GPU as its maker names it. The drivers show a little more memory than the name says."""

    name: str
    gigabytes: int
    capability: tuple[int, int]  # bfloat16 begins with 8.0


CARDS = (
    Card("T4", 15, (7, 5)),
    Card("L4", 24, (8, 9)),
    Card("A100 40 GB", 40, (8, 0)),
    Card("A100 80 GB", 80, (8, 0)),
    Card("H100", 80, (9, 0)),
)


@dataclass(frozen=True)
class Fit:
    """What of a model fits a card, with the weights as they are stored or as GPTQ would make them."""

    card: str
    free_bytes: int  # that are counted on: a part stays free for what estimates leave out
    weights: str  # AS_STORED or GPTQ
    dtype: str  # in which is computed
    running_bytes: int
    training_bytes: int  # with gradient checkpointing
    plain_bytes: int  # to train without it
    rows: int  # the most in a training step with checkpointing, a power of two; 0: not even one
    plain_rows: int  # without it

    @property
    def runs(self) -> bool:
        """Whether the model can answer there."""
        return self.running_bytes <= self.free_bytes


def list_fits(config: dict[str, Any], file_bytes: int, context: int, **training: Any) -> list[Fit]:
    """For each card: the weights as stored, and as GPTQ if they are not quantised.

    Parameters and errors are those of estimate_running and estimate_training.
    """
    variants = {AS_STORED: (config, file_bytes)}
    if not read_quantization(config):
        small = {**config, "quantization_config": GPTQ_CONFIG}
        variants[GPTQ] = (small, estimate_gptq_bytes(config, file_bytes))
    return [
        measure_fit(card, weights, *variant, context, training)
        for card in CARDS
        for weights, variant in variants.items()
    ]


def estimate_gptq_bytes(config: dict[str, Any], file_bytes: int) -> int:
    """The bytes of the weights after GPTQ to 4 bits: linear layers in blocks are packed, the rest is float16.

    A group of 128 weights shares a scale of 2 bytes and a zero point of 4 bits.
    """
    shape = read_shape(config)
    parameters = file_bytes // DTYPE_BYTES.get(read_dtype(config), 2)
    packed = shape.layers * sum(inputs * outputs for inputs, outputs in shape.list_linears().values())
    return round(packed * (0.5 + 2.5 / GPTQ_CONFIG["group_size"])) + 2 * max(parameters - packed, 0)


def measure_fit(
    card: Card, weights: str, config: dict[str, Any], file_bytes: int, context: int, training: dict[str, Any]
) -> Fit:
    """The estimates for one card."""
    dtype = name_dtype(pick_dtype("cuda", card.capability).value)
    free = round(SHARE * card.gigabytes * 1e9)

    def train(checkpointing: bool, **changes: Any) -> int:
        given = {**training, "checkpointing": checkpointing, **changes}
        return add_up(estimate_training(config, file_bytes, dtype, "cuda", **given))

    def find_most(checkpointing: bool) -> int:
        fitting = [rows for rows in list_doublings() if train(checkpointing, batch=rows) <= free]
        return max(fitting, default=0)

    return Fit(
        card=card.name,
        free_bytes=free,
        weights=weights,
        dtype=dtype,
        running_bytes=add_up(estimate_running(config, file_bytes, dtype, "cuda", context)),
        training_bytes=train(True),
        plain_bytes=train(False),
        rows=find_most(True),
        plain_rows=find_most(False),
    )


def list_doublings() -> Iterator[int]:
    """1, 2, 4 and so on up to MOST_ROWS."""
    rows = 1
    while rows <= MOST_ROWS:
        yield rows
        rows *= 2
