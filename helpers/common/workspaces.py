"""The hidden folder beside a file or folder in which its next version is made.

A lock in it tells whether its writer still lives, also where that runs in another container or on another
computer. What a killed writer left is removed by the next one.
"""

import contextlib
import glob
import os
import re
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

from filelock import FileLock, Timeout

from helpers.common.errors import ResourceError
from helpers.common.locks import acquire
from helpers.common.outputs import make_name

RANDOM, PART = "_" * 8, ".part"  # of a workspace's name: as many characters as tempfile draws; its end
DRAWN = re.compile("[a-z0-9_]{8}")  # what tempfile draws
LOCK, NEW, OLD = "lock", "new", "old"  # in a workspace: the writer's lock, what it makes, what that replaces
DONE = "done"  # in a workspace: a file that says that what is new is complete


@contextlib.contextmanager
def open_workspace(target: Path) -> Iterator[Path]:
    """Yields a workspace for `target`, locked during the block and removed after it.

    It stays if what is complete in it could not take the place of `target`: the next writer puts it there.
    """
    workspace, lock = make_workspace(target)
    try:
        (workspace / NEW).mkdir(parents=True)  # an empty workspace may just have been removed
        yield workspace
    finally:
        if lock:
            lock.release()
        if not is_due(workspace, target):
            shutil.rmtree(workspace, ignore_errors=True)


def make_workspace(target: Path) -> tuple[Path, FileLock | None]:
    """(an empty workspace for `target`, its lock or None on a disk without locks)."""
    while True:
        workspace = Path(tempfile.mkdtemp(prefix=name_prefix(target), suffix=PART, dir=target.parent))
        try:
            lock = acquire(workspace / LOCK)
        except (Timeout, ResourceError) as error:
            if isinstance(error, ResourceError) and workspace.is_dir():
                raise
            continue  # another writer took it for abandoned, before it was locked, and removes it
        if lock is None:
            (workspace / LOCK).unlink(missing_ok=True)
        return workspace, lock


def name_prefix(target: Path) -> str:
    """How the names of all workspaces of `target` begin."""
    return make_name(target.name, ".", f".{RANDOM}{PART}").removesuffix(RANDOM + PART)


def list_workspaces(target: Path) -> list[Path]:
    """The workspaces of `target`; those of NAME.more are not among those of NAME."""
    prefix = name_prefix(target)
    found = target.parent.glob(f"{glob.escape(prefix)}*{PART}")
    return [path for path in found if DRAWN.fullmatch(path.name[len(prefix) : -len(PART)])]


def remove_abandoned(target: Path) -> None:
    """Removes what killed writers of `target` left: workspaces whose lock can be had, and empty ones.

    If `target` is not there and one of them holds it complete, it is put in its place; if that fails, it
    stays where it is.
    """
    for workspace in list_workspaces(target):
        if not (workspace / LOCK).is_file():  # nobody knows whether its writer lives
            with contextlib.suppress(OSError):  # it is not empty
                workspace.rmdir()
            continue
        try:
            lock = acquire(workspace / LOCK)
        except (Timeout, ResourceError):
            continue
        if lock:
            with contextlib.suppress(OSError):
                finish_exchange(workspace, target)
            if is_due(workspace, target):
                lock.release()
            else:
                discard(workspace, lock)


def discard(workspace: Path, lock: FileLock) -> None:
    """Removes a workspace whose lock is held, and gives the lock back only then.

    A writer that is just making it has opened the lock file, but does not hold it yet. It would take the lock
    as soon as it is free, and lose what it writes. Now it finds that the file has no name, and makes another.
    """
    shutil.rmtree(workspace, ignore_errors=True)
    lock.release()
    with contextlib.suppress(OSError):  # Windows keeps a file that is open
        (workspace / LOCK).unlink()
        workspace.rmdir()


def exchange(workspace: Path, target: Path) -> None:
    """Swaps `target` and the folder that was made in the workspace."""
    fresh, old = workspace / NEW / target.name, workspace / OLD
    target.rename(old)
    try:
        fresh.rename(target)
    except OSError:
        if not os.path.lexists(target):
            old.rename(target)
        raise


def finish_exchange(workspace: Path, target: Path) -> None:
    """Ends a replacement in whose middle the writer was killed, so that `target` is there again."""
    if is_due(workspace, target):
        (workspace / NEW / target.name).rename(target)


def is_due(workspace: Path, target: Path) -> bool:
    """Whether a workspace holds a complete `target` that is not in its place."""
    is_complete = os.path.lexists(workspace / OLD) or (workspace / DONE).is_file()
    return is_complete and os.path.lexists(workspace / NEW / target.name) and not os.path.lexists(target)
