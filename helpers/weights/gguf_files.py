"""Which GGUF files of a folder or a repository are models, and which of them belong together.

A large model is split into parts, NAME-00001-of-00003.gguf and so on. llama.cpp is given the first and finds
the others by their names.
"""

import re
from collections.abc import Iterable, Mapping

PART = re.compile(r"(.+)-(\d{5})-of-(\d{5})\.gguf")
# In the names of GGUF files that only accompany a model: what reads images for it, statistics of its weights.
COMPANIONS = ("mmproj", "imatrix")
COMPANION_ONLY = "is not a model: it only accompanies one"


def is_companion(name: str) -> bool:
    """True for a GGUF file that is not a model by itself."""
    return any(word in name.lower() for word in COMPANIONS)


def read_part(name: str) -> tuple[str, int] | None:
    """(name without number, how many parts there are) of a part of a model; None for a file by itself."""
    found = PART.fullmatch(name)
    return (found[1], int(found[3])) if found and 1 <= int(found[2]) <= int(found[3]) else None


def name_first(name: str) -> str:
    """The first file of the model that a GGUF file belongs to: the file itself if it is not a part."""
    part = read_part(name)
    return name_part(*part, 1) if part else name


def name_part(stem: str, count: int, number: int) -> str:
    """The name of a part."""
    return f"{stem}-{number:05}-of-{count:05}.gguf"


def count_parts(name: str) -> int:
    """How many files the model of a GGUF file has."""
    part = read_part(name)
    return part[1] if part else 1


def list_parts(name: str) -> list[str]:
    """All files of the model that a GGUF file belongs to, in order; the file alone if it is not a part."""
    part = read_part(name)
    return [name_part(*part, number) for number in range(1, part[1] + 1)] if part else [name]


def group_ggufs(names: Iterable[str]) -> dict[str, list[str]]:
    """{first file of each GGUF model: those of its files that are in `names`}, sorted by name.

    Example: a.gguf, b-00002-of-00002.gguf and mmproj.gguf give {"a.gguf": ["a.gguf"],
    "b-00001-of-00002.gguf": ["b-00002-of-00002.gguf"]}. A name may speak of 99999 parts: none is made up.
    """
    found: dict[str, list[str]] = {}
    for name in sorted(names):
        if name.endswith(".gguf") and not is_companion(name):
            found.setdefault(name_first(name), []).append(name)
    return dict(sorted(found.items()))


def find_group(groups: Mapping[str, list[str]], file: str) -> str | None:
    """The first file of the model that `file` belongs to; None if it belongs to none."""
    first = name_first(file)
    return first if first in groups else None
