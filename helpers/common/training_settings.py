"""Training settings: the tutorial's values of 2023, and each preset's deviations with their reasons.

They are here, beside the lanes, because the check of a table in helpers.tasks needs them too.
"""

import dataclasses
import difflib
import math
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import yaml

from helpers.common.errors import DamagedError, NotFoundError, UsageError
from helpers.common.paths import find_file

# The smallest value that each of these settings can have.
SMALLEST: dict[str, float] = {
    "lora_r": 1, "lora_alpha": 1, "lora_dropout": 0, "epochs": 0.01, "max_rows": 0, "batch_size": 1,
    "accumulation": 1, "max_length": 1, "learning_rate": 1e-9, "warmup_ratio": 0, "weight_decay": 0,
    "max_grad_norm": 0, "checkpoint_steps": 0,
}  # fmt: skip


class SettingsLoader(yaml.SafeLoader):
    """PyYAML's safe loader, for which 2e-4 is a number, as in YAML 1.2: it takes only 2.0e-4 for one."""


SettingsLoader.add_implicit_resolver(
    "tag:yaml.org,2002:float", re.compile(r"[-+]?\d+[eE][-+]?\d+$"), list("-+0123456789")
)


@dataclass(frozen=True)
class TrainingSettings:
    """How a LoRA is trained; the defaults are those of the 2023 tutorial, except for checkpoint_steps."""

    lora_r: int = 64  # rank: the width of the two LoRA matrices
    lora_alpha: int = 16  # the update is scaled by alpha / r
    lora_dropout: float = 0.1  # share of a LoRA layer's inputs that are zeroed while training
    targets: str = "all-linear"  # layers that get a LoRA: all-linear, or names such as q_proj,v_proj
    epochs: float = 5  # passes over the rows
    max_rows: int = 0  # train on this many rows at most, short ones, as many of each label; 0 = all
    batch_size: int = 4  # rows in a forward pass
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
        """Takes the spaces out of `targets`: "q_proj, v_proj" is two names."""
        object.__setattr__(self, "targets", ",".join(name.strip() for name in str(self.targets).split(",")))

    @classmethod
    def from_yaml(cls, path: str | Path) -> Self:
        """Settings from a YAML file; the others keep their default. UsageError for a wrong key or value."""
        path = find_file(path, "settings file")
        try:
            values = yaml.load(path.read_text(encoding="utf-8"), Loader=SettingsLoader) or {}
        except (yaml.YAMLError, UnicodeDecodeError) as error:
            raise DamagedError(
                f"{path} is not valid YAML: {error}", "Write lines such as `epochs: 2`."
            ) from None
        return cls().replace(values, str(path))

    def replace(self, values: dict[str, Any], source: str = "the settings") -> Self:
        """A copy with other values, each checked; `source` names where they came from in a UsageError."""
        if not isinstance(values, dict):
            raise UsageError(f"{source} holds no settings.", "Write lines such as `epochs: 2`.")
        types = {field.name: field.type for field in dataclasses.fields(self)}
        for key, value in values.items():
            if key not in types:
                near = difflib.get_close_matches(str(key), types, n=1)
                remedy = f"Did you mean {near[0]}?" if near else f"Known: {', '.join(types)}."
                raise UsageError(f"{source} has the unknown setting '{key}'.", remedy)
            if not has_type(value, types[key]):
                wanted = getattr(types[key], "__name__", types[key])
                remedy = f"Give a value of type {wanted}."
                raise UsageError(f"{key} in {source} is {value!r}.", remedy)
            if key in ("optimizer", "schedule", "turns"):
                check_name(key, value, source)
            if key in SMALLEST and not SMALLEST[key] <= value < math.inf:  # NaN is neither
                raise UsageError(f"{key} in {source} is {value}.", f"Give {SMALLEST[key]} or more.")
        return dataclasses.replace(self, **values)


def check_name(key: str, value: str, source: str) -> None:
    """A UsageError unless a setting that is a name has one of the names that it can have."""
    known = list_names(key)
    if value not in known:
        near = difflib.get_close_matches(value, known, n=1)
        remedy = f"Did you mean {near[0]}?" if near else f"Known: {', '.join(known)}."
        raise UsageError(f"{source} has the unknown {key} '{value}'.", remedy)


def list_names(key: str) -> list[str]:
    """The names that a setting can have: transformers' optimizers and schedules, and which turns."""
    from transformers.trainer_utils import SchedulerType
    from transformers.training_args import OptimizerNames

    if key == "turns":
        return ["all", "last"]
    return [str(name.value) for name in (OptimizerNames if key == "optimizer" else SchedulerType)]


def has_type(value: object, wanted: object) -> bool:
    """True if a setting's value has its type; whole numbers count as float, booleans are not numbers."""
    if isinstance(value, bool):
        return False
    if wanted is float:
        return isinstance(value, int | float)
    return isinstance(wanted, type) and isinstance(value, wanted)


# Each preset: {setting: (value, why it differs from 2023)}. A lane's preset has the lane's name.
Changes = dict[str, tuple[object, str]]
SMALL: Changes = {  # for the embedded model on a CPU
    "lora_r": (16, "a model of 135M weights needs a lower rank, which is also faster on a CPU"),
    "lora_alpha": (32, "alpha / r = 2: a stronger push for the few steps there are"),
    "lora_dropout": (0.0, "a few passes over the rows cannot overfit them much"),
    "batch_size": (8, "the more rows in a batch, the more of them share what is computed"),
    "schedule": ("cosine", "a high rate to learn fast, a low one at the end to settle"),
    "max_grad_norm": (1.0, "0.3 holds back the first steps, of which there are few"),
}
PRESETS: dict[str, Changes] = {
    "tutorial-2023": {},
    "tiny": SMALL
    | {
        "epochs": (1, "the budget is 2.5 minutes on two CPU cores"),
        "max_rows": (600, "the same budget; short comments take less computation"),
        "learning_rate": (1.5e-3, "few steps and a small model need a higher rate"),
    },
    "tiny-15-minutes": SMALL
    | {
        "epochs": (2.5, "the budget is 15 minutes on two CPU cores; three passes took 18"),
        "learning_rate": (1e-3, "few steps and a small model need a higher rate"),
    },
    "t4": {
        "batch_size": (2, "15 GB hold the 7B weights and the activations of two rows"),
        "accumulation": (2, "with the batch of 2 it gives the tutorial's 4 rows a step"),
        "epochs": (1, "one pass, because a free GPU may not last an hour"),
    },
    "large": {
        "epochs": (2, "a 70B model learns the task sooner than a 7B one"),
    },
}


def pick_settings(name: str) -> TrainingSettings:
    """The settings of a preset (a lane's name is one) or a YAML file; NotFoundError if neither."""
    if name in PRESETS:
        return TrainingSettings().replace({key: value for key, (value, _) in PRESETS[name].items()})
    if not name.endswith((".yaml", ".yml")):
        remedy = f"Give a YAML file, or one of: {', '.join(PRESETS)}."
        raise NotFoundError(f"'{name}' is not a preset.", remedy)
    return TrainingSettings.from_yaml(name)


def explain_changes(preset: str) -> list[tuple[str, object, object, str]]:
    """(setting, value of 2023, value here, reason) of each setting that the preset changes."""
    before = TrainingSettings()
    changes = PRESETS[preset].items()
    return [(key, getattr(before, key), value, reason) for key, (value, reason) in changes]
