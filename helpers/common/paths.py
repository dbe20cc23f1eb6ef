"""Where things are: the project, the home of models/, loras/ and runs/, and files named by the user."""

import os
import subprocess
from pathlib import Path

from helpers.common.arguments import NAME_BYTES, shorten
from helpers.common.errors import NotFoundError, UnsupportedError, UsageError

PATH_BYTES = 4000  # in a path, with some room for what is below it
PROJECT = Path(__file__).resolve().parents[2]


def find_home() -> Path:
    """The folder that holds models/, loras/ and runs/.

    It is $OPEN_LLM_KIT_HOME, or else the nearest folder at or above here that has notebooks/.
    Raises NotFoundError if there is neither, UsageError for ~NAME without such a user.
    """
    if os.environ.get("OPEN_LLM_KIT_HOME"):
        return expand_user(os.environ["OPEN_LLM_KIT_HOME"]).resolve()
    here = Path.cwd().resolve()
    for folder in (here, *here.parents):
        if (folder / "notebooks").is_dir():
            return folder
    problem = f"No folder with notebooks/ at or above {here}."
    raise NotFoundError(problem, "Run this inside the kit's folder, or set OPEN_LLM_KIT_HOME.")


def list_homes() -> list[Path]:
    """The home, or nothing where there is none."""
    try:
        return [find_home()]
    except NotFoundError:
        return []


def expand_user(path: str | Path) -> Path:
    """The path, with ~ or ~NAME replaced by a user's home folder; a UsageError if there is no such user."""
    try:
        return Path(path).expanduser()
    except RuntimeError:
        problem = f"'{path}' is in the home of a user who does not exist or has none."
        raise UsageError(problem, "Write the path in full.") from None


def check_path(path: str | Path) -> Path:
    """The path; a UsageError for one that no file or folder can have."""
    text, remedy = str(path), "Give the name of a file or folder."
    if not text.strip():
        raise UsageError("The name of a file or folder is empty.", remedy)
    try:
        written = os.fsencode(text)
    except UnicodeEncodeError:  # half of a character that has two halves
        written = b"\0"
    if b"\0" in written:
        raise UsageError(f"{shorten(text)} has a character that a name cannot have.", remedy)
    if max(map(len, written.split(os.sep.encode()))) > NAME_BYTES or len(written) > PATH_BYTES:
        problem = f"{text[:40]}... is too long: a name has at most {NAME_BYTES} bytes."
        raise UsageError(problem, "Shorten it.")
    return Path(text)


def find_file(path: str | Path, what: str, or_folder: bool = False) -> Path:
    """An input file as the user named it: relative to the working directory, to the home, or to the project.

    `what` names the kind of file in the NotFoundError that is raised if it is in none of the three. With
    `or_folder`, a folder will do. Raises an UnsupportedError for something else that is there, such as a
    pipe, and a UsageError for a name that no file can have.
    """
    path = expand_user(check_path(path))

    def is_there(candidate: Path) -> bool:
        return candidate.is_file() or (or_folder and candidate.is_dir())

    if is_there(path):  # this needs no home, which a researcher's own folder may not have
        return path
    others = list(dict.fromkeys([*list_homes(), PROJECT]))
    for candidate in (folder / path for folder in others):
        if is_there(candidate):
            return candidate
    if path.exists():
        kind = "a folder" if path.is_dir() else "a device, a pipe or a socket"
        raise UnsupportedError(f"{path} is {kind}, not a {what}.", f"Give the path of a {what}.")
    tried = " and ".join(["tried here", *(f"in {folder}" for folder in others)])
    raise NotFoundError(f"No {what} at {path}.", f"Give the path of an existing {what} ({tried}).")


def resolve_inside(folder: Path, name: str, what: str) -> Path:
    """`folder`/`name`; a UsageError if that is not inside `folder`. `what` says what the name is for.

    Only the name is judged: it may not lead out with ".." or as an absolute path. What lies under it may be a
    link to anywhere, since the user made that. The result keeps the link's name. Raises NotFoundError if the
    link's target is gone, and if `folder` is something else. A name that no folder can have is a UsageError
    too.
    """
    folder = folder.resolve()
    if folder.exists() and not folder.is_dir():
        raise NotFoundError(f"{folder} is not a folder.", f"Name the folder that has the {what}.")
    if name:
        check_path(name)
    found = Path(os.path.normpath(folder / name))
    if not name or found == folder or not found.is_relative_to(folder):
        raise UsageError(
            f"'{name}' is not a valid name for a {what}.", f"Use a plain folder name in {folder}."
        )
    if found.is_symlink() and not found.exists():
        problem = f"{found} is a link to {os.readlink(found)}, which is not there."
        raise NotFoundError(problem, "Bring back what it points to, or delete the link.")
    return found


def find_commit() -> str:
    """The project's git commit, 12 characters, then -dirty if files differ; "unknown" without a checkout."""
    command = ["git", "-C", str(PROJECT), "describe", "--always", "--dirty", "--abbrev=12", "--exclude=*"]
    try:
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return "unknown"
