"""Sizes before downloads: a repository's branches, and what a model takes on disk, to run and to train."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from helpers.common.errors import UnsupportedError, UsageError
from helpers.common.machine import measure_memory, name_dtype, pick_device, pick_dtype
from helpers.common.training_settings import AUTO
from helpers.weights import downloads
from helpers.weights.batches import estimate_batch
from helpers.weights.cards import Fit, list_fits
from helpers.weights.config import QUANTIZATION_FILES, Quantization, read_quantization
from helpers.weights.fetching import choose_files, describe_ggufs, list_by_suffix
from helpers.weights.folders import PICKLE_SUFFIXES, find_model, locate, models_folder
from helpers.weights.memory import estimate_running, estimate_training
from helpers.weights.names import name_folder
from helpers.weights.step_memory import TrainingStep
from helpers.weights.terms import Term, add_up

CONTEXT = 2048  # tokens, for which running is estimated unless another number is given


@dataclass(frozen=True)
class ModelFacts:
    """What sizes are computed from, of a local folder or of a repository on the hub."""

    config: dict[str, Any]  # config.json, the quantisation included
    quantization: Quantization | None
    disk_bytes: int  # of all files to download, or of the folder
    weight_bytes: int


@dataclass(frozen=True)
class Branch:
    """One variant of a repository: what is in it and what it takes."""

    name: str
    quantization: dict[str, Any] | None  # bits, group_size, act_order; None for full precision
    disk_bytes: int  # of all files to download
    memory_bytes: int  # to run it with CONTEXT tokens
    fits: bool  # in the memory that is free here


@dataclass(frozen=True)
class Size:
    """What a model takes on disk, to run and to train a LoRA on, term by term; and what is free."""

    disk_bytes: int
    running: list[Term]
    training: list[Term]
    free_bytes: int
    cards: list[Fit]  # what fits the usual GPUs
    batch: int  # rows in a training step
    batch_reason: str


def describe_branches(repo: str) -> list[Branch]:
    """Every branch of a hub repository, main first, as its own config describes it.

    A KitError if the hub refuses.
    """
    if "/" not in repo:
        problem = f"'{repo}' is not a repository on the hub, and only those have branches."
        raise UsageError(problem, "Write it as OWNER/REPO.")
    found = {name: read_remote(repo, name) for name in downloads.list_branches(repo)}
    return [describe_branch(name, facts) for name, facts in found.items()]


def describe_branch(name: str, facts: ModelFacts) -> Branch:
    """One branch with the memory that it takes on this machine."""
    device = pick_device().value
    dtype = name_dtype(pick_dtype(device).value)
    with explain_unknown_shape(f"The branch {name}"):
        terms = estimate_running(facts.config, facts.weight_bytes, dtype, device, CONTEXT)
    needed = add_up(terms)
    kind = facts.quantization
    quantization = kind and {"bits": kind.bits, "group_size": kind.group_size, "act_order": kind.act_order}
    free, _ = measure_memory(device).value
    return Branch(name, quantization, facts.disk_bytes, needed, needed < free)


def read_remote(repo: str, revision: str) -> ModelFacts:
    """The facts of a revision on the hub, read from its config.json and its list of files."""
    commit, listed = downloads.list_files(repo, revision)
    files = {file.name: file for file in listed}
    refuse_gguf_repository(repo, listed)
    if "config.json" not in files:
        problem = f"{repo} at {revision} has no config.json, so its cost cannot be computed."
        raise UnsupportedError(problem, "Look at its page on the hub.")
    chosen = choose_files(repo, listed, pickle=True)
    config = downloads.read_json(repo, commit, files["config.json"])
    beside = {
        name: downloads.read_json(repo, commit, files[name]) for name in QUANTIZATION_FILES if name in files
    }
    weights = list_by_suffix(chosen, ".safetensors", *PICKLE_SUFFIXES)
    disk_bytes = sum(file.size for file in chosen)
    return build_facts(
        config, read_quantization(config, beside), disk_bytes, sum(file.size for file in weights)
    )


def refuse_gguf_repository(repo: str, listed: list[downloads.RemoteFile]) -> None:
    """An UnsupportedError for a repository of GGUF models, each a variant with its own size."""
    names = describe_ggufs(listed)
    if names and not list_by_suffix(listed, ".safetensors", *PICKLE_SUFFIXES):
        remedy = "Running one takes its size, the context and half a gigabyte; fetch one with --file."
        raise UnsupportedError(f"{repo} holds GGUF models, each a variant: {names}.", remedy)


def read_local(name: str) -> ModelFacts:
    """The facts of a complete folder in models/."""
    folder = find_model(name)
    if folder.gguf:
        files = f"{len(folder.gguf_parts)} files" if len(folder.gguf_parts) > 1 else "one file"
        problem = f"{name} is a GGUF model of {folder.weight_bytes / 1e9:.2f} GB in {files}."
        raise UnsupportedError(problem, "Running it takes its size, the context and half a gigabyte.")
    return build_facts(folder.config, folder.quantization, folder.disk_bytes, folder.weight_bytes)


def build_facts(
    config: dict[str, Any], quantization: Quantization | None, disk_bytes: int, weight_bytes: int
) -> ModelFacts:
    """The facts, with the quantisation in the config where the estimates look for it."""
    if quantization:
        config = {**config, "quantization_config": quantization.settings}
    return ModelFacts(config, quantization, disk_bytes, weight_bytes)


def find_facts(name: str, revision: str) -> ModelFacts:
    """The facts of a folder in models/, or of OWNER/REPO on the hub if it has not been fetched."""
    wanted = name if revision == "main" else name_folder(name, revision)
    if Path(name).is_dir() and Path(name).name != name:  # such as models/NAME
        return read_local(str(Path(name).absolute()))
    if "/" not in name or locate(wanted, models_folder()):
        return read_local(wanted)  # under the name that was given, so that an error can say how to fetch it
    return read_remote(name, revision)


def measure_size(name: str, revision: str = "main", context: int = CONTEXT, **training: Any) -> Size:
    """The size of a folder in models/, or of OWNER/REPO on the hub at `revision`.

    `context` is in tokens; `training` are the keyword arguments of memory.estimate_training (r, batch,
    length ...). A batch of "auto" is the one that a training here would take for any number of rows. Raises
    UsageError for a number below 1, UnsupportedError for an architecture that read_shape does not know.
    """
    for key, value in {"context": context, **training}.items():
        if isinstance(value, int) and value < 1:
            raise UsageError(f"{key} cannot be {value}.", "Give a whole number of 1 or more.")
    facts = find_facts(name, revision)
    device = pick_device().value
    dtype = name_dtype(pick_dtype(device).value)
    free, _ = measure_memory(device).value
    model = (facts.config, facts.weight_bytes)
    with explain_unknown_shape(name):
        batch, reason = training.pop("batch", TrainingStep.batch), "asked for"
        if batch == AUTO:
            batch, reason = estimate_batch(*model, dtype, device, free, TrainingStep.batch, **training)
        training["batch"] = batch
        running = estimate_running(*model, dtype, device, context)
        trained = estimate_training(*model, dtype, device, **training)
        cards = list_fits(*model, context, **training)
    return Size(facts.disk_bytes, running, trained, free, cards, batch, reason)


@contextmanager
def explain_unknown_shape(name: str) -> Iterator[None]:
    """Turns a KeyError of read_shape inside the block into an UnsupportedError."""
    try:
        yield
    except KeyError as error:
        problem = f"{name} is not a decoder that the kit knows (its config.json has no {error})."
        raise UnsupportedError(problem, "The kit cannot compute its cost.") from None
