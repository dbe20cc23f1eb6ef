"""Folders below runs/exports: the kit makes them again, and replaces nothing but what it wrote itself."""

import contextlib
import os
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TypedDict

from helpers.common.errors import KitError, UnsupportedError
from helpers.common.files import read_json, replace_when_complete, write_json
from helpers.common.locks import hold

RECORD = "export.json"  # in each export: its files, as they were written
MODEL_EXPORTS = "models"  # in runs/exports/PROGRAM: the folder with the exports of models
ELSEWHERE = "Choose another --output."  # what is there may be what is read
ANOTHER_OUTPUT = "Move it away, delete it, or choose another --output."


class Export(TypedDict):
    """The record of an export."""

    files: dict[str, list[int]]


@contextlib.contextmanager
def open_export(target: Path) -> Iterator[Path]:
    """Yields the name of a folder to make, which becomes the export `target`; an older export goes.

    Raises AlreadyThereError if anything else is there, or if another process writes it.
    """
    with hold(target, "an export"), replace_when_complete(target, is_export) as fresh:
        yield fresh
        write_json(fresh / RECORD, {"files": list_files(fresh)})


def list_own_files(folder: Path, names: Iterable[str]) -> list[Path]:
    """The files of these names in a folder that is exported, as far as they are there.

    Raises an UnsupportedError for one that is not a regular file, or that is a link out of the folder: the
    export would contain what it points to. A snapshot in the hub's cache may link to its blobs.
    """
    root = folder.resolve()
    roots = [root, *([root.parents[1] / "blobs"] if root.parent.name == "snapshots" else [])]
    found = [folder / name for name in names if os.path.lexists(folder / name)]
    for path in found:
        if not path.is_file():
            raise UnsupportedError(f"{path} is not a file that can be copied.", "Delete it, or move it away.")
        if not any(path.resolve().is_relative_to(each) for each in roots):
            problem = f"{path} is a link to {path.resolve()}, outside of its folder."
            raise UnsupportedError(problem, "Put a copy of that file in its place, or delete the link.")
    return found


def is_export(folder: Path) -> bool:
    """True for a folder that holds what open_export wrote, unchanged, and nothing else."""
    if not (folder / RECORD).is_file():
        return False
    try:
        recorded = read_json(folder / RECORD, "Delete it.", Export)["files"]
        found = list_files(folder)
    except (KitError, OSError):
        return False
    found.pop(RECORD, None)
    return found == recorded


def list_files(folder: Path) -> dict[str, list[int]]:
    """{path in the folder: [bytes, time of the last change in nanoseconds]} of all that is in it.

    [] for what is not a file, such as a folder. Large weights are not read: an edit changes the time.
    """
    return {path.relative_to(folder).as_posix(): describe(path) for path in folder.rglob("*")}


def describe(path: Path) -> list[int]:
    """[bytes, time of the last change] of a file; [] of anything else."""
    if not path.is_file():
        return []
    facts = path.stat()
    return [facts.st_size, facts.st_mtime_ns]
