"""What a GGUF file says before its weights: its settings, and the names and shapes of its tensors.

Only that part is read. The gguf package would also make an object of every entry of the vocabulary, which
takes 2 s for 49152 tokens. Format: ggml, docs/gguf.md, versions 2 and 3, little-endian.

The layout, with an example:

    magic "GGUF", version 3, number of tensors 272, number of settings 33
    settings, each: name, kind, value       "llama.block_count"  UINT32  30
                                            "tokenizer.ggml.tokens"  ARRAY of STRING, 49152 times
    tensors, each: name, number of sizes, the sizes (innermost first), kind, offset
                                            "blk.0.ffn_up.weight"  2  (576, 1536)  Q4_1  31189248
    weights
"""

import os
import struct
from collections.abc import Collection
from pathlib import Path
from typing import Any, BinaryIO

from gguf import GGUFValueType

from helpers.common.errors import DamagedError
from helpers.weights.gguf_files import list_parts

MAGIC = b"GGUF"
VERSIONS = (2, 3)
LONGEST_TEXT = 1 << 24  # bytes; a longer name or string means that the file is damaged
MOST_DIMENSIONS = 8  # of a tensor; ggml allows 4
TOKENS = "tokenizer.ggml.tokens"  # the setting that lists the vocabulary

# How the struct module writes a number of each kind.
NUMBER_CODES = {
    GGUFValueType.UINT8: "B",
    GGUFValueType.INT8: "b",
    GGUFValueType.UINT16: "H",
    GGUFValueType.INT16: "h",
    GGUFValueType.UINT32: "I",
    GGUFValueType.INT32: "i",
    GGUFValueType.UINT64: "Q",
    GGUFValueType.INT64: "q",
    GGUFValueType.FLOAT32: "f",
    GGUFValueType.FLOAT64: "d",
    GGUFValueType.BOOL: "?",
}


def read_header(path: Path, lists: Collection[str] = ()) -> tuple[dict[str, Any], dict[str, tuple[int, ...]]]:
    """(settings, {name of a tensor: its shape in PyTorch's order}).

    The settings are texts, numbers and truth values, and the lists that are named in `lists`. Of a model in
    several parts, of which `path` is the first, the settings are in that one and the tensors in all. Raises
    DamagedError if a file is missing, is not a GGUF file or is cut short before its weights.
    """
    settings, shapes = read_file(path, lists)
    for name in list_parts(path.name)[1:]:
        shapes |= read_file(path.with_name(name))[1]
    return settings, shapes


def read_file(path: Path, lists: Collection[str] = ()) -> tuple[dict[str, Any], dict[str, tuple[int, ...]]]:
    """The same for one file."""
    try:
        with path.open("rb") as file:
            return read_contents(file, lists)
    except FileNotFoundError:
        raise DamagedError(f"{path} is missing.", "Fetch the model again.") from None
    except (ValueError, LookupError, RecursionError, struct.error) as error:
        problem = f"{path} is not a complete GGUF file ({error})."
        raise DamagedError(problem, "Fetch it again.") from None


def read_contents(
    file: BinaryIO, lists: Collection[str]
) -> tuple[dict[str, Any], dict[str, tuple[int, ...]]]:
    """The same from an open file; a ValueError or a struct.error if it is damaged."""
    magic, version, tensor_count, setting_count = read_numbers(file, "4sIQQ")
    if magic != MAGIC or version not in VERSIONS:
        raise ValueError("it does not begin as one")
    settings = {}
    for _ in range(setting_count):
        name = read_text(file)
        (kind,) = read_numbers(file, "I")
        value = read_list(file) if name in lists else read_value(file, kind)
        if value is not None:
            settings[name] = value
    shapes = dict(read_tensor_entry(file) for _ in range(tensor_count))
    return settings, shapes


def read_numbers(file: BinaryIO, codes: str) -> tuple[Any, ...]:
    """The next numbers of the file, in the notation of the struct module."""
    little_endian = "<" + codes
    return struct.unpack(little_endian, file.read(struct.calcsize(little_endian)))


def read_text(file: BinaryIO) -> str:
    """A string: its length in bytes as UINT64, then that many bytes of UTF-8."""
    (length,) = read_numbers(file, "Q")
    data = file.read(min(length, LONGEST_TEXT))
    if len(data) != length:
        raise ValueError("it ends in the middle of a text")
    return data.decode("utf-8", errors="replace")


def read_value(file: BinaryIO, kind: int) -> str | int | float | bool | None:
    """A value of this kind; None for a list, which is skipped."""
    if kind == GGUFValueType.STRING:
        return read_text(file)
    if kind == GGUFValueType.ARRAY:
        skip_list(file)
        return None
    (number,) = read_numbers(file, NUMBER_CODES[GGUFValueType(kind)])
    return number


def read_list(file: BinaryIO) -> list[Any]:
    """A list of texts or numbers: the kind of its values, their number, then the values."""
    kind, count = read_numbers(file, "IQ")
    return [read_value(file, kind) for _ in range(count)]


def skip_list(file: BinaryIO) -> None:
    """Skips a list: the kind of its values, their number, then the values."""
    kind, count = read_numbers(file, "IQ")
    if kind in (GGUFValueType.STRING, GGUFValueType.ARRAY):  # each value says how long it is
        for _ in range(count):
            read_value(file, kind)
    else:
        length = count * struct.calcsize(NUMBER_CODES[GGUFValueType(kind)])
        end = file.tell() + length
        if end > os.fstat(file.fileno()).st_size:
            raise ValueError("it ends in the middle of a list")
        file.seek(end)


def read_tensor_entry(file: BinaryIO) -> tuple[str, tuple[int, ...]]:
    """A tensor's (name, shape); GGUF lists the innermost size first, PyTorch last."""
    name = read_text(file)
    (dimensions,) = read_numbers(file, "I")
    if dimensions > MOST_DIMENSIONS:
        raise ValueError(f"{name} has {dimensions} dimensions")
    sizes = read_numbers(file, f"{dimensions}Q")
    read_numbers(file, "IQ")  # kind of the weights and their offset, which nobody asks for
    return name, tuple(reversed(sizes))
