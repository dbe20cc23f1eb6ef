"""Files that a tool writes only if their content changes."""

from pathlib import Path

from helpers.common.files import write_text


def differs(path: Path, text: str) -> bool:
    """True if the file is not there or does not hold exactly this text."""
    return not path.is_file() or path.read_text(encoding="utf-8") != text


def update_file(path: Path, text: str) -> bool:
    """Writes a text file if its content changes; True if it did."""
    if not differs(path, text):
        return False
    write_text(path, text)
    return True


def update_all(files: dict[Path, str]) -> None:
    """Writes text files, all or none: if one cannot be written, the others get their old text back."""
    before = {path: path.read_text(encoding="utf-8") for path in files}
    try:
        for path, text in files.items():
            update_file(path, text)
    except BaseException:
        for path, text in before.items():
            update_file(path, text)
        raise
