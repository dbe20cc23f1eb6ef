"""Open LLM Kit: the code that the five notebooks share.

Promise of this file: what every module needs and nothing else: the error that names its remedy, the project's folders, files that
are complete or absent, and how a command reads its words and ends. It imports no module of the kit.
"""

import contextlib
import dataclasses
import hashlib
import json
import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import psutil


@contextlib.contextmanager
def replace_when_complete(target: Path) -> Iterator[Path]:
    """Gives a temporary path beside `target` to write to (a file or a folder); it takes the place of `target` when the block ends well.

    When the block fails or is interrupted, what was written is removed and an older `target` stays as it was.
    """
    target.parent.mkdir(parents=True, exist_ok=True)
    for abandoned in target.parent.glob(f".{target.name}.*.part"):  # of a process that was killed
        if not psutil.pid_exists(int(abandoned.name.split(".")[-2])):
            shutil.rmtree(abandoned, ignore_errors=True)
    workspace = Path(
        tempfile.mkdtemp(prefix=f".{target.name}.", suffix=f".{os.getpid()}.part", dir=target.parent)
    )
    try:
        fresh = workspace / target.name
        yield fresh
        if target.is_dir():
            target.rename(workspace / "old")
        os.replace(fresh, target)
    finally:
        shutil.rmtree(workspace, ignore_errors=True)


def write_json(path: Path, value: object) -> Path:
    """Writes `value` as indented UTF-8 JSON, whole or not at all; dataclasses in it become objects. Returns the path."""
    with replace_when_complete(Path(path)) as fresh:
        fresh.write_text(
            json.dumps(value, indent=2, ensure_ascii=False, default=dataclasses.asdict) + "\n",
            encoding="utf-8",
        )
    return Path(path)


def hash_file(path: Path) -> str:
    """sha256 of a file, hexadecimal."""
    with Path(path).open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def size_of(folder: Path) -> int:
    """Bytes of all files below a folder; one that vanishes meanwhile counts nothing."""
    total = 0
    for path in folder.rglob("*"):
        try:
            total += path.stat().st_size if path.is_file() else 0
        except OSError:
            continue
    return total
