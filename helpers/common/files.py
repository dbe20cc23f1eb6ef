"""Files that are either complete or absent, and a few facts about files."""

import contextlib
import dataclasses
import errno
import hashlib
import io
import json
import os
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, TypeVar

from helpers.common.arguments import state_reason
from helpers.common.errors import DamagedError, KitError
from helpers.common.forms import find_misfit
from helpers.common.os_errors import explain_number, fills_disk, find_full
from helpers.common.outputs import explain_unwritable, refuse_what_stays, show_bytes
from helpers.common.paths import check_path
from helpers.common.values import check_text
from helpers.common.workspaces import DONE, NEW, exchange, open_workspace, remove_abandoned

T = TypeVar("T")
READ_AGAIN = 20  # how often a folder is read that is replaced again and again
ABSENT_AGAIN = 4  # how often it is looked for while there is none
BLOCK = 1 << 20  # bytes that are read at once
MOST_BYTES = 100_000_000  # that a text file may have; the largest tokenizers have 35 MB


@contextlib.contextmanager
def replace_when_complete(
    target: Path,
    made_by_kit: Callable[[Path], bool] | None = None,
    set_aside: Callable[[Path], Path] | None = None,
) -> Iterator[Path]:
    """Yields a temporary path to write to, a file or a folder; it replaces `target` if the block succeeds.

    If the block fails or is interrupted, what it wrote is removed and an older `target` stays as it was; it
    takes the name that `set_aside` gives for it, if that is given. Otherwise a file replaces only a file (one
    for which `made_by_kit` is true, if that is given), and a folder only one for which `made_by_kit` is true:
    an AlreadyThereError if not. Commands find that out before their work, by check_output. What is complete
    when the process is killed takes its place with the next call. A full disk is a ResourceError that names
    `target`, which libraries leave out.
    """
    target.parent.mkdir(parents=True, exist_ok=True)
    remove_abandoned(target)
    with open_workspace(target) as workspace:
        fresh = workspace / NEW / target.name
        with name_full_disk(target):
            yield fresh
        give_ordinary_mode(fresh, workspace)
        if not set_aside:
            refuse_what_stays(target, "folder" if fresh.is_dir() else "file", made_by_kit)
        (workspace / DONE).touch()
        if set_aside and os.path.lexists(target):
            target.rename(set_aside(target))
        if fresh.is_dir() and os.path.lexists(target):
            exchange(workspace, target)
        else:
            os.replace(fresh, target)


@contextlib.contextmanager
def name_full_disk(target: Path) -> Iterator[None]:
    """Turns what a full disk makes of the block into a ResourceError that names `target`."""
    try:
        yield
    except Exception as error:
        if isinstance(error, KitError) or not fills_disk(error):
            raise
        raise explain_number(find_full(error), str(target)) from error


def give_ordinary_mode(fresh: Path, workspace: Path) -> None:
    """Gives the file `fresh`, or the files in that folder, the mode that the umask gives to a new file.

    Some libraries write a file under a temporary name that only its owner may read: safetensors is one.
    """
    probe = workspace / "mode"
    probe.touch()
    ordinary = probe.stat().st_mode
    for path in (fresh, *fresh.rglob("*")):
        if path.is_file() and not path.is_symlink():
            path.chmod(path.stat().st_mode | ordinary)


def write_text(path: Path, text: str, made_by_kit: Callable[[Path], bool] | None = None) -> Path:
    """Writes a UTF-8 text file, whole or not at all, as replace_when_complete.

    Returns the path; a ResourceError if that fails, a UsageError for a name or a text that cannot be written.
    """
    path = check_path(path)
    check_text(f"The text for {path}", text)
    with explain_unwritable(path), replace_when_complete(path, made_by_kit) as fresh:
        fresh.write_text(text, encoding="utf-8")
    return path


def write_json(path: Path, value: object, made_by_kit: Callable[[Path], bool] | None = None) -> Path:
    """Writes `value` as indented JSON, as write_text; dataclasses become objects. Returns the path."""
    text = json.dumps(value, indent=2, ensure_ascii=False, default=dataclasses.asdict)
    return write_text(path, text + "\n", made_by_kit)


def read_text(path: Path, remedy: str, most: int = MOST_BYTES) -> str:
    """The text in a UTF-8 file, with line ends as \\n.

    Raises a DamagedError with `remedy` for another encoding or more than `most` bytes, a ResourceError if it
    cannot be read at all.
    """
    try:
        content = bytearray()
        with path.open("rb") as file:  # block by block: read(most) would ask for so much memory at once
            while len(content) <= most and (block := file.read(BLOCK)):
                content += block
        if len(content) > most:
            raise DamagedError(f"{path} has more than {show_bytes(most)}, too much for what it is.", remedy)
        return io.TextIOWrapper(io.BytesIO(content), encoding="utf-8").read()
    except UnicodeDecodeError as error:
        raise DamagedError(f"{path} is not a text in UTF-8 ({error}).", remedy) from None
    except OSError as error:
        raise explain_number(error.errno or errno.EIO, str(path)) from None


def read_json(path: Path, remedy: str, form: Any = dict) -> dict[str, Any]:
    """The JSON object in a file; a DamagedError with `remedy` if the file holds anything else.

    `form` is a TypedDict with the kinds of the values (helpers.common.forms). Errors as read_text.
    """
    text = read_text(path, remedy)
    try:
        value = json.loads(text)
        if "\\ud" in text.lower():  # half of a character, which no file can hold
            json.dumps(value, ensure_ascii=False).encode()
    except (ValueError, RecursionError) as error:
        raise DamagedError(f"{path} is not valid JSON ({state_reason(error)}).", remedy) from None
    if not isinstance(value, dict):
        raise DamagedError(f"{path} does not hold a JSON object.", remedy)
    if misfit := find_misfit(value, form):
        raise DamagedError(f"{path} is damaged: {misfit}.", remedy)
    return value


@contextlib.contextmanager
def explain_odd_form(path: Path, remedy: str) -> Iterator[None]:
    """Turns what odd values from a file lead to inside the block into a DamagedError with `remedy`.

    For files whose form others decide; for the kit's own, read_json takes a form.
    """
    try:
        yield
    except (TypeError, ValueError, LookupError, AttributeError, ArithmeticError, RecursionError) as error:
        problem = f"{path} has something odd in it ({type(error).__name__}: {str(error)[:100]})."
        raise DamagedError(problem, remedy) from None


def hash_text(text: str) -> str:
    """sha256 of a text in UTF-8, in hexadecimal."""
    return hashlib.sha256(text.encode()).hexdigest()


def hash_file(path: Path) -> str:
    """sha256 of a file, in hexadecimal."""
    with Path(path).open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def identify(path: Path) -> tuple[int, ...] | None:
    """What tells this very file or folder from another one that takes its name; None if there is none.

    Of a folder it also changes when a file is added to it or taken out.
    """
    try:
        facts = path.stat()
    except OSError:
        return None
    return facts.st_dev, facts.st_ino, facts.st_mtime_ns  # the number of what was deleted is given again


def read_steadily(folder: Path, read: Callable[[], T]) -> T:
    """What `read` returns, from a folder that another process may replace meanwhile: then it reads again.

    Errors are those of `read` in a folder that stayed, or that is not there.
    """
    absent = 0
    for _ in range(READ_AGAIN):
        before = identify(folder)
        absent += before is None  # as it is for a moment, between two renames
        try:
            found = read()
            if identify(folder) == before:
                return found
        except (KitError, OSError):
            if identify(folder) == before and (before or absent == ABSENT_AGAIN):
                raise
            time.sleep(0.05)
    return read()


def list_subfolders(folder: Path) -> list[str]:
    """Names of the folders in a folder, sorted, without hidden ones; [] if it does not exist.

    Raises a NotADirectoryError if it is something else, and a PermissionError for one that cannot be read:
    it is not empty.
    """
    try:
        names = os.listdir(folder)
    except FileNotFoundError:
        return []
    return sorted(name for name in names if not name.startswith(".") and (folder / name).is_dir())


def size_of(folder: Path) -> int:
    """Bytes of all files below a folder; what another program removes in the meantime counts as 0."""
    total = 0
    for parent, _, names in os.walk(folder):  # unlike rglob, it skips a folder that has just vanished
        for name in names:
            with contextlib.suppress(OSError):
                total += os.stat(os.path.join(parent, name)).st_size
    return total
