"""Files damaged at random, as disks, editors and other programs leave them."""

import json
import os
import random
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

ODD_VALUES = (
    None, True, 0, -1, 1.5, 10**400, 2**63, float("nan"), float("inf"), "", "x", "ä\u0000\ud83d", "9" * 5000,
    [], {}, [None], {"x": None}, [[1]], {"": []}, "a" * 300, "**", "(", "../..", "/",
)  # fmt: skip
ODD_TEXTS = (
    b"", b"\x00", b"\xff\xfe{\x00}\x00", b'{"\xe4": 1}', b"{", b"null", b"[]", b"3", b'"x"', b"NaN",
    b"[" * 100_000, b'{"a": 1}' * 2, b"a: [", b"- &a [*a]\n", b"\xef\xbb\xbf{}",
    b"1" * 5000, b"a,b\n1\n", b"{% for %}",
)  # fmt: skip


def flip_bytes(path: Path, chance: random.Random) -> str:
    """Changes some bytes, mostly near the beginning."""
    content = bytearray(path.read_bytes())
    places = [int(chance.random() ** 3 * len(content)) for _ in range(chance.choice((1, 3, 30)))]
    for place in places if content else ():
        content[place] = chance.randrange(256)
    path.write_bytes(content)
    return f"bytes changed at {places}"


def truncate(path: Path, chance: random.Random) -> str:
    """Cuts the file, or makes it longer."""
    size = chance.choice((0, 1, 8, chance.randrange(path.stat().st_size + 1), path.stat().st_size + 7))
    os.truncate(path, size)
    return f"cut to {size} bytes"


def replace_content(path: Path, chance: random.Random) -> str:
    """Another text altogether."""
    content = chance.choice(ODD_TEXTS)
    path.write_bytes(content)
    return f"content {content[:40]!r}"


def remove(path: Path, chance: random.Random) -> str:
    """Deletes the file."""
    path.unlink()
    return "deleted"


def replace_by_folder(path: Path, chance: random.Random) -> str:
    """A folder of the file's name."""
    path.unlink()
    path.mkdir()
    return "a folder"


def replace_by_link(path: Path, chance: random.Random) -> str:
    """A link of the file's name: to nothing, to itself, to a folder or to an empty device."""
    target = chance.choice(("nothing", path.name, "..", "/dev/null", "/proc/self/mem"))
    path.unlink()
    path.symlink_to(target)
    return f"a link to {target}"


def take_permission(path: Path, chance: random.Random) -> str:
    """A file that nobody may read."""
    path.chmod(0)
    return "no permission"


def recode(path: Path, chance: random.Random) -> str:
    """The text in another encoding."""
    encoding = chance.choice(("utf-16", "utf-32", "latin-1", "utf-8-sig"))
    text = path.read_bytes().decode("utf-8", "replace") + "# ä"
    path.write_bytes(text.encode(encoding, "replace"))
    return f"in {encoding}"


def change_value(path: Path, chance: random.Random) -> str:
    """One value somewhere in a JSON file becomes an odd one, or goes; of other files, flip_bytes."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except ValueError:
        return flip_bytes(path, chance)
    parent, key, place = pick_place(content, chance)
    value: Any = chance.choice(ODD_VALUES)
    if parent is None:
        content = value
    elif chance.random() < 0.15:
        value = "(gone)"
        del parent[key]
    else:
        parent[key] = value
    path.write_text(json.dumps(content), encoding="utf-8")
    return f"{place} = {str(value)[:40]!r}"


def pick_place(content: Any, chance: random.Random) -> tuple[Any, Any, str]:
    """(container, key or index, path) of a value; deep ones are rarer than shallow ones."""
    parent, key, place = None, None, ""
    while isinstance(content, (dict, list)) and content and (parent is None or chance.random() < 0.6):
        parent, key = (
            content,
            chance.choice(list(content) if isinstance(content, dict) else range(len(content))),
        )
        content, place = parent[key], f"{place}/{key}"
    return parent, key, place


KINDS: dict[Callable[[Path, random.Random], str], int] = {
    change_value: 10, flip_bytes: 3, truncate: 3, replace_content: 3, remove: 1, replace_by_folder: 1,
    replace_by_link: 1, take_permission: 1, recode: 2,
}  # fmt: skip


def damage(path: Path, chance: random.Random) -> str:
    """Damages a file at random; returns what was done to it, in words."""
    kind = chance.choices(list(KINDS), list(KINDS.values()))[0]
    return kind(path, chance)


def repair(path: Path, content: bytes, mode: int) -> None:
    """The file as it was."""
    if path.is_symlink() or path.is_file():
        path.unlink()
    elif path.is_dir():
        shutil.rmtree(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)
    path.chmod(mode)
