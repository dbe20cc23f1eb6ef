"""The card of a data set's folder: which files its YAML names. Nothing outside the folder is looked at."""

import re
from pathlib import Path, PureWindowsPath
from typing import Any, TypedDict

from helpers.common.arguments import cut, shorten, state_reason
from helpers.common.errors import DamagedError, UnsupportedError
from helpers.common.forms import find_misfit
from helpers.common.yaml_errors import YAML_ERRORS, read_plain_yaml
from helpers.tasks.files.raw_table import name_all

CARD, SETTINGS = "README.md", ".huggingface.yaml"  # the second has the same YAML, and wins
FRONT = re.compile(r"\s*---[\r\n]+(.*?)[\r\n]+---(?:\r|\n|$)", re.DOTALL)


class SplitFiles(TypedDict):
    """The files of a split."""

    split: str
    path: str | list[str]


class Part(TypedDict, total=False):
    """One of the tables of a data set."""

    config_name: Any
    default: Any
    data_dir: str | None
    data_files: str | list[str | SplitFiles] | None


class Facts(TypedDict, total=False):
    """The part of a card's YAML that says where the rows are."""

    configs: list[Part] | None


def read_patterns(folder: Path) -> dict[str, list[str]] | None:
    """Split -> patterns of its files, relative to the folder; None if the card does not say.

    Raises DamagedError for a card that cannot be read, and UnsupportedError for one that names several tables
    or something that is not in the folder.
    """
    parts = read_facts(folder).get("configs")
    if not parts:
        return None
    part = choose_part(folder, parts)
    given, place = part.get("data_files"), part.get("data_dir") or ""
    if given is None and not place:
        return None
    entries = [given or "**"] if not isinstance(given, list) else given
    found: dict[str, list[str]] = {}
    for entry in entries:
        split, path = ("train", entry) if isinstance(entry, str) else (entry["split"], entry["path"])
        found.setdefault(split, []).extend([path] if isinstance(path, str) else path)
    outside = [name for names in found.values() for name in [place, *names] if leads_out(name)]
    if outside:
        problem = f"The card of {folder} names files that are not in it: {shorten(outside[0])}."
        raise UnsupportedError(problem, "Put the files into the folder, and name them as they lie there.")
    return {split: [f"{place}/{name}".lstrip("/") for name in names] for split, names in found.items()}


def read_facts(folder: Path) -> Facts:
    """What the card says, in the form that is expected."""
    facts: dict[str, Any] = {}
    for name in (CARD, SETTINGS):
        if not (folder / name).is_file():
            continue
        text = (folder / name).read_text(encoding="utf-8", errors="replace")
        if name == CARD:
            front = FRONT.match(text)
            text = front[1] if front else ""
        found: Any = {}
        try:
            found = read_plain_yaml(text) or {}
            misfit = find_misfit(found, Facts)
        except YAML_ERRORS as error:
            misfit = state_reason(error)
        if misfit:
            problem = f"The YAML in {folder / name} cannot be read: {cut(misfit, 300).rstrip('.')}."
            raise DamagedError(problem, "Correct it, or give a file of the folder.")
        facts |= found
    return Facts(**facts)


def choose_part(folder: Path, parts: list[Part]) -> Part:
    """The only table of the data set, or its default; else an UnsupportedError that names them."""
    if len(parts) == 1:
        return parts[0]
    named = [part for part in parts if part.get("config_name") == "default" or part.get("default") is True]
    if len(named) == 1:
        return named[0]
    names = name_all(part.get("config_name", "?") for part in parts)
    raise UnsupportedError(f"{folder} has several tables: {names}.", "Give the files of one of them.")


def leads_out(pattern: str) -> bool:
    """True for what is not below the folder on every system: a URL, an absolute path, a step up."""
    path = PureWindowsPath(pattern)
    return ":" in pattern or bool(path.anchor) or ".." in path.parts
