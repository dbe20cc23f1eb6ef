"""LoRA folders as tests need them: changed, broken, as old as 2023, or trained elsewhere."""

import json
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file

from helpers.adapters.exporting import PEFT_2023


def read_json(path: Path):
    """The content of a JSON file."""
    return json.loads(path.read_text(encoding="utf-8"))


def change_json(path: Path, **values) -> None:
    """Sets keys of the object in a JSON file."""
    path.write_text(json.dumps({**read_json(path), **values}), encoding="utf-8")


def change_config(folder: Path, **values) -> None:
    """Sets keys of a LoRA's adapter_config.json."""
    change_json(folder / "adapter_config.json", **values)


def change_weights(folder: Path, change) -> None:
    """Replaces the tensors of a LoRA, a dict, by what `change` makes of it."""
    path = folder / "adapter_model.safetensors"
    save_file(change(load_file(path)), path, metadata={"format": "pt"})


def change_each_weight(folder: Path, change) -> None:
    """Replaces each tensor of a LoRA by what `change` makes of it."""
    change_weights(folder, lambda tensors: {name: change(tensor) for name, tensor in tensors.items()})


def add_a_row(tensors):
    """The tensors with one row too many in each."""
    return {name: torch.zeros(len(tensor) + 1, tensor.shape[1]) for name, tensor in tensors.items()}


def save_as_2023(folder: Path) -> None:
    """Leaves the folder as PEFT 0.5 wrote it in 2023: a pickle, and a config with only the keys of then."""
    weights = folder / "adapter_model.safetensors"
    torch.save(load_file(weights), folder / "adapter_model.bin")
    weights.unlink()
    config = read_json(folder / "adapter_config.json")
    kept = {key: config[key] for key in PEFT_2023}
    (folder / "adapter_config.json").write_text(json.dumps(kept), encoding="utf-8")
