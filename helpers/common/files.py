"""Files that are either complete or absent, and a few facts about files."""

import contextlib
import dataclasses
import hashlib
import json
import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil

from helpers.common.errors import DamagedError


@contextlib.contextmanager
def replace_when_complete(target: Path) -> Iterator[Path]:
    """Yields a temporary path to write to, a file or a folder; it replaces `target` if the block succeeds.

    If the block fails or is interrupted, what it wrote is removed and an older `target` stays as it was.
    """
    target.parent.mkdir(parents=True, exist_ok=True)
    for abandoned in target.parent.glob(f".{target.name}.*.part"):  # left by a process that was killed
        if not psutil.pid_exists(int(abandoned.name.split(".")[-2])):
            shutil.rmtree(abandoned, ignore_errors=True)
    suffix = f".{os.getpid()}.part"
    workspace = Path(tempfile.mkdtemp(prefix=f".{target.name}.", suffix=suffix, dir=target.parent))
    try:
        fresh = workspace / target.name
        yield fresh
        give_ordinary_mode(fresh, workspace)
        if target.is_dir():
            target.rename(workspace / "old")
        os.replace(fresh, target)
    finally:
        shutil.rmtree(workspace, ignore_errors=True)


def give_ordinary_mode(fresh: Path, workspace: Path) -> None:
    """Gives the file `fresh`, or the files in that folder, the mode that the umask gives to a new file.

    Some libraries write a file under a temporary name that only its owner may read: safetensors is one. A
    file with other names, a hard link, keeps its mode, which is that of somebody's own file.
    """
    probe = workspace / "mode"
    probe.touch()
    ordinary = probe.stat().st_mode
    for path in (fresh, *fresh.rglob("*")):
        if path.is_file() and not path.is_symlink() and path.stat().st_nlink == 1:
            path.chmod(path.stat().st_mode | ordinary)


def write_text(path: Path, text: str) -> Path:
    """Writes a UTF-8 text file, whole or not at all. Returns the path."""
    with replace_when_complete(Path(path)) as fresh:
        fresh.write_text(text, encoding="utf-8")
    return Path(path)


def write_json(path: Path, value: object) -> Path:
    """Writes `value` as indented JSON, whole or not at all; dataclasses become objects. Returns the path."""
    text = json.dumps(value, indent=2, ensure_ascii=False, default=dataclasses.asdict)
    return write_text(path, text + "\n")


def read_json(path: Path, remedy: str) -> dict[str, Any]:
    """The JSON object in a file; a DamagedError with `remedy` if the file holds anything else."""
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:  # UnicodeDecodeError is a ValueError
        raise DamagedError(f"{path} is not valid JSON ({error}).", remedy) from None
    if not isinstance(value, dict):
        raise DamagedError(f"{path} does not hold a JSON object.", remedy)
    return value


def hash_text(text: str) -> str:
    """sha256 of a text in UTF-8, in hexadecimal."""
    return hashlib.sha256(text.encode()).hexdigest()


def hash_file(path: Path) -> str:
    """sha256 of a file, in hexadecimal."""
    with Path(path).open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def list_subfolders(folder: Path) -> list[str]:
    """Names of the folders in a folder, sorted, without hidden ones; [] if it does not exist."""
    return sorted(path.name for path in folder.glob("[!.]*") if path.is_dir())


def size_of(folder: Path) -> int:
    """Bytes of all files below a folder; what another program removes in the meantime counts as 0."""
    total = 0
    for parent, _, names in os.walk(folder):  # unlike rglob, it skips a folder that has just vanished
        for name in names:
            with contextlib.suppress(OSError):
                total += os.stat(os.path.join(parent, name)).st_size
    return total
