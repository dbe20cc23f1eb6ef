"""`ModelFolder`, which knows what a folder below models/ is; every other module asks it.

A model folder holds either a GGUF file, or config.json, a tokenizer and weights as safetensors.
`weights.json` records where the weights came from and their hashes.
"""

import json
import re
import time
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

from helpers.common.errors import DamagedError, NotFoundError
from helpers.common.files import hash_file, list_subfolders, read_json, size_of, write_json
from helpers.common.paths import find_home, resolve_inside
from helpers.weights.config import QUANTIZATION_FILES, Quantization, Shape, read_quantization, read_shape
from helpers.weights.names import EMBEDDED_NAME, name_folder

PICKLE_SUFFIXES = (".bin", ".pt", ".pth", ".ckpt")
WEIGHT_SUFFIXES = (".safetensors", ".gguf", *PICKLE_SUFFIXES)
RECORD = "weights.json"
# What git leaves in place of a large file if git-lfs is not installed.
LFS_POINTER = b"version https://git-lfs"
FETCH_AGAIN = "Delete the folder and fetch the model again."

Format = Literal["gguf", "safetensors", "pickle", "none"]


@dataclass(frozen=True)
class ModelFolder:
    """A folder below models/: its files, its format, what its config says and what is missing from it."""

    path: Path

    @property
    def name(self) -> str:
        """The folder's name, by which commands and clients know the model."""
        return self.path.name

    @cached_property
    def weight_files(self) -> list[Path]:
        """All files with weights, of any format, sorted by name."""
        return sorted(path for path in self.path.iterdir() if path.suffix in WEIGHT_SUFFIXES)

    @property
    def gguf(self) -> Path | None:
        """The GGUF file, in name order the first; None for a folder of another format."""
        return next((path for path in self.weight_files if path.suffix == ".gguf"), None)

    @property
    def safetensors(self) -> list[Path]:
        """The safetensors files, sorted by name."""
        return [path for path in self.weight_files if path.suffix == ".safetensors"]

    @property
    def format(self) -> Format:
        """The format of the weights that a loader reads. Pickles count only if there is nothing better."""
        if self.gguf:
            return "gguf"
        if self.safetensors:
            return "safetensors"
        return "pickle" if self.weight_files else "none"

    @property
    def weight_bytes(self) -> int:
        """Bytes of all files with weights."""
        return sum(path.stat().st_size for path in self.weight_files)

    @property
    def disk_bytes(self) -> int:
        """Bytes of the whole folder."""
        return size_of(self.path)

    @cached_property
    def config(self) -> dict[str, Any]:
        """config.json; {} for a GGUF folder, which needs none. DamagedError if it cannot be read."""
        path = self.path / "config.json"
        return read_json(path, FETCH_AGAIN) if path.is_file() else {}

    @property
    def shape(self) -> Shape:
        """The shape in config.json; a KeyError if the model is not a Llama-style decoder."""
        return read_shape(self.config)

    @cached_property
    def quantization(self) -> Quantization | None:
        """How the weights are quantised, from config.json, a file beside it, or the folder's name."""
        beside = {
            name: read_json(self.path / name, FETCH_AGAIN)
            for name in QUANTIZATION_FILES
            if (self.path / name).is_file()
        }
        found = read_quantization(self.config, beside)
        named = re.search(r"exl[23]", self.name)
        if found is None and named:  # ExLlama's own format of 2023 recorded nothing
            return Quantization(named[0], None, None, None, "the folder's name", {})
        return found

    @property
    def record(self) -> dict[str, Any]:
        """weights.json: source, revision and the files' hashes; {} for a folder that the kit did not make."""
        path = self.path / RECORD
        return read_json(path, FETCH_AGAIN) if path.is_file() else {}

    @property
    def hashes(self) -> dict[str, str]:
        """sha256 of each weight file as weights.json records them; empty without a record."""
        try:
            return {name: facts["sha256"] for name, facts in self.record.get("files", {}).items()}
        except (AttributeError, TypeError, KeyError):
            raise DamagedError(f"{self.path / RECORD} has no list of files.", FETCH_AGAIN) from None

    def write_record(self, **facts: object) -> None:
        """Writes weights.json: the given facts, and size and sha256 of each weight file."""
        kept = [path for path in self.weight_files if path.suffix not in PICKLE_SUFFIXES]
        files = {path.name: {"bytes": path.stat().st_size, "sha256": hash_file(path)} for path in kept}
        write_json(self.path / RECORD, {**facts, "fetched": time.strftime("%Y-%m-%d"), "files": files})

    def find_missing(self) -> str:
        """What the folder lacks, in words; empty if it is complete. Reads the safetensors' headers."""
        for path in self.weight_files:
            if is_lfs_pointer(path):
                fix = "git lfs install, then git lfs pull in the folder"
                return f"{path.name} is only a pointer to its content ({fix})"
        if self.format == "gguf":
            return ""
        if not self.config:
            return "no config.json"
        if not any((self.path / name).is_file() for name in ("tokenizer.json", "tokenizer.model")):
            return "no tokenizer"
        return self._find_missing_weights()

    def _find_missing_weights(self) -> str:
        """What is missing of the weights of a folder that is not GGUF."""
        names = {path.name for path in self.safetensors} | self._list_indexed()
        if not names:
            return "" if self.format == "pickle" else "no safetensors file"
        for path in (self.path / name for name in sorted(names)):
            if not path.is_file():
                return f"{path.name} is missing"
            if not has_whole_safetensors(path):
                return f"{path.name} is cut short"
        return ""

    def _list_indexed(self) -> set[str]:
        """Names of the files that model.safetensors.index.json lists, for weights in several files."""
        index = self.path / "model.safetensors.index.json"
        if not index.is_file():
            return set()
        try:
            return set(read_json(index, FETCH_AGAIN)["weight_map"].values())
        except (AttributeError, KeyError):
            raise DamagedError(f"{index} lists no weights.", FETCH_AGAIN) from None

    def find_damage(self) -> str:
        """What is wrong with the folder, in words, or empty. Hashes every file that the record names."""
        if missing := self.find_missing():
            return missing
        for name, recorded in self.hashes.items():
            path = self.path / name
            if not path.is_file() or hash_file(path) != recorded:
                return f"{name} was changed or removed"
        return ""


def models_folder() -> Path:
    """Where model folders are: models/ in the kit's home."""
    return find_home() / "models"


def list_models(models_dir: Path | None = None) -> list[str]:
    """Names of the folders below models/, sorted; hidden ones (unfinished work) are left out."""
    return list_subfolders(models_dir or models_folder())


def find_model(name: str, models_dir: Path | None = None) -> ModelFolder:
    """A complete model folder below `models_dir` (models/ by default), by folder or catalogue name.

    Raises NotFoundError for a name that is not there, UsageError for one that leads elsewhere, DamagedError
    for an incomplete folder.
    """
    models_dir = models_dir or models_folder()
    path = resolve_inside(models_dir, name, "model")
    if not path.is_dir():
        path = resolve_inside(models_dir, name_folder(name), "model")
    if not path.is_dir():
        there = ", ".join(list_models(models_dir)) or "none yet"
        fetchable = "/" in name or name == EMBEDDED_NAME
        fetch = f"Fetch it: python -m helpers.weights fetch {name}"
        remedy = fetch if fetchable else "See `python -m helpers.weights list`."
        raise NotFoundError(f"No model '{name}' in {models_dir} (there: {there}).", remedy)
    folder = ModelFolder(path)
    if missing := folder.find_missing():
        raise DamagedError(f"The model folder {path} is incomplete: {missing}.", FETCH_AGAIN)
    return folder


def is_lfs_pointer(path: Path) -> bool:
    """True if the file only points to its content, which git-lfs did not fetch."""
    with path.open("rb") as file:
        return file.read(len(LFS_POINTER)) == LFS_POINTER


def has_whole_safetensors(path: Path) -> bool:
    """True if the file is as long as its header says.

    The format: 8 bytes with the header's length, a JSON header with each tensor's data_offsets, then the
    data.
    """
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
