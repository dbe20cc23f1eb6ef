"""Where the API key is from: the command line, a file or the environment."""

import os
import re
from pathlib import Path

from helpers.common.errors import NotFoundError, UsageError

KEY_VARIABLE = "OPEN_LLM_KIT_API_KEY"
MAX_KEY = 1024  # characters; a header must hold it


def find_key(
    given: str | None, file: Path | None, flag: str = "--api-key", variable: str = KEY_VARIABLE
) -> str | None:
    """The key of the command line, or else of the file, or else of the environment; None without any.

    It is taken out of the environment, so that processes which this one starts do not have it. Raises a
    UsageError for a key that no header can hold, NotFoundError for a file that cannot be read. No error
    shows a key.
    """
    of_environment = os.environ.pop(variable, None)
    if given is not None:
        return check_key(given, flag)
    if file is not None:
        return check_key(read_key(file), f"the file {file}")
    return check_key(of_environment, variable) if of_environment else None


def read_key(file: Path) -> str:
    """What the file has, without the end of its line. A pipe is refused: to open it could take for ever."""
    try:
        if file.exists() and not file.is_file():
            raise ValueError("it is not a regular file")
        with file.open("rb") as opened:
            return opened.read(2 * MAX_KEY).decode("latin-1").strip("\r\n")
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or error
        raise NotFoundError(
            f"The key cannot be read from {file}: {reason}.", "Name a file with it."
        ) from None


def check_key(key: str, source: str) -> str:
    """The key. Raises a UsageError unless it consists of visible ASCII characters."""
    if not re.fullmatch(rf"[!-~]{{1,{MAX_KEY}}}", key):
        remedy = f"Use 1 to {MAX_KEY} ASCII characters without spaces."
        raise UsageError(f"The key of {source} cannot be sent in a header.", remedy)
    return key
