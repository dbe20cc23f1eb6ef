"""Sizes before downloads: the branches of a repository, and what a model takes on disk, to run and to train, held against this machine."""

import json
from dataclasses import dataclass

from helpers.common.errors import KitError
from helpers.common.files import size_of
from helpers.common.paths import resolve_inside
from helpers.weights import hub, memory
from helpers.weights.fetching import choose_files
from helpers.weights.folders import PICKLES, find_model, models_folder
from helpers.weights.names import name_folder


@dataclass(frozen=True)
class Branch:
    """One variant of a repository: what is in it and what it takes."""

    name: str
    quantization: dict | None  # bits, group_size, act_order; None for full precision
    disk_bytes: int  # of all files to download
    memory_bytes: int  # to run it with 2048 tokens
    fits: bool  # in the memory that is free here


def describe_branches(repo: str) -> list[Branch]:
    """Every branch of a hub repository, main first, read from the branch's own config. KitError where the hub refuses."""
    if "/" not in repo:
        raise KitError(
            f"'{repo}' is no repository on the hub, and only those have branches.", "Write it as OWNER/REPO."
        )
    read = {name: read_remote(repo, name) for name in hub.list_branches(repo)}
    from helpers.common import machine  # torch, which takes a second, only when the hub has answered

    device, free = machine.pick_device().value, machine.measure_memory().value[0]
    branches = []
    for name, (config, disk, weights) in read.items():
        needed = sum(
            term.bytes for term in memory.estimate_running(config, weights, name_dtype(device), device)
        )
        branches.append(Branch(name, config.read_quantization(config), disk, needed, needed < free))
    return branches


def read_remote(repo: str, revision: str) -> tuple[dict, int, int]:
    """(config.json, bytes to download, bytes of the weights) of a revision on the hub; a quantize_config.json becomes part of the config."""
    commit, listed = hub.list_files(repo, revision)
    files = {file.name: file for file in listed}
    ggufs = ", ".join(
        f"{file.name} ({file.size / 1e9:.2f} GB)" for file in listed if file.name.endswith(".gguf")
    )
    if ggufs and not any(name.endswith((".safetensors", *PICKLES)) for name in files):
        remedy = "Running one takes its size, the context and half a gigabyte; fetch one with --file."
        raise KitError(f"{repo} holds GGUF files, each a variant: {ggufs}.", remedy)
    if "config.json" not in files:
        raise KitError(
            f"{repo} at {revision} has no config.json, so its cost cannot be told.",
            "Look at its page on the hub.",
        )
    chosen = choose_files(repo, listed, pickle=True)
    config = hub.read_json(repo, commit, files["config.json"])
    if "quantize_config.json" in files:
        config["quantization_config"] = hub.read_json(repo, commit, files["quantize_config.json"])
    weights = sum(file.size for file in chosen if file.name.endswith((".safetensors", *PICKLES)))
    return config, sum(file.size for file in chosen), weights


def read_local(name: str) -> tuple[dict, int, int]:
    """The same of a complete folder in models/."""
    folder = find_model(name)
    if not (folder / "config.json").is_file():
        raise KitError(
            f"{name} is a GGUF file, which holds its own shape.",
            "Ask for the size of the safetensors folder of the model.",
        )
    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    if (folder / "quantize_config.json").is_file():
        config["quantization_config"] = json.loads(
            (folder / "quantize_config.json").read_text(encoding="utf-8")
        )
    weights = sum(
        path.stat().st_size for path in folder.iterdir() if path.suffix in (".safetensors", *PICKLES)
    )
    return config, size_of(folder), weights


def name_dtype(device: str) -> str:
    """The dtype that this machine computes in, by name."""
    from helpers.common import machine

    return str(machine.pick_dtype(device).value).removeprefix("torch.")


@dataclass(frozen=True)
class Size:
    """What a model takes: on disk, to run, to train a LoRA on, each in terms; and what is free here."""

    disk_bytes: int
    running: list[memory.Term]
    training: list[memory.Term]
    free_bytes: int


def measure_size(name: str, revision: str = "main", context: int = 2048, **training) -> Size:
    """The size of a folder in models/ or of OWNER/REPO on the hub at `revision`; `training` as in costs.estimate_training."""
    for key, value in {"context": context, **training}.items():
        if isinstance(value, int) and value < 1:
            raise KitError(f"{key} {value} is no size.", "Say a whole number from 1 on.")
    here = "/" not in name or resolve_inside(models_folder(), name_folder(name, revision), "model").is_dir()
    plain = (
        "/" not in name and revision == "main"
    )  # a name that stays, so that an error can say how to fetch it
    config, disk, weights = (
        read_local(name if plain else name_folder(name, revision)) if here else read_remote(name, revision)
    )
    from helpers.common import machine

    device = machine.pick_device().value
    dtype, free = name_dtype(device), machine.measure_memory().value[0]
    try:
        running = memory.estimate_running(config, weights, dtype, device, context)
        return Size(disk, running, memory.estimate_training(config, weights, dtype, device, **training), free)
    except KeyError as error:
        raise KitError(
            f"{name} is no decoder as Llama is one (its config.json has no {error}).",
            "Its cost cannot be told here.",
        ) from None
