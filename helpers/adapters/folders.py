"""`AdapterFolder`, which knows what a folder below loras/ holds. Nothing here imports torch.

A LoRA is a folder as PEFT writes it: adapter_config.json and adapter_model.safetensors (until 2023:
adapter_model.bin). One that the kit trained also has run.json (what was measured) and
training_parameters.json (the WebUI's settings).
"""

import contextlib
import re
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from helpers.adapters.patterns import match_end
from helpers.adapters.records import AdapterConfig, Parameters, Run
from helpers.adapters.tensors import read_shapes
from helpers.common.arguments import LARGEST_FLOAT, shorten
from helpers.common.errors import (
    AlreadyThereError,
    DamagedError,
    KitError,
    MismatchError,
    NotFoundError,
    UnsupportedError,
    UsageError,
)
from helpers.common.files import identify, list_subfolders, read_json
from helpers.common.outputs import name_new_folder
from helpers.common.paths import PATH_BYTES, PROJECT, find_home, resolve_inside
from helpers.common.workspaces import remove_abandoned

SHIPPED = PROJECT / "shipped"  # LoRAs that come with the kit, a folder each
WEIGHTS = ("adapter_model.safetensors", "adapter_model.bin")  # the first that is there is read
TEXTS = (  # of a LoRA, as PEFT, transformers, the WebUI and the kit write them
    "adapter_config.json", "run.json", "README.md", "report.html", "chat_template.jinja",
    "training_parameters.json", "training_log.json", "training_prompt.json", "training_graph.json",
    "tokenizer.json", "tokenizer_config.json", "tokenizer.model", "special_tokens_map.json",
    "added_tokens.json", "vocab.json", "merges.txt", "LICENSE",
)  # fmt: skip
OWN_FILES = (*WEIGHTS, *TEXTS)
PEFT_DEFAULTS = {"r": 8, "lora_alpha": 8, "lora_dropout": 0.0}  # for what a config does not say
CACHE = re.compile(r"(?:^|/)models--(.+?)--([^/]+)")  # the hub's cache: models--OWNER--NAME/snapshots/HASH
NOT_A_LORA = "If you need a LoRA here, train or fetch it again under another name."
TRAIN_AGAIN = "Delete the folder, then train or fetch the LoRA again."
WITHOUT_RECORD = "Delete the file, or train the LoRA again."


@dataclass(frozen=True)
class AdapterFolder:
    """A folder below loras/: its files, its config, the recorded base, and what its training recorded."""

    path: Path

    @property
    def name(self) -> str:
        """The folder's name, by which commands and clients know the LoRA."""
        return self.path.name

    @cached_property
    def identity(self) -> tuple[int, ...] | None:
        """What tells this very LoRA from a later one of that name, as identify says of its weights."""
        return identify(self.weights)

    def refuse_replaced(self) -> None:
        """An AlreadyThereError if another LoRA has taken the name since `identity` was first asked for."""
        if identify(self.weights) != self.identity:
            problem = f"The LoRA {self.name} was replaced while the older one was read."
            raise AlreadyThereError(problem, "Start again, with the new one.")

    @property
    def weights(self) -> Path:
        """The file with the weights; if there is none, the one that is missing."""
        found = (self.path / name for name in WEIGHTS if (self.path / name).is_file())
        return next(found, self.path / WEIGHTS[0])

    @cached_property
    def config(self) -> dict[str, Any]:
        """adapter_config.json, with PEFT's defaults for rank, alpha and dropout.

        DamagedError if it is missing, cannot be read or has odd numbers; UnsupportedError for an adapter
        that is not a LoRA.
        """
        path = self.path / "adapter_config.json"
        if not path.is_file():
            raise DamagedError(f"The folder {self.path} has no {path.name}.", NOT_A_LORA)
        config = {**PEFT_DEFAULTS, **read_json(path, TRAIN_AGAIN, AdapterConfig)}
        kind = config.get("peft_type", "LORA")
        if kind != "LORA":
            problem = f"{self.path} is an adapter of the type {kind}, not a LoRA."
            raise UnsupportedError(problem, "Take a LoRA.")
        if config.get("megatron_config"):  # PEFT would import the module that megatron_core names
            problem = f"{self.path} is a LoRA for layers of Megatron, which the kit does not load."
            raise UnsupportedError(problem, "Convert it to a LoRA for transformers.")
        for key, least in (("r", 1), ("lora_alpha", 0)):
            if not least <= config[key] <= LARGEST_FLOAT:  # a NaN is not
                remedy = f"Correct it to a number from {least} to {LARGEST_FLOAT:g}."
                raise DamagedError(f"{path} has {key} {config[key]}.", remedy)
        if len(config.get("base_model_name_or_path") or "") > PATH_BYTES:
            problem = f"{path} has a base_model_name_or_path that is longer than any path."
            raise DamagedError(problem, "Write the name of the base into it.")
        check_patterns(config, path)
        return config

    @property
    def run(self) -> dict[str, Any]:
        """run.json, which the kit's training writes; {} for a LoRA from elsewhere.

        DamagedError if it cannot be read, or if a part of it has another form.
        """
        path = self.path / "run.json"
        return read_json(path, WITHOUT_RECORD, Run) if path.is_file() else {}

    @property
    def parameters(self) -> dict[str, Any]:
        """training_parameters.json, which the kit and the WebUI write; {} without one."""
        path = self.path / "training_parameters.json"
        return read_json(path, WITHOUT_RECORD, Parameters) if path.is_file() else {}

    @property
    def recorded_base(self) -> str:
        """The base as adapter_config.json names it, with / in paths; empty if it names none."""
        recorded = self.config.get("base_model_name_or_path") or ""
        return recorded.replace("\\", "/").rstrip("/")

    @property
    def base_name(self) -> str | None:
        """The name of the base model that is recorded, without its path; None if none is recorded."""
        if found := CACHE.search(self.recorded_base):
            return found[2]
        return self.recorded_base.rpartition("/")[2] or None

    @property
    def targets(self) -> list[str] | str:
        """The names of the layers that have a LoRA, sorted, or PEFT's pattern for them."""
        targets = self.config.get("target_modules") or ""
        return targets if isinstance(targets, str) else sorted(targets)

    @property
    def targets_in_words(self) -> str:
        """The layers for people to read: "q_proj, v_proj (layers 8 to 29)", or the pattern."""
        words = self.targets if isinstance(self.targets, str) else ", ".join(self.targets)
        blocks = self.config.get("layers_to_transform")
        if isinstance(blocks, list) and blocks and all(type(block) is int for block in blocks):
            words += f" (layers {min(blocks)} to {max(blocks)})"
        return words

    def need_base(self, remedy: str) -> str:
        """The recorded base; a MismatchError with `remedy` if none is recorded."""
        if not self.recorded_base:
            raise MismatchError(f"The LoRA {self.name} does not record its base model.", remedy)
        return self.recorded_base

    def find_checkpoint(self) -> "AdapterFolder | None":
        """The newest complete checkpoint-N in a folder that has no LoRA of its own, as trainers leave it."""
        if (self.path / "adapter_config.json").is_file():
            return None
        steps = [path for path in self.path.glob("checkpoint-*") if path.name.rpartition("-")[2].isdigit()]
        for path in sorted(steps, key=lambda path: int(path.name.rpartition("-")[2]), reverse=True):
            with contextlib.suppress(KitError):
                AdapterFolder(path).check_complete()
                return AdapterFolder(path)
        return None

    def check_complete(self) -> None:
        """A DamagedError if a file is missing or cannot be read, else as `config`."""
        if newest := self.find_checkpoint():
            problem = f"The LoRA folder {self.path} holds only checkpoints; the newest is {newest.name}."
            raise DamagedError(problem, f"Name it {self.name}/{newest.name}.")
        _ = self.config  # raises if it is missing or damaged
        if not self.weights.is_file():
            raise DamagedError(f"The LoRA folder {self.path} has no {self.weights.name}.", TRAIN_AGAIN)
        if self.weights.suffix == ".bin" and not is_zip(self.weights):
            raise DamagedError(f"{self.weights} is not what torch.save writes.", TRAIN_AGAIN)
        if self.weights.suffix == ".safetensors":
            read_shapes(self.weights)


def is_zip(path: Path) -> bool:
    """Whether a file is a zip file, which is what torch.save writes."""
    try:
        return zipfile.is_zipfile(path)
    except zipfile.BadZipFile:  # its end speaks of more than one disk
        return False


def check_patterns(config: Mapping[str, Any], path: Path) -> None:
    """A DamagedError if a pattern for names of layers is not a regular expression, or a rank is not one."""
    ranks, alphas = config.get("rank_pattern") or {}, config.get("alpha_pattern") or {}
    targets = config.get("target_modules")
    try:
        for pattern in (*map(match_end, {*ranks, *alphas}), *([targets] if isinstance(targets, str) else ())):
            re.compile(pattern)
    except (re.error, RecursionError, OverflowError) as error:
        raise DamagedError(f"{path} has a wrong pattern for layers ({error}).", TRAIN_AGAIN) from None
    if any(rank < 1 for rank in ranks.values()):
        raise DamagedError(f"{path} has a rank below 1 in rank_pattern.", TRAIN_AGAIN)
    if not all(abs(alpha) <= LARGEST_FLOAT for alpha in alphas.values()):  # a NaN is not
        raise DamagedError(f"{path} has in alpha_pattern a number beyond {LARGEST_FLOAT:g}.", TRAIN_AGAIN)


def loras_folder() -> Path:
    """Where LoRA folders are: loras/ in the kit's home."""
    return find_home() / "loras"


def list_shipped() -> list[str]:
    """Names of the LoRAs that come with the kit, sorted; they are found like those in loras/."""
    return [name for name in list_subfolders(SHIPPED) if (SHIPPED / name / "adapter_config.json").is_file()]


def locate_adapter(name: str, loras_dir: Path | None = None) -> Path:
    """The path of the LoRA `name`: below `loras_dir`, or else below loras/ or among those of the kit.

    It need not be there. Raises what resolve_inside raises.
    """
    path = resolve_inside(loras_dir or loras_folder(), name, "LoRA")
    if loras_dir is None and not path.is_dir() and name in list_shipped():
        return SHIPPED / name
    return path


def list_folders(loras_dir: Path | None = None) -> list[str]:
    """Names of the folders below loras/, sorted, with incomplete ones and dead links, without hidden ones."""
    folder = loras_dir or loras_folder()
    found = list_subfolders(folder)
    if found or folder.is_dir():
        links = (path for path in folder.iterdir() if path.is_symlink() and not path.exists())
        found += [path.name for path in links if not path.name.startswith(".")]
    return sorted(found)


def list_adapters(loras_dir: Path | None = None) -> list[str]:
    """Names of the folders below loras/ that hold an adapter_config.json, sorted."""
    loras_dir = loras_dir or loras_folder()
    return [name for name in list_folders(loras_dir) if (loras_dir / name / "adapter_config.json").is_file()]


def find_adapter(name: str, loras_dir: Path | None = None) -> AdapterFolder:
    """A complete LoRA folder.

    Raises NotFoundError for one that is not there, UsageError for a name that it cannot have, DamagedError
    for an incomplete one, UnsupportedError for an adapter that is not a LoRA.
    """
    folder = AdapterFolder(locate_adapter(name, loras_dir))
    check_name(name)
    if not folder.path.is_dir():
        remove_abandoned(folder.path)  # a complete LoRA of a killed training takes its place
    if not folder.path.is_dir():
        there = ", ".join([*list_adapters(loras_dir), *([] if loras_dir else list_shipped())]) or "none yet"
        problem = f"No LoRA '{name}' in {loras_dir or loras_folder()} (there: {there})."
        raise NotFoundError(problem, "Train one: lesson 4, or python -m helpers.training.")
    _ = folder.identity  # noted before anything is read
    folder.check_complete()
    return folder


def name_output(name: str) -> Path:
    """The folder below loras/ that a new LoRA will get; UsageError for a name that it cannot have."""
    path = name_new_folder(loras_folder(), name.removeprefix("loras/"), "LoRA")
    check_name(path.name)
    return path


def check_name(name: str) -> None:
    """A UsageError for a path, and for a name with a dot, which PEFT takes for a step in a module's path."""
    path = Path(name)
    if path.is_absolute() or not {".", ".."}.isdisjoint(path.parts):
        problem = f"{shorten(name)} is a path, not the name of a LoRA."
        raise UsageError(problem, f"Give the name of its folder below loras/, {shorten(path.name)}.")
    if "." in name:
        problem = f"PEFT cannot attach a LoRA with a dot in its name ('{name}')."
        raise UsageError(problem, "Choose another folder name, such as my-lora.")
