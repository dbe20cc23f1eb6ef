"""Training settings: the tutorial's values of 2023, each lane's deviations with their reasons; YAML and the WebUI's files in and out."""

import dataclasses
import difflib
import json
from dataclasses import asdict, dataclass
from pathlib import Path

import yaml

from helpers.adapters.webui_parameters import WEBUI_NAMES, WEBUI_TARGETS, read_webui_parameters
from helpers.common.errors import KitError
from helpers.common.files import replace_when_complete
from helpers.common.paths import find_file


@dataclass(frozen=True)
class TrainingSettings:
    """How a LoRA is trained; the defaults are those of the 2023 tutorial."""

    lora_r: int = 64  # rank: width of the two LoRA matrices
    lora_alpha: int = 16  # the update is scaled by alpha / r
    lora_dropout: float = 0.1  # share of a LoRA layer's inputs that are zeroed while training
    targets: str = "all-linear"  # layers that get a LoRA: all-linear, or names with commas between, such as q_proj,v_proj
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
    checkpoint_steps: int = 0  # optimizer steps between checkpoints; 0 = none
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

    @classmethod
    def from_adapter(cls, folder: str | Path) -> "TrainingSettings":
        """The settings of an existing LoRA, of PEFT or of the WebUI (both eras); what its files do not say keeps its default.

        adapter_config.json has the shapes, training_parameters.json the rest. KitError where the folder holds neither.
        """
        folder, values = Path(folder), {}
        if (folder / "training_parameters.json").is_file():
            values |= read_webui_parameters(
                json.loads((folder / "training_parameters.json").read_text(encoding="utf-8"))
            )
        if (folder / "adapter_config.json").is_file():
            config = json.loads((folder / "adapter_config.json").read_text(encoding="utf-8"))
            targets = config["target_modules"]
            values["targets"] = targets if isinstance(targets, str) else ",".join(sorted(targets))
            values |= {
                "lora_r": config["r"],
                "lora_alpha": config["lora_alpha"],
                "lora_dropout": float(config["lora_dropout"]),
            }
        if not values:
            raise KitError(
                f"{folder} holds no LoRA.",
                "Give a folder with adapter_config.json or training_parameters.json.",
            )
        return cls().replace(values, str(folder))

    def to_webui(self, name: str) -> dict:
        """The content of training_parameters.json, as the WebUI's "Copy parameters from" reads it; `name` is the LoRA's."""
        boxes = {f"{layer}_en": layer in self.targets.split(",") for layer in WEBUI_TARGETS}
        shared = {theirs: getattr(self, ours) for ours, theirs in WEBUI_NAMES.items()}
        total = self.batch_size * self.accumulation
        return {
            "lora_name": name, "all_linear": self.targets == "all-linear", **boxes, **shared,
            "batch_size": total, "learning_rate": str(self.learning_rate), "add_eos_token": True,
        }  # fmt: skip

    def replace(self, values: dict, source: str = "the settings") -> "TrainingSettings":
        """A copy with other values, checked against the type of each field; `source` names them in a KitError."""
        known = {field.name: field.type for field in dataclasses.fields(self)}
        if not isinstance(values, dict):
            raise KitError(f"{source} holds no settings.", "Write lines such as `epochs: 2`.")
        for key, value in values.items():
            if key not in known:
                near = difflib.get_close_matches(key, known, n=1)
                raise KitError(
                    f"{source} has the unknown setting '{key}'.",
                    f"Did you mean {near[0]}?" if near else f"Known: {', '.join(known)}.",
                )
            if isinstance(value, bool) or not isinstance(
                value, (int, float) if known[key] is float else known[key]
            ):
                raise KitError(
                    f"{key} in {source} is {value!r}.", f"Give a value of type {known[key].__name__}."
                )
        return dataclasses.replace(self, **values)

    def to_yaml(self, path: str | Path) -> Path:
        """Writes all settings as YAML, whole or not at all."""
        with replace_when_complete(Path(path)) as fresh:
            fresh.write_text(yaml.safe_dump(asdict(self), sort_keys=False), encoding="utf-8")
        return Path(path)


# What each preset changes, and why; a lane's preset has its name.
SMALL = {  # for the embedded model on a CPU
    "lora_r": (16, "135M weights move with less; fewer numbers to compute on a CPU"),
    "lora_alpha": (32, "alpha / r = 2: a stronger push for the few steps there are"),
    "lora_dropout": (0.0, "a few passes over the rows cannot overfit them much"),
    "batch_size": (8, "the more rows in a batch, the more of them share what is computed"),
    "schedule": ("cosine", "a high rate to learn fast, a low one at the end to settle"),
    "max_grad_norm": (1.0, "0.3 holds back the first steps, of which there are few"),
}


PRESETS: dict[str, dict[str, tuple[object, str]]] = {
    "tutorial-2023": {},
    "tiny": SMALL
    | {
        "epochs": (1, "the budget is 2.5 minutes on two CPU cores"),
        "max_rows": (600, "the same budget; short comments take less computation"),
        "learning_rate": (1.5e-3, "few steps and a small model want larger ones"),
    },
    "tiny-15-minutes": SMALL
    | {
        "epochs": (2.5, "the budget is 15 minutes on two CPU cores; three passes took 18"),
        "learning_rate": (1e-3, "few steps and a small model want larger ones"),
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


def pick_settings(name: str) -> TrainingSettings:
    """The settings of a preset (a lane's name is one), or of a YAML file. KitError names the presets when it is neither."""
    if name not in PRESETS and not name.endswith((".yaml", ".yml")):
        raise KitError(
            f"There are no settings '{name}'.", f"Give a YAML file, or one of: {', '.join(PRESETS)}."
        )
    if name not in PRESETS:
        return TrainingSettings.from_yaml(name)
    return TrainingSettings().replace({key: value for key, (value, _) in PRESETS[name].items()})


def explain_changes(preset: str) -> list[tuple[str, object, object, str]]:
    """(setting, value of 2023, value here, reason) of each setting that the preset changes."""
    return [
        (key, getattr(TrainingSettings(), key), value, reason)
        for key, (value, reason) in PRESETS[preset].items()
    ]
