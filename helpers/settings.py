"""Training settings: the tutorial's values of 2023, each lane's deviations with their reasons, and YAML in and out."""

import dataclasses
import difflib
from dataclasses import asdict, dataclass
from pathlib import Path

import yaml

from helpers import KitError, find_file, replace_when_complete


@dataclass(frozen=True)
class TrainingSettings:
    """How a LoRA is trained; the defaults are those of the 2023 tutorial."""

    lora_r: int = 64  # rank: width of the two LoRA matrices
    lora_alpha: int = 16  # the update is scaled by alpha / r
    lora_dropout: float = 0.1  # share of a LoRA layer's inputs that are zeroed while training
    epochs: float = 5  # passes over the rows
    max_rows: int = 0  # train on this many rows at most, short ones, as many of each label; 0 = all
    batch_size: int = 4  # rows a step
    accumulation: int = 1  # batches whose gradients are added up for one optimizer step
    max_length: int = 2048  # tokens of prompt and completion; a longer row is cut
    learning_rate: float = 2e-4  # highest value of the schedule
    schedule: str = "constant"  # transformers' lr_scheduler_type
    warmup_ratio: float = 0.03  # share of the steps in which the learning rate climbs from 0
    weight_decay: float = 0.001  # AdamW's
    max_grad_norm: float = 0.3  # gradients are scaled down to this norm
    optimizer: str = "adamw_torch_fused"  # transformers' optim; 2023 had paged_adamw_32bit, which needs CUDA and bitsandbytes
    seed: int = 0  # of the order of the rows, of dropout and of the LoRA matrices

    @classmethod
    def from_yaml(cls, path: str | Path) -> "TrainingSettings":
        """Settings from a YAML file: what it does not name keeps its default. KitError for a wrong key, with the nearest right one."""
        path = find_file(path, "settings file")
        try:
            values = yaml.safe_load(path.read_text(encoding="utf-8")) or {}
        except yaml.YAMLError as error:
            raise KitError(f"{path} is no YAML: {error}", "Write lines such as `epochs: 2`.") from None
        return cls().replace(values, str(path))

    def replace(self, values: dict, source: str = "the settings") -> "TrainingSettings":
        """A copy with other values, checked against the type of each field; `source` names them in a KitError."""
        known = {field.name: field.type for field in dataclasses.fields(self)}
        if not isinstance(values, dict):
            raise KitError(f"{source} holds no settings.", "Write lines such as `epochs: 2`.")
        for key, value in values.items():
            if key not in known:
                near = difflib.get_close_matches(key, known, n=1)
                raise KitError(f"{source} has the unknown setting '{key}'.", f"Did you mean {near[0]}?" if near else f"Known: {', '.join(known)}.")
            if isinstance(value, bool) or not isinstance(value, (int, float) if known[key] is float else known[key]):
                raise KitError(f"{key} in {source} is {value!r}.", f"Give a value of type {known[key].__name__}.")
        return dataclasses.replace(self, **values)

    def to_yaml(self, path: str | Path) -> Path:
        """Writes all settings as YAML, whole or not at all."""
        with replace_when_complete(Path(path)) as fresh:
            fresh.write_text(yaml.safe_dump(asdict(self), sort_keys=False), encoding="utf-8")
        return Path(path)


# What each lane changes, and why. The budget of the tiny lane is 2.5 minutes of training on two CPU cores.
LANE_CHANGES: dict[str, dict[str, tuple[object, str]]] = {
    "tiny": {
        "lora_r": (16, "135M weights move with less; fewer numbers to compute on a CPU"),
        "lora_alpha": (32, "alpha / r = 2: a stronger push for the few steps there are"),
        "lora_dropout": (0.0, "one pass over the rows cannot overfit them much"),
        "epochs": (1, "the budget is 2.5 minutes on two CPU cores"),
        "max_rows": (340, "the same budget; short comments take less computation"),
        "learning_rate": (1.5e-3, "few steps and a small model want larger ones"),
        "schedule": ("cosine", "a high rate to learn fast, a low one at the end to settle"),
        "max_grad_norm": (1.0, "0.3 holds back the first steps, of which there are few"),
    },
    "t4": {
        "batch_size": (2, "15 GB hold the 7B weights and the activations of two rows"),
        "accumulation": (2, "with the batch of 2 it gives the tutorial's 4 rows a step"),
        "epochs": (1, "an hour of a free GPU is not taken for granted"),
    },
    "large": {
        "epochs": (2, "a 70B model learns the task sooner than a 7B one"),
    },
}


def pick_settings(lane: str) -> TrainingSettings:
    """The tutorial's settings with the lane's changes."""
    return TrainingSettings().replace({name: value for name, (value, _) in LANE_CHANGES[lane].items()})


def explain_changes(lane: str) -> list[tuple[str, object, object, str]]:
    """(setting, value of 2023, value here, reason) of each setting that the lane changes."""
    return [(name, getattr(TrainingSettings(), name), value, reason) for name, (value, reason) in LANE_CHANGES[lane].items()]
