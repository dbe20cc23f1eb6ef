"""LoRA folders below loras/: find and list them, read their config, hold their base against a model. Nothing here needs torch.

An adapter is a folder as PEFT writes it: adapter_config.json and adapter_model.safetensors (until 2023: adapter_model.bin).
"""

import json
import zipfile
from dataclasses import dataclass
from pathlib import Path

from safetensors import SafetensorError

from helpers.adapters.tensors import find_weights, pair_factors, read_shapes
from helpers.common.errors import KitError
from helpers.common.paths import find_home, resolve_inside
from helpers.weights.config import read_shape
from helpers.weights.folders import models_folder

pass

AGAIN = "Delete the folder and train it again."


@dataclass(frozen=True)
class LoraFacts:
    """What `adapters list` shows of a folder; what is not recorded is None."""

    name: str
    base: str | None = None  # its folder's name
    rank: int | None = None
    targets: str | None = None  # names of layers
    bytes: int = 0  # of the weights' file
    data: str | None = None  # what it was trained on
    accuracy: float | None = None  # share between 0 and 1, of its run.json
    problem: str | None = None  # why it cannot be attached, in words


def loras_folder() -> Path:
    """Where adapter folders lie: loras/ below the kit's home."""
    return find_home() / "loras"


def list_adapters(base: Path | None = None) -> list[str]:
    """Names of the folders below loras/ that hold an adapter_config.json, sorted."""
    base = base or loras_folder()
    return sorted(
        path.parent.name
        for path in base.glob("*/adapter_config.json")
        if not path.parent.name.startswith(".")
    )


def list_folders(base: Path | None = None) -> list[str]:
    """Names of all folders below loras/, also of those that hold no complete adapter, sorted; hidden ones left out."""
    base = base or loras_folder()
    return sorted(path.name for path in base.glob("*") if path.is_dir() and not path.name.startswith("."))


def find_adapter(name: str, base: Path | None = None) -> Path:
    """The folder of a complete adapter; KitError for one that is not there, leads elsewhere, or is incomplete."""
    base = base or loras_folder()
    folder = resolve_inside(base, name, "LoRA")
    if "." in name:
        raise KitError(
            f"PEFT cannot attach a LoRA with a dot in its name ('{name}').", "Rename the folder below loras/."
        )
    if not folder.is_dir():
        there = ", ".join(list_adapters(base)) or "none yet"
        raise KitError(
            f"No LoRA '{name}' in {base} (there: {there}).",
            "Train one: notebook 04, or python -m helpers.training.",
        )
    for file in ("adapter_config.json", find_weights(folder).name):
        if not (folder / file).is_file():
            raise KitError(f"The LoRA folder {folder} has no {file}.", AGAIN)
    read_config(folder)
    weights = find_weights(folder)
    try:
        if weights.suffix == ".bin" and not zipfile.is_zipfile(weights):
            raise SafetensorError("not what torch.save writes")
        if weights.suffix == ".safetensors":
            read_shapes(folder)
    except SafetensorError as error:
        raise KitError(f"{weights} cannot be read ({error}).", AGAIN) from None
    return folder


def read_config(folder: Path) -> dict:
    """adapter_config.json of an adapter folder."""
    path = folder / "adapter_config.json"
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise KitError(f"{path} is no JSON ({error}).", AGAIN) from None


def read_run(folder: Path) -> dict:
    """run.json of an adapter that the kit has trained; {} for others."""
    path = folder / "run.json"
    return json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}


def name_base(folder: Path) -> str | None:
    """The name of the base that an adapter records, without its path; None where it records none."""
    recorded = read_config(folder).get("base_model_name_or_path")
    return recorded.replace("\\", "/").rstrip("/").rpartition("/")[2] if recorded else None


def check_base(folder: Path, model: str) -> None:
    """KitError when the LoRA in `folder` records another base than the model folder `model`, or than what `model` is the GGUF version of."""
    wanted = name_base(folder) or model
    if wanted not in (model, model.removesuffix("-GGUF")):
        raise KitError(
            f"The LoRA {folder.name} was trained on {wanted}, not on {model}.", f"Load {wanted} first."
        )


def describe_adapter(name: str, base: Path | None = None) -> LoraFacts:
    """What is known of one folder below loras/; a broken one has its `problem`, in words."""
    folder = (base or loras_folder()) / name
    try:
        find_adapter(name, base)
        facts, run = read_config(folder), read_run(folder)
        problem = find_misfit(folder)
    except (KitError, OSError) as error:
        return LoraFacts(name, problem=getattr(error, "problem", str(error)))
    targets = facts.get("target_modules") or ""
    return LoraFacts(
        name=name,
        base=name_base(folder),
        rank=facts.get("r"),
        targets=targets if isinstance(targets, str) else ", ".join(sorted(targets)),
        bytes=find_weights(folder).stat().st_size,
        data=run.get("data"),
        accuracy=run.get("evaluation", {}).get("lora", {}).get("accuracy"),
        problem=problem,
    )


def find_misfit(folder: Path) -> str | None:
    """Why an adapter does not fit the base that it names, as that lies in models/; None when it does, or when it cannot be told."""
    name = name_base(folder)
    if name and not (models_folder() / name).is_dir():
        return f"its base {name} is not in models/"
    config = models_folder() / (name or "") / "config.json"
    pairs = pair_factors(read_shapes(folder))
    if not pairs:
        return "no LoRA matrices in its weights"
    try:
        shape = read_shape(json.loads(config.read_text(encoding="utf-8")))
    except (OSError, KeyError):
        return None
    for module, pair in pairs.items():
        wanted, found = (
            shape.list_linears().get(module.rpartition(".")[2]),
            tuple(pair[half] for half in sorted(pair)),
        )
        if wanted and (len(found) < 2 or (found[0][1], found[1][0]) != wanted or found[0][0] != found[1][1]):
            return f"{module} has the shapes {found}, its base's layer takes {wanted[0]} numbers and gives {wanted[1]}"
    return None


def name_output(name: str) -> Path:
    """The folder below loras/ that a LoRA will get; KitError for a name that cannot be one."""
    folder = resolve_inside(loras_folder(), name.removeprefix("loras/"), "LoRA")
    if "." in folder.name:
        raise KitError(
            f"PEFT cannot attach a LoRA with a dot in its name ('{folder.name}').",
            "Choose another name, such as my-lora.",
        )
    return folder
