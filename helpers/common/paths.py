"""Open LLM Kit: the code that the five notebooks share.

Promise of this file: what every module needs and nothing else: the error that names its remedy, the project's folders, files that
are complete or absent, and how a command reads its words and ends. It imports no module of the kit.
"""

import os
import subprocess
from pathlib import Path

from helpers.common.errors import KitError

PROJECT = Path(__file__).resolve().parents[2]


def find_home() -> Path:
    """Folder that holds models/, loras/ and runs/: $OPEN_LLM_KIT_HOME, else the nearest parent of the working folder with notebooks/.

    Raises KitError where there is neither.
    """
    if os.environ.get("OPEN_LLM_KIT_HOME"):
        return Path(os.environ["OPEN_LLM_KIT_HOME"]).expanduser().resolve()
    here = Path.cwd().resolve()
    for folder in (here, *here.parents):
        if (folder / "notebooks").is_dir():
            return folder
    raise KitError(
        f"No folder with notebooks/ at or above {here}.",
        "Run this inside the kit's folder, or set OPEN_LLM_KIT_HOME.",
    )


def find_file(path: str | Path, what: str) -> Path:
    """An input file as the user named it: as it stands, else below the home, else below the project.

    `what` names the kind of file in the KitError raised when it is nowhere.
    """
    path = Path(path).expanduser()
    for candidate in (path, find_home() / path, PROJECT / path):
        if candidate.is_file():
            return candidate
    raise KitError(
        f"No {what} at {path}.",
        f"Give the path of an existing {what} (tried here, in {find_home()} and in {PROJECT}).",
    )


def resolve_inside(base: Path, name: str, what: str) -> Path:
    """`base`/`name`, refused with a KitError when the name is empty or leads out of `base`."""
    folder = (base / name).resolve()
    if not name or folder == base.resolve() or not folder.is_relative_to(base.resolve()):
        raise KitError(f"'{name}' is no name for a {what}.", f"Use a plain folder name; it lies in {base}.")
    return folder


def find_commit() -> str:
    """The project's git commit, short, with -dirty for uncommitted changes; "unknown" outside a git checkout."""
    command = ["git", "-C", str(PROJECT), "describe", "--always", "--dirty", "--abbrev=12", "--exclude=*"]
    try:
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return "unknown"
