"""training_parameters.json, where the WebUI's training tab keeps its settings, in 2023 and today.

Settings have the names of helpers.common.training_settings here; a setting that nobody recorded is left out.
"""

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from helpers.adapters.folders import AdapterFolder
from helpers.common.errors import DamagedError, NotFoundError
from helpers.common.training_settings import ALL_LINEAR, UPPER_LINEAR, TrainingSettings

WEBUI_NAMES = {  # our name: the name in training_parameters.json
    "lora_r": "lora_rank",
    "lora_alpha": "lora_alpha",
    "lora_dropout": "lora_dropout",
    "batch_size": "micro_batch_size",
    "epochs": "epochs",
    "max_length": "cutoff_len",
    "learning_rate": "learning_rate",
    "schedule": "lr_scheduler_type",
    "optimizer": "optimizer",
}
# The WebUI's check boxes: q_proj_en ...
WEBUI_TARGETS = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")


def read_parameters(parameters: Mapping[str, Any]) -> dict[str, Any]:
    """Settings by our names, from the content of training_parameters.json."""
    settings = {ours: parameters[theirs] for ours, theirs in WEBUI_NAMES.items() if theirs in parameters}
    for name in {"learning_rate", "lora_dropout"} & settings.keys():
        settings[name] = float(settings[name])  # the WebUI keeps the learning rate as text
    if "batch_size" in settings and "batch_size" in parameters:  # theirs is that of a whole step
        settings["accumulation"] = max(parameters["batch_size"] // settings["batch_size"], 1)
    if "warmup_steps" in parameters:  # in batches
        settings["warmup_ratio"] = math.ceil(parameters["warmup_steps"] / settings.get("accumulation", 1))
    boxes = [layer for layer in WEBUI_TARGETS if f"{layer}_en" in parameters]
    if boxes and not parameters.get("all_linear"):
        settings["targets"] = ",".join(sorted(layer for layer in boxes if parameters[f"{layer}_en"]))
    return settings


def build_parameters(
    name: str, settings: Mapping[str, Any], add_eos_token: bool | None = None, steps: int | None = None
) -> dict[str, Any]:
    """The content of training_parameters.json for the LoRA `name`, as "Copy parameters from" reads it.

    `steps` are the optimizer steps of the whole training; a warm-up that is a share of them needs it.
    """
    parameters: dict[str, Any] = {"lora_name": name}
    if "targets" in settings:
        parameters["all_linear"] = settings["targets"] in (
            ALL_LINEAR,
            UPPER_LINEAR,
        )  # it has no box for the upper ones
        chosen = settings["targets"].split(",")
        parameters |= {f"{layer}_en": layer in chosen for layer in WEBUI_TARGETS}
    parameters |= {theirs: settings[ours] for ours, theirs in WEBUI_NAMES.items() if ours in settings}
    if "batch_size" in settings:
        parameters["batch_size"] = settings["batch_size"] * settings.get("accumulation", 1)
    warmup = count_warmup_steps(settings.get("warmup_ratio"), steps)
    if warmup is not None:
        parameters["warmup_steps"] = warmup * settings.get("accumulation", 1)  # in batches
    if "learning_rate" in settings:
        parameters["learning_rate"] = str(settings["learning_rate"])
    if add_eos_token is not None:
        parameters["add_eos_token"] = add_eos_token
    return parameters


def count_warmup_steps(ratio: float | None, steps: int | None) -> int | None:
    """The optimizer steps of a warm-up: `ratio` of all `steps`, from 1 on `ratio` itself; None if unknown."""
    if ratio is None or (0 < ratio < 1 and not steps):
        return None
    return int(ratio) if ratio >= 1 else math.ceil(ratio * (steps or 0))


def copy_settings(folder: str | Path) -> TrainingSettings:
    """The settings of a LoRA of PEFT or the WebUI (both eras); unrecorded ones keep their default.

    adapter_config.json has the shapes, training_parameters.json the rest; NotFoundError without both.
    """
    values = read_recorded_settings(AdapterFolder(Path(folder)))
    if not values:
        remedy = "Give a folder with adapter_config.json or training_parameters.json."
        raise NotFoundError(f"{folder} holds no LoRA.", remedy)
    return TrainingSettings().replace(values, str(folder))


def read_recorded_settings(folder: AdapterFolder) -> dict[str, Any]:
    """What a LoRA's own files say about its training, by our names."""
    try:
        settings = read_parameters(folder.parameters)
    except (TypeError, ValueError, ArithmeticError) as error:
        problem = f"{folder.path / 'training_parameters.json'} has a setting that is not a number ({error})."
        raise DamagedError(problem, "Correct it, or delete the file.") from None
    if (folder.path / "adapter_config.json").is_file():
        config = folder.config
        targets = folder.targets
        settings["targets"] = targets if isinstance(targets, str) else ",".join(targets)
        settings["lora_r"] = config["r"]
        settings["lora_alpha"] = config["lora_alpha"]
        settings["lora_dropout"] = float(config["lora_dropout"])
    return settings
