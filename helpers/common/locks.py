"""One writer at a time for a folder or file: locks that the kernel gives back when their process ends."""

import contextlib
import errno
import json
import os
import platform
import stat
import sys
import time
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from filelock import FileLock, SoftFileLock, Timeout

from helpers.common.errors import AlreadyThereError, ResourceError
from helpers.common.outputs import explain_unwritable, make_name

WITHOUT_LOCKS = {errno.ENOSYS, errno.ENOLCK, errno.EOPNOTSUPP, errno.ENOTSUP}  # a disk's words for "no locks"
FACTS = {"doing", "command", "process", "host", "since"}  # in a lock file
LONGEST = 10_000  # characters that a lock file has at most
JUST_MADE_S = 10  # a lock file is empty for milliseconds, until its holder has written into it
# filelock then falls back to files that stay when their process is killed. They are given back at once here.
warnings.filterwarnings("ignore", "flock not supported")


@contextlib.contextmanager
def hold(path: str | Path, doing: str, wait_s: float = 0) -> Iterator[None]:
    """Holds the name `path` for the block, so that no other process or thread of the kit writes it.

    The lock is the file .NAME.lock beside it, which says who holds it. The kernel gives the lock back however
    the process ends, and knows it across containers that share the folder. On a disk without locks, a
    warning says so. Raises AlreadyThereError if another holds it after `wait_s` seconds, or if the lock's
    name is that of somebody's file; `doing` says what the holder does, such as "a training". A thread cannot
    hold a name twice. An empty file that was there may be anybody's: it is locked, but neither written
    nor removed.
    """
    path = Path(path)
    with explain_unwritable(path):
        path.parent.mkdir(parents=True, exist_ok=True)
    file = path.parent.resolve() / make_name(path.name, ".", ".lock")
    refuse_foreign(file)
    try:
        lock, is_own = acquire_name(file, wait_s)
    except Timeout:
        remedy = "Wait until it has ended, or choose another name."
        raise AlreadyThereError(f"{path} is being written by {read_holder(file)}.", remedy) from None
    if lock is None:
        words = f"The disk of {path.parent} has no locks: do not let two programs write {path.name} at once."
        warnings.warn(words, stacklevel=3)
    try:
        if is_own:
            write_holder(file, doing)
        yield
    finally:
        if is_own:
            with contextlib.suppress(OSError):  # Windows keeps a file that is open
                file.unlink()  # while it is held: who opened it meanwhile notices that it has no name
        if lock:
            lock.release()


def acquire_name(file: Path, wait_s: float) -> tuple[FileLock | None, bool]:
    """(the lock on `file` as acquire, whether that file is the kit's to write and to remove).

    An empty file that has just been made is: another thread is about to take this lock, too.
    """
    was_there = os.path.lexists(file)
    lock = acquire(file, wait_s)
    if lock is None or not was_there:
        return lock, lock is not None
    facts = file.stat()
    return lock, facts.st_size > 0 or time.time() - facts.st_mtime < JUST_MADE_S


def acquire(file: Path, wait_s: float = 0) -> FileLock | None:
    """The lock on `file`, held; None if the disk does not have locks.

    Raises Timeout if another holds it, ResourceError if the file cannot be written.
    """
    lock = FileLock(file)
    try:
        lock.acquire(timeout=wait_s)
    except NotImplementedError:  # older releases of filelock
        return None
    except Timeout:
        raise
    except OSError as error:
        if error.errno in WITHOUT_LOCKS:
            return None
        problem = f"{file} cannot be locked ({error.strerror or error})."
        raise ResourceError(problem, "Fix the permissions, or choose another folder.") from None
    if isinstance(lock, SoftFileLock):
        lock.release()
        return None
    return lock


def refuse_foreign(file: Path) -> None:
    """An AlreadyThereError for a file that is not a lock: that is empty, or says who holds it."""
    try:
        is_file = stat.S_ISREG(file.lstat().st_mode)
        content = read_start(file) if is_file else ""
    except OSError:  # it is not there, or its holder has just removed it; or acquire says what is wrong
        return
    if not is_file or (content and parse_facts(content) is None):
        problem = f"{file} is there, and is not a lock of this kit's."
        raise AlreadyThereError(problem, "Move it away, or choose another name.")


def write_holder(file: Path, doing: str) -> None:
    """Writes into a lock file who holds it. No argument of the command is in it, which may be a secret."""
    facts = {
        "doing": doing,
        "command": " ".join(sys.orig_argv[1:3]) if sys.orig_argv[1:2] == ["-m"] else "Python",
        "process": os.getpid(),
        "host": platform.node(),
        "since": time.strftime("%Y-%m-%d %H:%M"),
    }
    with contextlib.suppress(OSError):  # Windows: nobody can write it now
        file.write_text(json.dumps(facts), encoding="utf-8")


def read_holder(file: Path) -> str:
    """Who holds a lock, in words, as far as its file says so."""
    with contextlib.suppress(OSError):  # it has just been given back
        if facts := parse_facts(read_start(file)):
            who = f"{facts['command']}, process {facts['process']} on {facts['host']}"
            return f"{facts['doing']} since {facts['since']} ({who})"
    return "another process"


def read_start(file: Path) -> str:
    """As much of a file as a lock file has at most; an OSError if it cannot be read."""
    with file.open(encoding="utf-8", errors="replace") as opened:
        return opened.read(LONGEST)


def parse_facts(content: str) -> dict[str, Any] | None:
    """What write_holder wrote into a lock file; None if it holds something else."""
    try:
        facts = json.loads(content)
    except (ValueError, RecursionError):
        return None
    return facts if isinstance(facts, dict) and facts.keys() >= FACTS else None
