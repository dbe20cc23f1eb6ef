"""Where things are: the project, the home of models/, loras/ and runs/, and files named by the user."""

import os
import subprocess
from pathlib import Path

from helpers.common.errors import NotFoundError, UsageError

PROJECT = Path(__file__).resolve().parents[2]


def find_home() -> Path:
    """The folder that holds models/, loras/ and runs/.

    It is $OPEN_LLM_KIT_HOME, or else the nearest folder at or above here that has notebooks/.
    Raises NotFoundError if there is neither.
    """
    if os.environ.get("OPEN_LLM_KIT_HOME"):
        return Path(os.environ["OPEN_LLM_KIT_HOME"]).expanduser().resolve()
    here = Path.cwd().resolve()
    for folder in (here, *here.parents):
        if (folder / "notebooks").is_dir():
            return folder
    problem = f"No folder with notebooks/ at or above {here}."
    raise NotFoundError(problem, "Run this inside the kit's folder, or set OPEN_LLM_KIT_HOME.")


def find_file(path: str | Path, what: str, or_folder: bool = False) -> Path:
    """An input file as the user named it: relative to the working directory, to the home, or to the project.

    `what` names the kind of file in the NotFoundError that is raised if it is in none of the three. With
    `or_folder`, a folder will do.
    """
    path = Path(path).expanduser()

    def is_there(candidate: Path) -> bool:
        return candidate.is_file() or (or_folder and candidate.is_dir())

    if is_there(path):  # this needs no home, which a researcher's own folder may not have
        return path
    for candidate in (find_home() / path, PROJECT / path):
        if is_there(candidate):
            return candidate
    tried = f"tried here, in {find_home()} and in {PROJECT}"
    raise NotFoundError(f"No {what} at {path}.", f"Give the path of an existing {what} ({tried}).")


def resolve_inside(folder: Path, name: str, what: str) -> Path:
    """`folder`/`name`; a UsageError if that is not inside `folder`. `what` says what the name is for.

    Only the name is judged: it may not lead out with ".." or as an absolute path. What lies under it may be a
    link to anywhere, since the user made that. The result keeps the link's name. Raises NotFoundError if the
    link's target is gone.
    """
    folder = folder.resolve()
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
