"""Training settings: the tutorial's values of 2023, and each preset's deviations with their reasons.

They are here, beside the lanes, because the check of a table in helpers.tasks needs them too.
"""

import dataclasses
import difflib
import math
import re
from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self, cast

import yaml

from helpers.common.arguments import (
    LARGEST,
    LARGEST_FLOAT,
    LARGEST_SEED,
    describe_range,
    has_surrogates,
    shorten,
    state_reason,
)
from helpers.common.errors import DamagedError, MissingPackageError, UsageError
from helpers.common.files import read_text
from helpers.common.paths import find_file
from helpers.common.yaml_errors import YAML_ERRORS

# The smallest and the largest value of each setting that is a number; lora_dropout is below its largest.
LIMITS: dict[str, tuple[float, float]] = {
    "lora_r": (1, 16384),  # no layer is wider, so that a higher rank would add nothing
    "lora_alpha": (1, 1_000_000),
    "lora_dropout": (0, 1),
    "epochs": (0.01, 1_000_000),
    "max_rows": (0, LARGEST),
    "batch_size": (1, LARGEST),
    "accumulation": (1, LARGEST),
    "max_length": (1, LARGEST),
    "learning_rate": (1e-9, LARGEST_FLOAT),
    "warmup_ratio": (0, LARGEST),
    "weight_decay": (0, 100),
    "max_grad_norm": (0, LARGEST_FLOAT),
    "checkpoint_steps": (0, LARGEST),
    "seed": (0, LARGEST_SEED),
}

# transformers' schedules that need neither more arguments nor evaluations.
SCHEDULES = (
    "constant", "constant_with_warmup", "linear", "cosine", "cosine_with_restarts", "polynomial",
    "inverse_sqrt",
)  # fmt: skip
TURNS = ("all", "last")
ALL_LINEAR, UPPER_LINEAR = "all-linear", "upper-linear"  # what `targets` may be, besides names of layers
AUTO = "auto"  # what batch_size may say
BATCHES = ("fixed", AUTO)
# Its optimizers that ask for the names of layers, for training without a LoRA.
LAYERED = ("galore", "apollo")


LONGEST = 1000  # pairs in a mapping of a settings file
LONGEST_FILE = 1_000_000  # bytes of a settings file


class SettingsLoader(yaml.SafeLoader):
    """PyYAML's safe loader with the numbers of YAML 1.2: 2e-4 is one, 1:30 is not.

    A key that is there twice is an error, as in YAML 1.2, and not the last one. So are mappings merged into
    one another (<<) that grow beyond what settings can be.
    """

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Hashable, Any]:
        """The mapping as a dict."""
        seen: set[str] = set()
        for key, _ in node.value:
            if key.value in seen:
                raise yaml.constructor.ConstructorError(
                    None, None, f"{key.value} is there twice", key.start_mark
                )
            seen |= {key.value} if isinstance(key.value, str) else set()
        return super().construct_mapping(node, deep)

    def flatten_mapping(self, node: yaml.MappingNode) -> None:
        """Replaces << by the pairs of the merged mappings, as PyYAML does."""
        super().flatten_mapping(node)
        if len(node.value) > LONGEST:
            raise yaml.constructor.ConstructorError(problem="too many keys", problem_mark=node.start_mark)

    def construct_decimal(self, node: Any) -> int:
        """A whole number, whose first digits may be zeros."""
        return int(self.construct_scalar(node))


# YAML 1.2's numbers. YAML 1.1, as PyYAML reads it, takes 1:30 for 90, 010 for 8, and 2e-4 for a text.
INT, FLOAT = "tag:yaml.org,2002:int", "tag:yaml.org,2002:float"
SettingsLoader.yaml_implicit_resolvers = {
    first: [(tag, form) for tag, form in found if tag not in (INT, FLOAT)]
    for first, found in SettingsLoader.yaml_implicit_resolvers.items()
}
SettingsLoader.add_implicit_resolver(INT, re.compile(r"[-+]?[0-9]+$"), list("-+0123456789"))
SettingsLoader.add_implicit_resolver(
    FLOAT,
    re.compile(
        r"[-+]?(?:\.[0-9]+|[0-9]+(?:\.[0-9]*)?)(?:[eE][-+]?[0-9]+)?$"
        r"|[-+]?\.(?:inf|Inf|INF)$|\.(?:nan|NaN|NAN)$"
    ),
    list("-+.0123456789"),
)
SettingsLoader.add_constructor(INT, SettingsLoader.construct_decimal)


def count_lower_blocks(blocks: int, targets: str) -> int:
    """How many blocks, from the first on, get no LoRA: with upper-linear a quarter of them, else none.

    Nothing in them needs a gradient, so that a step skips their backward pass.
    """
    return round(blocks / 4) if targets == UPPER_LINEAR else 0


@dataclass(frozen=True)
class TrainingSettings:
    """How a LoRA is trained; the defaults are those of the 2023 tutorial, except for checkpoint_steps."""

    lora_r: int = 64  # rank: the width of the two LoRA matrices
    lora_alpha: int = 16  # the update is scaled by alpha / r
    lora_dropout: float = 0.1  # share of a LoRA layer's inputs that are zeroed while training
    targets: str = ALL_LINEAR  # layers with a LoRA: all-linear, upper-linear, or names such as q_proj,v_proj
    epochs: float = 5  # passes over the rows
    max_rows: int = 0  # train on this many rows at most, short ones, as many of each label; 0 = all
    batch_size: int = 4  # rows in a forward pass; "auto" is understood as batch = "auto"
    batch: str = "fixed"  # "auto": batch_size is chosen for model, rows and memory, with a learning_rate
    accumulation: int = 1  # batches whose gradients are added up for one optimizer step
    max_length: int = 2048  # tokens of prompt and completion; a longer row is cut
    turns: str = "all"  # of a chat: the assistant's turns that are learned, "all" or the "last"
    learning_rate: float = 2e-4  # highest value of the schedule
    schedule: str = "constant"  # transformers' lr_scheduler_type
    warmup_ratio: float = 0.03  # share of the steps (from 1 on: steps) in which learning_rate is climbed to
    weight_decay: float = 0.001  # AdamW's
    max_grad_norm: float = 0.3  # gradients are scaled down to this norm
    optimizer: str = "adamw_torch_fused"  # transformers' optim; 2023: paged_adamw_32bit (bitsandbytes, CUDA)
    checkpoint_steps: int = 50  # optimizer steps between checkpoints; 0 = none
    seed: int = 0  # of the order of the rows, of dropout and of the LoRA matrices

    def __post_init__(self):
        """Takes the spaces out of `targets`: "q_proj, v_proj" is two names. UsageError for a wrong value."""
        object.__setattr__(self, "targets", ",".join(name.strip() for name in str(self.targets).split(",")))
        if self.batch_size == AUTO:
            object.__setattr__(self, "batch_size", type(self).batch_size)
            object.__setattr__(self, "batch", AUTO)
        for field in dataclasses.fields(self):
            value = getattr(self, field.name)
            if value != field.default:
                check_value(field.name, value, "the settings")

    @classmethod
    def from_yaml(cls, path: str | Path) -> Self:
        """Settings from a YAML file; the others keep their default. UsageError for a wrong key or value."""
        path, remedy = find_file(path, "settings file"), "Write lines such as `epochs: 2`."
        text = read_text(path, remedy, LONGEST_FILE)
        try:
            values = yaml.load(text, Loader=SettingsLoader) or {}
        except YAML_ERRORS as error:
            raise DamagedError(f"{path} is not valid YAML: {state_reason(error)}.", remedy) from None
        return cls().replace(values, str(path))

    def replace(self, values: dict[str, Any], source: str = "the settings") -> Self:
        """A copy with other values, each checked; `source` names where they came from in a UsageError.

        With the batch_size "auto" the copy keeps its number, the one that learning_rate belongs to.
        """
        if not isinstance(values, dict):
            raise UsageError(f"{source} holds no settings.", "Write lines such as `epochs: 2`.")
        values = spell_out_batch(values)
        known = [field.name for field in dataclasses.fields(self)]
        for key, value in values.items():
            if key not in known:
                shown = key if isinstance(key, str) else shorten(key)
                problem = f"{source} has the unknown setting {shorten(shown)}."
                raise UsageError(problem, suggest_name(shown, known))
            check_value(key, value, source)
        return dataclasses.replace(self, **values)

    def take_batch(self, rows: int) -> Self:
        """A copy with `rows` rows in a forward pass, and the learning rate that goes with them.

        The mean gradient of k times as many rows has a k-th of the variance, and Adam divides by the size of
        gradients. So the square root of k keeps the noise of its steps as it was. Source: Malladi et al., "On
        the SDEs and Scaling Rules for Adaptive Gradient Algorithms", 2022. They also let the optimizer forget
        k times as fast (1 - beta 1, 1 - beta 2); that stays as it is here.
        """
        rate = self.learning_rate * math.sqrt(rows / self.batch_size)
        return dataclasses.replace(self, batch_size=rows, learning_rate=rate, batch="fixed")


def spell_out_batch(values: dict[str, Any]) -> dict[str, Any]:
    """The values with `batch` beside `batch_size`: "auto" is a word, and a number ends "auto"."""
    if values.get("batch_size") == AUTO:
        return {key: value for key, value in values.items() if key != "batch_size"} | {"batch": AUTO}
    return {"batch": "fixed", **values} if "batch_size" in values else values


def check_value(key: str, value: object, source: str) -> None:
    """A UsageError unless `value` is one that the setting `key` can have."""
    kind = cast(type, TrainingSettings.__dataclass_fields__[key].type)
    if not has_type(value, kind):
        problem = f"{key} in {source} is {shorten(value)}."
        other = f", or {AUTO}" if key == "batch_size" else ""
        raise UsageError(problem, f"Give a value of type {kind.__name__}{other}.")
    if key in LIMITS:
        check_number(key, cast(float, value), source)
    elif key == "targets":
        if has_surrogates(str(value)) or "\0" in str(value):
            raise UsageError(f"targets in {source} is {shorten(value)}.", "Write names of layers.")
    elif value not in (names := list_names(key)):
        raise UsageError(f"{source} has the unknown {key} {shorten(value)}.", suggest_name(str(value), names))


def check_number(key: str, value: float, source: str) -> None:
    """A UsageError unless the number is within the limits of the setting `key`."""
    smallest, largest = LIMITS[key]
    problem = f"{key} in {source} is {shorten(value)}."
    if key == "lora_dropout" and not 0 <= value < 1:
        raise UsageError(problem, "Give 0 or more and less than 1.")
    if not smallest <= value <= largest:  # NaN is neither
        raise UsageError(problem, f"Give {describe_range(smallest, largest)}.")
    if key == "warmup_ratio" and value > 1 and value != int(value):
        raise UsageError(problem, "Give a share of the steps, below 1, or a whole number of steps.")


def list_names(key: str) -> Sequence[str]:
    """The names that a setting can have: schedules, turns, batches, and transformers' optimizers."""
    if key != "optimizer":
        return {"turns": TURNS, "batch": BATCHES, "schedule": SCHEDULES}[key]
    from transformers.training_args import OptimizerNames

    return [str(name.value) for name in OptimizerNames if not name.value.startswith(LAYERED)]


def suggest_name(name: str, known: Sequence[str]) -> str:
    """The remedy for a name that is not there: the nearest one, or all of them."""
    near = difflib.get_close_matches(name[:100], known, n=1)
    return f"Did you mean {near[0]}?" if near else f"Known: {', '.join(known)}."


def has_type(value: object, wanted: type) -> bool:
    """True if a setting's value has its type; whole numbers count as float, booleans are not numbers."""
    if isinstance(value, bool):
        return False
    return isinstance(value, int | float) if wanted is float else isinstance(value, wanted)


def check_optimizer(settings: TrainingSettings) -> None:
    """A MissingPackageError if the optimizer needs a package that is not installed, by asking transformers.

    It belongs before a training, and not where settings are read: they may be those of another machine.
    """
    if settings.optimizer == TrainingSettings.optimizer:  # torch has it
        return
    names = list_names("optimizer")
    if reason := why_not_usable(settings.optimizer):
        usable = [name for name in names if not why_not_usable(name)]
        near = [*difflib.get_close_matches(settings.optimizer, usable, n=1), TrainingSettings.optimizer][0]
        problem = f"The optimizer {settings.optimizer} cannot be used here: {reason}."
        raise MissingPackageError(problem, f"Do that, or set optimizer to {near}.")


def why_not_usable(optimizer: str) -> str:
    """What transformers says against an optimizer on this machine; empty if it can be used."""
    import torch
    from transformers import Trainer, TrainingArguments

    arguments = TrainingArguments(optim=optimizer, use_cpu=True, report_to="none")
    try:
        Trainer.get_optimizer_cls_and_kwargs(arguments, cast(Any, torch.nn.Linear(1, 1)))
    except (ImportError, ValueError) as error:
        return " ".join(str(error).split()).rstrip(".")
    return ""
