"""Whether a file or folder can be written where it is asked for: decided before the work, not at its end."""

import contextlib
import errno
import hashlib
import os
import shutil
import tempfile
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Literal

from helpers.common.errors import AlreadyThereError, NotFoundError, ResourceError, UsageError
from helpers.common.os_errors import explain_number
from helpers.common.paths import check_path, find_home, resolve_inside

SHORT_BYTES = 100  # that every file system takes
ANOTHER_NAME = "Choose another name, or move it away."


def check_output(
    path: str | Path,
    kind: Literal["file", "folder"],
    made_by_kit: Callable[[Path], bool] | None = None,
    bytes_needed: int = 0,
    remedy: str = ANOTHER_NAME,
) -> Path:
    """The path, if a file or folder can be written there; call it before the work, since nothing is made.

    A file may replace a regular file; with `made_by_kit`, only one for which that is true. A folder may
    replace one for which `made_by_kit` is true, and no other. A link is judged by what it points to. Raises
    UsageError for a name that cannot be, AlreadyThereError with `remedy` for what must stay, ResourceError if
    nothing can be written there or `bytes_needed` do not fit.
    """
    path = check_path(path)
    if str(path).startswith("~"):  # the shell puts a home in its place, if there is one
        problem = f"{str(path)[:40]} begins with ~, which stands for a home directory."
        raise UsageError(problem, "Write the path in full.")
    refuse_what_stays(path, kind, made_by_kit, remedy)
    parent = find_parent(path)
    refuse_unwritable(parent)
    refuse_no_room(path, parent, bytes_needed)
    return path


def refuse_what_stays(
    path: Path,
    kind: Literal["file", "folder"],
    made_by_kit: Callable[[Path], bool] | None = None,
    remedy: str = ANOTHER_NAME,
) -> None:
    """An AlreadyThereError if there is something at `path` that a new `kind` must not replace."""
    is_stream = path.is_symlink() and os.readlink(path).startswith("/proc/")  # such as /dev/stdout
    if not path.exists() and not is_stream:
        if path.is_symlink() and kind == "folder":  # a file takes the place of a link; a folder cannot
            raise AlreadyThereError(f"{path} is a link to {os.readlink(path)}, which is not there.", remedy)
        return
    if is_stream or not (path.is_dir() or path.is_file()):
        raise AlreadyThereError(f"{path} is a device or a pipe, not a file on a disk.", remedy)
    found = "folder" if path.is_dir() else "file"
    if found != kind:
        raise AlreadyThereError(f"{path} is a {found}, and a {kind} is to be written.", remedy)
    replaceable = made_by_kit(path) if made_by_kit else kind == "file"
    if not replaceable:
        problem = f"{path} is there already" + (", and this kit did not make it." if made_by_kit else ".")
        raise AlreadyThereError(problem, remedy)


def find_parent(path: Path) -> Path:
    """The nearest folder above `path` that is there; a UsageError if something else is in the way."""
    parent = next(folder for folder in path.absolute().parents if os.path.lexists(folder))
    if not parent.is_dir():
        raise UsageError(f"{path} leads through {parent}, which is not a folder.", "Name another place.")
    return parent


def refuse_kept(path: Path, inputs: Iterable[Path]) -> None:
    """A UsageError for an output that is one of the `inputs`, or in one, or in the home's models or loras."""
    remedy = "Choose another name for the output."
    for each in inputs:
        if is_below(path, each):
            raise UsageError(f"{path} is read here, and would be overwritten.", remedy)
    with contextlib.suppress(NotFoundError):  # there is no home, so there are no such folders
        for folder in (find_home() / "models", find_home() / "loras"):
            if is_below(path, folder):
                raise UsageError(f"{path} is in {folder}, which is kept for models and LoRAs.", remedy)


def is_below(path: Path, folder: Path) -> bool:
    """Whether `path` is `folder` or lies in it, as it is written or where links lead."""
    written = Path(os.path.normpath(path.absolute()))
    return written.is_relative_to(folder.absolute()) or path.resolve().is_relative_to(folder.resolve())


def refuse_unwritable(parent: Path) -> None:
    """A ResourceError if nothing can be written in the folder `parent`."""
    try:
        with tempfile.TemporaryDirectory(dir=parent, prefix="."):
            pass
    except OSError as error:
        problem = f"Nothing can be written to {parent} ({error.strerror})."
        raise ResourceError(problem, "Choose another folder, or fix its permissions.") from None


def refuse_no_room(path: Path, parent: Path, bytes_needed: int) -> None:
    """A ResourceError if the disk of the folder `parent` has less room than `path` needs."""
    free = shutil.disk_usage(parent).free
    if bytes_needed > free:
        problem = f"{path} needs {show_bytes(bytes_needed)}; the disk of {parent} has {show_bytes(free)}."
        raise ResourceError(problem, "Make room, or choose a folder on a larger disk.")


def show_bytes(count: int) -> str:
    """A size in the unit in which it is not 0.00."""
    for unit, size in (("GB", 1e9), ("MB", 1e6), ("kB", 1e3)):
        if count >= size / 100:
            return f"{count / size:.2f} {unit}"
    return f"{count} bytes"


@contextlib.contextmanager
def explain_unwritable(path: Path) -> Iterator[None]:
    """Turns an OSError of the block, which only writes `path`, into an error of one line that names it."""
    try:
        yield
    except OSError as error:
        raise explain_number(error.errno or errno.EIO, str(path)) from None


def name_new_folder(folder: Path, name: str, what: str) -> Path:
    """`folder`/`name` for a new folder that lists show: not deeper, nor hidden. Errors as resolve_inside."""
    check_path(name)
    path = resolve_inside(folder, name, what)
    if path.parent != folder.resolve() or path.name.startswith("."):
        problem = f"'{name}' is not a name that lists in {folder} would show."
        raise UsageError(problem, f"Use a plain name for the {what}, such as {path.name.lstrip('.')}.")
    return path


def make_name(name: str, before: str = "", after: str = "") -> str:
    """`name` with something before and after it, shortened with a hash where the disk may not take it.

    The result has at most as many bytes as `name`, or SHORT_BYTES.
    """
    limit = max(len(os.fsencode(name)), SHORT_BYTES)
    if len(os.fsencode(whole := before + name + after)) <= limit:
        return whole
    digest = "~" + hashlib.sha256(os.fsencode(name)).hexdigest()[:12]
    room = limit - len(os.fsencode(before + digest + after))
    cut = os.fsencode(name)[:room].decode("utf-8", errors="ignore")
    return before + cut + digest + after
