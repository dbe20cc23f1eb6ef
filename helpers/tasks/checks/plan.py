"""The settings of a training on which its time, its memory and its cut rows depend.

helpers.training has all settings; these are the numbers that `check` needs, under the same names.
"""

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import yaml

from helpers.common.errors import DamagedError, UsageError
from helpers.common.paths import find_file


@dataclass(frozen=True)
class Plan:
    """How a LoRA will be trained. The defaults are those of training.TrainingSettings."""

    epochs: float = 5.0
    max_rows: int = 0
    batch_size: int = 4
    max_length: int = 2048
    turns: str = "all"
    lora_r: int = 64
    targets: str = "all-linear"
    optimizer: str = "adamw_torch_fused"
    seed: int = 0

    @classmethod
    def read(cls, values: "Plan | Mapping[str, Any]", source: str = "the settings") -> "Plan":
        """The plan in the settings of a training, the others left aside; UsageError for a wrong value.

        A plan stays what it is.
        """
        if isinstance(values, Plan):
            return values
        types = {field.name: type(field.default) for field in dataclasses.fields(cls)}
        known = {name: values[name] for name in types if values.get(name) is not None}
        for name, value in known.items():
            wanted = types[name]
            right = isinstance(value, int | float) if wanted is float else isinstance(value, wanted)
            if not right or isinstance(value, bool):
                raise UsageError(
                    f"{name} in {source} is {value!r}.", f"Give a value of type {wanted.__name__}."
                )
            if wanted in (int, float) and not (value > 0 or (value == 0 and name in ("max_rows", "seed"))):
                raise UsageError(f"{name} in {source} is {value}.", "Give a number above 0.")
        return cls(**known)


SMALL = Plan(lora_r=16, batch_size=8)
PLANS = {  # of the presets of helpers.training; a lane's preset has the lane's name
    "tutorial-2023": Plan(),
    "tiny": dataclasses.replace(SMALL, epochs=1, max_rows=600),
    "tiny-15-minutes": dataclasses.replace(SMALL, epochs=2.5),
    "t4": Plan(epochs=1, batch_size=2),
    "large": Plan(epochs=2),
}


def pick_plan(name: str) -> Plan:
    """The plan of a preset or a YAML file; UsageError if it is neither."""
    if name in PLANS:
        return PLANS[name]
    if not name.endswith((".yaml", ".yml")):
        raise UsageError(f"'{name}' is not a preset.", f"Give a YAML file, or one of: {', '.join(PLANS)}.")
    path = find_file(name, "settings file")
    try:
        values = yaml.safe_load(path.read_text(encoding="utf-8")) or {}
    except (yaml.YAMLError, UnicodeDecodeError):
        raise DamagedError(f"{path} is not valid YAML.", "Write lines such as `epochs: 2`.") from None
    if not isinstance(values, dict):
        raise UsageError(f"{path} holds no settings.", "Write lines such as `epochs: 2`.")
    return Plan.read(values, str(path))
