"""Model folders: what they are called, which files they are made of, and what one on this disk still lacks."""

import json
import time
from pathlib import Path

from helpers.common.errors import KitError
from helpers.common.files import hash_file, write_json
from helpers.common.paths import find_home, resolve_inside
from helpers.weights.names import EMBEDDED_NAME, name_folder


def record_source(folder: Path, **facts: object) -> None:
    """Writes `weights.json` into a model folder: the facts given (source, revision ...) and size and sha256 of every weight file."""
    files = {
        p.name: {"bytes": p.stat().st_size, "sha256": hash_file(p)}
        for p in sorted(folder.glob("*"))
        if p.suffix in (".safetensors", ".gguf")
    }
    write_json(folder / "weights.json", {**facts, "fetched": time.strftime("%Y-%m-%d"), "files": files})


LFS_POINTER = b"version https://git-lfs"  # what git leaves in place of a large file when LFS is not installed


PICKLES = (".bin", ".pt", ".pth", ".ckpt")


def models_folder() -> Path:
    """Where model folders lie: models/ below the kit's home."""
    return find_home() / "models"


def find_model(name: str, base: Path | None = None) -> Path:
    """The complete folder of a model below `base` (models/ by default); `name` is a folder name or a catalogue name.

    Raises KitError for a name that is not there, leads elsewhere, or whose folder is incomplete.
    """
    base = base or models_folder()
    folder = resolve_inside(base, name, "model")
    if not folder.is_dir():
        folder = resolve_inside(base, name_folder(name), "model")
    if not folder.is_dir():
        there = ", ".join(sorted(list_models(base))) or "none yet"
        known = "/" in name or name == EMBEDDED_NAME
        remedy = (
            f"Fetch it: python -m helpers.weights fetch {name}"
            if known
            else "See `python -m helpers.weights list`."
        )
        raise KitError(f"No model '{name}' in {base} (there: {there}).", remedy)
    missing = find_missing(folder)
    if missing:
        raise KitError(
            f"The model folder {folder} is incomplete: {missing}.",
            "Delete the folder and fetch the model again.",
        )
    return folder


def list_models(base: Path | None = None) -> list[str]:
    """Names of the folders below models/, sorted; hidden ones (unfinished work) left out."""
    base = base or models_folder()
    return (
        sorted(p.name for p in base.glob("*") if p.is_dir() and not p.name.startswith("."))
        if base.is_dir()
        else []
    )


def find_missing(folder: Path) -> str:
    """What a model folder lacks, in words; empty when it is complete. Sizes are held against each safetensors file's own header."""
    for path in sorted(
        path for path in folder.iterdir() if path.suffix in (".safetensors", ".gguf", *PICKLES)
    ):
        with path.open("rb") as file:
            if file.read(len(LFS_POINTER)) == LFS_POINTER:
                return f"{path.name} is only a pointer to its content (git lfs install, then git lfs pull in the folder, brings it)"
    if any(folder.glob("*.gguf")):
        return ""
    if not (folder / "config.json").is_file():
        return "no config.json"
    if not any((folder / name).is_file() for name in ("tokenizer.json", "tokenizer.model")):
        return "no tokenizer"
    index = folder / "model.safetensors.index.json"
    names = {p.name for p in folder.glob("*.safetensors")}
    if index.is_file():
        names |= set(json.loads(index.read_text(encoding="utf-8"))["weight_map"].values())
    if not names:
        return "" if any(path.suffix in PICKLES for path in folder.iterdir()) else "no safetensors file"
    for path in (folder / name for name in sorted(names)):
        if not path.is_file():
            return f"{path.name} is missing"
        if not has_whole_safetensors(path):
            return f"{path.name} is cut short"
    return ""


def find_damage(folder: Path) -> str:
    """What is wrong with a model folder, in words; empty when nothing is. Weights are held against the sha256 that the fetching recorded."""
    if missing := find_missing(folder):
        return missing
    record = folder / "weights.json"
    files = json.loads(record.read_text(encoding="utf-8"))["files"] if record.is_file() else {}
    for name, facts in files.items():
        if not (folder / name).is_file() or hash_file(folder / name) != facts["sha256"]:
            return f"{name} was changed or removed"
    return ""


def has_whole_safetensors(path: Path) -> bool:
    """True when the file is as long as its header says. Format: 8 bytes header length, JSON header with data_offsets, data."""
    size = path.stat().st_size
    with path.open("rb") as file:
        length = int.from_bytes(file.read(8), "little")
        if size < 8 + length:
            return False
        try:
            header = json.loads(file.read(length))
        except ValueError:
            return False
    ends = [entry["data_offsets"][1] for key, entry in header.items() if key != "__metadata__"]
    return size == 8 + length + max(ends, default=0)
