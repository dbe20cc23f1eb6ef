"""Files that a tool writes only if their content changes."""

import tomllib
from pathlib import Path
from typing import Any

from helpers.common.errors import DamagedError
from helpers.common.files import read_text, write_text

RESTORE = "Restore it, with git for example."


def read_source(path: Path) -> str:
    """The text of a file of the project; a DamagedError if it is not one."""
    return read_text(path, RESTORE)


def read_toml(path: Path) -> dict[str, Any]:
    """The values in a TOML file of the project; a DamagedError if it is damaged."""
    try:
        return tomllib.loads(read_source(path))
    except tomllib.TOMLDecodeError as error:
        raise DamagedError(f"{path} is not valid TOML: {error}.", RESTORE) from None


def differs(path: Path, text: str) -> bool:
    """True if the file is not there or does not hold exactly this text."""
    return not path.is_file() or read_source(path) != text


def update_file(path: Path, text: str) -> bool:
    """Writes a text file if its content changes; True if it did."""
    if not differs(path, text):
        return False
    write_text(path, text)
    return True


def update_all(files: dict[Path, str]) -> None:
    """Writes text files, all or none: if one cannot be written, the others get their old text back."""
    before = {path: read_source(path) for path in files}
    try:
        for path, text in files.items():
            update_file(path, text)
    except BaseException:
        for path, text in before.items():
            update_file(path, text)
        raise
