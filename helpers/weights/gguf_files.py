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


def list_parts(name: str) -> list[str]:
    """All files of the model that a GGUF file belongs to, in order; the file alone if it is not a part."""
    found = PART.fullmatch(name)
    if not found:
        return [name]
    stem, count = found[1], int(found[3])
    return [f"{stem}-{number:05}-of-{count:05}.gguf" for number in range(1, count + 1)] or [name]


def group_ggufs(names: Iterable[str]) -> dict[str, list[str]]:
    """{first file of each GGUF model: all its files}, sorted by name, missing parts included.

    Example: a.gguf, b-00002-of-00002.gguf and mmproj.gguf give {"a.gguf": ["a.gguf"],
    "b-00001-of-00002.gguf": ["b-00001-of-00002.gguf", "b-00002-of-00002.gguf"]}.
    """
    ggufs = (name for name in names if name.endswith(".gguf") and not is_companion(name))
    parts = (list_parts(name) for name in sorted(ggufs))
    return dict(sorted((files[0], files) for files in parts))


def find_group(groups: Mapping[str, list[str]], file: str) -> str | None:
    """The first file of the model that `file` belongs to; None if it belongs to none."""
    return next((first for first, files in groups.items() if file in files), None)
