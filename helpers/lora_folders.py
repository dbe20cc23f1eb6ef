"""LoRA folders below loras/: find and list them, read their config, hold their base against a model. Nothing here needs torch.

An adapter is a folder as PEFT writes it: adapter_config.json and adapter_model.safetensors.
"""

import json
from pathlib import Path

from safetensors import SafetensorError, safe_open

from helpers import KitError, find_home, resolve_inside


def loras_folder() -> Path:
    """Where adapter folders lie: loras/ below the kit's home."""
    return find_home() / "loras"


def list_adapters(base: Path | None = None) -> list[str]:
    """Names of the folders below loras/ that hold an adapter_config.json, sorted."""
    base = base or loras_folder()
    return sorted(path.parent.name for path in base.glob("*/adapter_config.json") if not path.parent.name.startswith("."))


def find_adapter(name: str, base: Path | None = None) -> Path:
    """The folder of a complete adapter; KitError for one that is not there, leads elsewhere, or is incomplete."""
    base = base or loras_folder()
    folder = resolve_inside(base, name, "LoRA")
    if "." in name:
        raise KitError(f"PEFT cannot attach a LoRA with a dot in its name ('{name}').", "Rename the folder below loras/.")
    if not folder.is_dir():
        there = ", ".join(list_adapters(base)) or "none yet"
        raise KitError(f"No LoRA '{name}' in {base} (there: {there}).", "Train one: notebook 04, or python -m helpers.training.")
    weights = folder / "adapter_model.safetensors"
    for path in (folder / "adapter_config.json", weights):
        if not path.is_file():
            raise KitError(f"The LoRA folder {folder} has no {path.name}.", "Delete the folder and train it again.")
    try:
        with safe_open(weights, framework="numpy") as file:
            file.keys()
    except SafetensorError as error:
        raise KitError(f"{weights} cannot be read ({error}).", "Delete the folder and train it again.") from None
    return folder


def read_config(folder: Path) -> dict:
    """adapter_config.json of an adapter folder."""
    return json.loads((folder / "adapter_config.json").read_text(encoding="utf-8"))


def check_base(folder: Path, model: str) -> None:
    """KitError when the LoRA in `folder` records another base than the model folder `model`, or than what `model` is the GGUF version of."""
    wanted = Path(read_config(folder).get("base_model_name_or_path") or model).name
    if wanted not in (model, model.removesuffix("-GGUF")):
        raise KitError(f"The LoRA {folder.name} was trained on {wanted}, not on {model}.", f"Load {wanted} first.")
