"""Whether the files of a model are there as a whole, found out without reading the weights."""

import contextlib
import errno
import json
from collections.abc import Iterable, Iterator
from pathlib import Path

from safetensors import SafetensorError

from helpers.common.errors import DamagedError
from helpers.common.files import MOST_BYTES
from helpers.common.os_errors import explain_number, find_number

# What git leaves in place of a large file if git-lfs is not installed.
LFS_POINTER = b"version https://git-lfs"
TEXT_SUFFIXES = (".json", ".jinja", ".txt", ".model")  # of what describes a model and its tokenizer
LONGEST_HEADER = 100_000_000  # bytes, of a safetensors file; the library takes no longer one either


def find_too_long(paths: Iterable[Path]) -> Path | None:
    """The first text, by name, that is longer than any: libraries read these as a whole."""
    texts = (path for path in sorted(paths) if path.suffix in TEXT_SUFFIXES and path.is_file())
    return next((path for path in texts if path.stat().st_size > MOST_BYTES), None)


def is_lfs_pointer(path: Path) -> bool:
    """True if the file only points to its content, which git-lfs did not fetch."""
    with path.open("rb") as file:
        return file.read(len(LFS_POINTER)) == LFS_POINTER


def has_whole_safetensors(path: Path) -> bool:
    """True if the file is as long as its header says.

    The format: 8 bytes with the header's length, a JSON header with each tensor's data_offsets, then the
    data.
    """
    size = path.stat().st_size
    with path.open("rb") as file:
        length = int.from_bytes(file.read(8), "little")
        if size < 8 + length or length > LONGEST_HEADER:
            return False
        try:
            header = json.loads(file.read(length))
            ends = [entry["data_offsets"][1] for key, entry in header.items() if key != "__metadata__"]
            return size == 8 + length + max(ends, default=0)
        except (ValueError, LookupError, AttributeError, TypeError, RecursionError):
            return False


@contextlib.contextmanager
def explain_damage(file: Path) -> Iterator[None]:
    """Turns what safetensors raises for a file inside the block into a KitError.

    Of a file that may not be read, safetensors says that it does not exist. So it is opened here first.
    """
    try:
        file.open("rb").close()
        yield
    except (SafetensorError, OSError, MemoryError) as error:
        number = find_number(error) or (errno.ENOMEM if isinstance(error, MemoryError) else None)
        if number:
            raise explain_number(number, str(file)) from None
        raise DamagedError(
            f"{file} cannot be read ({error}).", "Fetch it again, or train it again."
        ) from None
