"""What a GGUF file says of itself before its weights: its settings, and the tensors' shapes. Only that is read.

The gguf package reads a vocabulary too, piece by piece: 2 s for one of 49152 tokens. Format: ggml, docs/gguf.md, versions 2 and 3, little-endian.
"""

import struct
from pathlib import Path
from typing import BinaryIO

from gguf import GGUFValueType

from helpers.common.errors import KitError

# How struct writes a value of each kind, in the order of their numbers; strings (8) and arrays (9) have a length of their own.
CODES = dict(
    zip(
        [kind for kind in GGUFValueType if kind not in (GGUFValueType.STRING, GGUFValueType.ARRAY)],
        "BbHhIif?Qqd",
        strict=True,
    )
)


def read_header(path: Path) -> tuple[dict[str, object], dict[str, tuple[int, ...]]]:
    """(settings but for lists, {name of a tensor: its shape as PyTorch has it}). KitError for a file that is no GGUF, or is cut short."""
    with path.open("rb") as file:
        try:
            magic, version, tensors, settings = unpack(file, "4sIQQ")
            if magic != b"GGUF" or version not in (2, 3):
                raise ValueError("it begins otherwise")
            fields = dict((read_text(file), read_value(file, *unpack(file, "I"))) for _ in range(settings))
            shapes = dict(read_shape(file) for _ in range(tensors))
        except (ValueError, struct.error) as error:
            raise KitError(f"{path} is no whole GGUF file ({error}).", "Fetch it again.") from None
    return {name: value for name, value in fields.items() if value is not None}, shapes


def unpack(file: BinaryIO, codes: str) -> tuple:
    """The next values of a file."""
    return struct.unpack("<" + codes, file.read(struct.calcsize("<" + codes)))


def read_text(file: BinaryIO) -> str:
    """A length and that many bytes."""
    (size,) = unpack(file, "Q")
    if len(data := file.read(min(size, 1 << 24))) != size:
        raise ValueError("it ends in the middle")
    return data.decode("utf-8", errors="replace")


def read_value(file: BinaryIO, kind: int) -> object:
    """A value; None for a list, which is passed over."""
    if kind == GGUFValueType.STRING:
        return read_text(file)
    if kind != GGUFValueType.ARRAY:
        return unpack(file, CODES[GGUFValueType(kind)])[0]
    inner, count = unpack(file, "IQ")
    if inner in (GGUFValueType.STRING, GGUFValueType.ARRAY):
        for _ in range(count):
            read_value(file, inner)
    else:
        file.seek(count * struct.calcsize(CODES[GGUFValueType(inner)]), 1)
    return None


def read_shape(file: BinaryIO) -> tuple[str, tuple[int, ...]]:
    """A tensor's name and shape; GGUF has the innermost size first."""
    name, (dimensions,) = read_text(file), unpack(file, "I")
    *sizes, _, _ = unpack(file, f"{dimensions}QIQ")
    return name, tuple(reversed(sizes))
