"""Whether a file with weights is there as a whole, found out without reading the weights."""

import json
from pathlib import Path

# What git leaves in place of a large file if git-lfs is not installed.
LFS_POINTER = b"version https://git-lfs"


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
        if size < 8 + length:
            return False
        try:
            header = json.loads(file.read(length))
            ends = [entry["data_offsets"][1] for key, entry in header.items() if key != "__metadata__"]
            return size == 8 + length + max(ends, default=0)
        except (ValueError, LookupError, AttributeError, TypeError, RecursionError):
            return False
