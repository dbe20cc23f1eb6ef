"""`ModelFolder`, which knows what a folder below models/ is; every other module asks it.

A model folder holds either GGUF files, or config.json, a tokenizer and weights as safetensors. It and its
files may be links. `weights.json` records where the weights came from, and their hashes.
"""

import os
import re
import time
from collections.abc import Iterable
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

from helpers.common.errors import DamagedError, NotFoundError
from helpers.common.files import hash_file, list_subfolders, read_json, size_of, write_json
from helpers.common.outputs import show_bytes
from helpers.common.paths import find_home, resolve_inside
from helpers.weights import config
from helpers.weights.config import QUANTIZATION_FILES, Quantization, QuantizationRecord, read_quantization
from helpers.weights.gguf_files import COMPANION_ONLY, find_group, group_ggufs, is_companion, list_parts
from helpers.weights.intact import find_too_long, has_whole_safetensors, is_lfs_pointer
from helpers.weights.names import EMBEDDED_NAME, name_folder
from helpers.weights.records import Index, Record
from helpers.weights.shape import Shape, read_shape

PICKLE_SUFFIXES = (".bin", ".pt", ".pth", ".ckpt")
WEIGHT_SUFFIXES = (".safetensors", ".gguf", *PICKLE_SUFFIXES)
# What transformers reads; each may instead be in several files, which FILE.index.json lists.
SAFETENSORS, PICKLE = "model.safetensors", "pytorch_model.bin"
TOKENIZERS = ("tokenizer.json", "tokenizer.model", "vocab.json", "spiece.model")  # one of them is needed
RECORD = "weights.json"
FETCH_AGAIN = "Delete the folder and fetch the model again."

Format = Literal["gguf", "safetensors", "pickle", "none"]


@dataclass(frozen=True)
class ModelFolder:
    """A folder below models/: its files, its format, what its config says and what is missing from it."""

    path: Path
    file: str | None = None  # the GGUF file that was named, of a model in parts the first

    @property
    def name(self) -> str:
        """The name by which commands and clients know the model: FOLDER, or FOLDER/FILE.gguf."""
        return f"{self.path.name}/{self.file}" if self.file else self.path.name

    @cached_property
    def weight_files(self) -> list[Path]:
        """The files with weights that a loader reads, as far as they are there, sorted by name."""
        if self.gguf:
            return [path for path in self.gguf_parts if path.is_file()]
        return self.safetensors or self._choose_files(PICKLE, PICKLE_SUFFIXES)

    @cached_property
    def gguf_models(self) -> dict[str, list[str]]:
        """{first file of each GGUF model in the folder: its files that are there}, sorted by name."""
        return group_ggufs(path.name for path in self.path.glob("*.gguf") if path.is_file())

    @property
    def gguf(self) -> Path | None:
        """The GGUF file, of a model in parts the first: the named one, or the first by name; or None."""
        name = self.file or next(iter(self.gguf_models), None)
        return self.path / name if name else None

    @property
    def gguf_parts(self) -> list[Path]:
        """All files of the GGUF model, also those that are missing; [] for a folder of another format."""
        return [self.path / name for name in list_parts(self.gguf.name)] if self.gguf else []

    @property
    def gguf_reason(self) -> str:
        """Why `gguf` is that file, in words; empty for a folder of another format."""
        if not self.gguf or len(self.gguf_models) == 1:
            return "there is a .gguf file" if self.gguf else ""
        if self.file:
            return f"{self.file} was named"
        another = list(self.gguf_models)[-1]
        count = f"the first by name of {len(self.gguf_models)} GGUF models"
        return f"{self.gguf.name} is {count}; name another as {self.path.name}/{another}"

    @cached_property
    def safetensors(self) -> list[Path]:
        """The safetensors files that transformers reads, sorted by name; if there are none, all others."""
        return self._choose_files(SAFETENSORS, (".safetensors",))

    def _choose_files(self, standard: str, suffixes: tuple[str, ...]) -> list[Path]:
        """The file with the standard name, or those that its index lists, or all files with a suffix."""
        if (self.path / standard).is_file():
            return [self.path / standard]
        listed = [self.path / name for name in sorted(self._list_indexed(standard))]
        there = [path for path in listed if path.is_file()]
        return there or sorted(
            path for path in self.path.iterdir() if path.suffix in suffixes and path.is_file()
        )

    @property
    def has_standard_names(self) -> bool:
        """True if the weights have the names under which transformers looks for them."""
        standard = SAFETENSORS if self.safetensors else PICKLE
        return any((self.path / name).is_file() for name in (standard, f"{standard}.index.json"))

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
        """Bytes of the files with weights that a loader reads."""
        return sum(path.stat().st_size for path in self.weight_files)

    @property
    def disk_bytes(self) -> int:
        """Bytes of the whole folder."""
        return size_of(self.path)

    @cached_property
    def config(self) -> dict[str, Any]:
        """config.json; {} for a GGUF folder, which needs none. DamagedError if it cannot be read."""
        path = self.path / "config.json"
        return read_json(path, FETCH_AGAIN, config.ModelConfig) if path.is_file() else {}

    @cached_property
    def advice(self) -> dict[str, Any]:
        """generation_config.json; {} without one. Errors as `config`."""
        path = self.path / config.ADVICE
        return read_json(path, FETCH_AGAIN, config.GenerationRecord) if path.is_file() else {}

    @property
    def shape(self) -> Shape:
        """The shape in config.json. Errors as read_shape."""
        return read_shape(self.config)

    @cached_property
    def quantization(self) -> Quantization | None:
        """How the weights are quantised, from config.json, a file beside it, or the folder's name."""
        beside = {
            name: read_json(self.path / name, FETCH_AGAIN, QuantizationRecord)
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
        return read_json(path, FETCH_AGAIN, Record) if path.is_file() else {}

    @property
    def hashes(self) -> dict[str, str]:
        """sha256 of each weight file as weights.json records them; empty without a record."""
        return {name: facts["sha256"] for name, facts in self.record.get("files", {}).items()}

    def write_record(self, **facts: object) -> None:
        """Writes weights.json: the given facts, and size and sha256 of each weight file."""
        kept = [path for path in self.weight_files if path.suffix not in PICKLE_SUFFIXES]
        files = {path.name: {"bytes": path.stat().st_size, "sha256": hash_file(path)} for path in kept}
        write_json(self.path / RECORD, {**facts, "fetched": time.strftime("%Y-%m-%d"), "files": files})

    def find_missing(self) -> str:
        """What the folder lacks, in words; empty if it is complete. Reads the safetensors' headers."""
        if broken := find_broken_link(self.path.iterdir()):
            return f"{broken.name} is a link to {os.readlink(broken)}, which is not there"
        if long := find_too_long(self.path.iterdir()):
            return f"{long.name} has {show_bytes(long.stat().st_size)}, too much for what it is"
        for path in self.weight_files:
            if is_lfs_pointer(path):
                fix = "git lfs install, then git lfs pull in the folder"
                return f"{path.name} is only a pointer to its content ({fix})"
        if self.gguf:
            return next((f"{path.name} is missing" for path in self.gguf_parts if not path.is_file()), "")
        if not self.config:
            return self._explain_no_config()
        if not any((self.path / name).is_file() for name in TOKENIZERS):
            return "no tokenizer"
        return self._find_missing_weights()

    def _explain_no_config(self) -> str:
        """What is wrong with a folder that has neither a GGUF model nor a config.json."""
        if found := next(self.path.glob("*.gguf"), None):
            return f"{found.name} {COMPANION_ONLY if found.is_file() else 'is not a file'}"
        if (self.path / "snapshots").is_dir():
            return "it is a folder of the hub's cache, and the model is the folder below its snapshots/"
        return "no config.json"

    def _find_missing_weights(self) -> str:
        """What is missing of the weights of a folder that is not GGUF."""
        if not self.weight_files:
            return "no safetensors file"
        standard = SAFETENSORS if self.format == "safetensors" else PICKLE
        for path in sorted(
            {*self.weight_files, *(self.path / name for name in self._list_indexed(standard))}
        ):
            if not path.is_file():
                return f"{path.name} is missing"
            if path.suffix == ".safetensors" and not has_whole_safetensors(path):
                return f"{path.name} is cut short"
        return ""

    def _list_indexed(self, standard: str) -> set[str]:
        """Names of the files that an index lists, for weights in several files; empty without an index."""
        index = self.path / f"{standard}.index.json"
        if not index.is_file():
            return set()
        listed = set(read_json(index, FETCH_AGAIN, Index)["weight_map"].values())
        if odd := [name for name in sorted(listed) if Path(name).name != name or "\0" in name]:
            raise DamagedError(f"{index} lists {odd[0][:40]!r}, which is not a file beside it.", FETCH_AGAIN)
        return listed

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
    """Names of the models below models/, sorted; hidden folders (unfinished work) are left out.

    A folder with several GGUF models is followed by each of them, as FOLDER/FILE.gguf.
    """
    models_dir = models_dir or models_folder()
    names = []
    for name in list_subfolders(models_dir):
        ggufs = ModelFolder(models_dir / name).gguf_models
        names += [name, *(f"{name}/{file}" for file in ggufs if len(ggufs) > 1)]
    return names


def find_model(name: str, models_dir: Path | None = None) -> ModelFolder:
    """A complete model folder below `models_dir` (models/ by default), by folder or catalogue name.

    FOLDER/FILE.gguf names one GGUF model of several. Raises NotFoundError for a name that is not there,
    UsageError for one that leads elsewhere, DamagedError for an incomplete folder.
    """
    models_dir = models_dir or models_folder()
    folder = locate(name, models_dir)
    if folder is None:
        raise NotFoundError(*explain_absence(name, models_dir))
    if missing := folder.find_missing():
        raise DamagedError(f"The model folder {folder.path} is incomplete: {missing}.", FETCH_AGAIN)
    return folder


def locate(name: str, models_dir: Path) -> ModelFolder | None:
    """The folder with this name, complete or not; None if there is none. Errors as find_model."""
    for candidate in (name, name_folder(name)):
        path = resolve_inside(models_dir, candidate, "model")
        if path.is_dir():
            return ModelFolder(path)
    folder_name, _, file = name.rpartition("/")
    folder = locate(folder_name, models_dir) if folder_name and file.endswith(".gguf") else None
    if folder is None:
        return None
    first = find_group(folder.gguf_models, file)
    if first is None:
        found = f"There are: {', '.join(folder.gguf_models) or 'none'}."
        kind = COMPANION_ONLY if is_companion(file) else "is not there"
        raise NotFoundError(f"{folder.path / file} {kind}.", found)
    return replace(folder, file=first)


def explain_absence(name: str, models_dir: Path) -> tuple[str, str]:
    """(problem, remedy) for a name that no folder in `models_dir` has."""
    if name.endswith(WEIGHT_SUFFIXES) and (models_dir / name).is_file():
        remedy = f"Move it into a folder of its own, such as {models_dir / Path(name).stem}."
        return f"{models_dir / name} is a file, and models are folders.", remedy
    there = ", ".join(list_models(models_dir)) or "none yet"
    fetchable = "/" in name or name == EMBEDDED_NAME
    fetch = f"Fetch it: python -m helpers.weights fetch {name}"
    remedy = fetch if fetchable else "See `python -m helpers.weights list`."
    return f"No model '{name}' in {models_dir} (there: {there}).", remedy


def find_broken_link(paths: Iterable[Path]) -> Path | None:
    """The first file, by name, that a loader reads and that is a link to nothing; None if there is none."""
    read = (path for path in sorted(paths) if path.suffix in (*WEIGHT_SUFFIXES, ".json", ".model"))
    return next((path for path in read if path.is_symlink() and not path.exists()), None)
