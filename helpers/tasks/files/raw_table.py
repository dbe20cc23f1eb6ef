"""What a reader of one format hands over: a header, rows and their places, with nothing decided yet."""

import datetime
import math
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from helpers.common.arguments import cut
from helpers.common.errors import DamagedError

SHOWN = 50  # names of columns that a message lists
EXACT_WHOLE_NUMBERS = 2**53  # a float beyond it no longer names one whole number


@dataclass
class RawTable:
    """A table as its file has it. Each row is a list of cells as long as the header, or a dict by column."""

    header: list[Any]
    rows: list[Any]
    places: list[str]  # where each row is in the file: "row 7 (line 9)"
    notes: list[str] = field(default_factory=list)  # what was found out, a sentence each
    label_names: dict[str, list[str]] = field(default_factory=dict)  # column -> what its 0, 1 ... mean


def list_places(count: int) -> list[str]:
    """Places of rows that have no line of their own: "row 1", "row 2" ..."""
    return [f"row {number}" for number in range(1, count + 1)]


def name_all(names: Iterable[object]) -> str:
    """Names of columns for a message: without line breaks, and shortened where they are long or many."""
    listed = list(names)
    shown = [cut(" ".join(str(name).split()), 60) for name in listed[:SHOWN]]
    return ", ".join([*shown, "..."] if len(listed) > SHOWN else shown)


def refuse_twins(path: Path, names: Iterable[str]) -> None:
    """A DamagedError if two columns have one name."""
    twice = [name for name, count in Counter(names).items() if count > 1]
    if twice:
        problem = f"{path} has the column '{name_all(twice[:1])}' twice."
        raise DamagedError(problem, "Rename or remove one of them.")


def list_keys(rows: Iterable[dict[str, Any]]) -> list[str]:
    """The keys of all rows, in the order in which they first appear."""
    keys: dict[str, None] = {}
    for row in rows:
        if keys.keys() != row.keys():
            keys |= dict.fromkeys(row)
    return list(keys)


def as_text(value: object) -> str:
    """A cell as text: "1" for 1 and 1.0, "1.5", "true", "" for null and NaN, "2026-01-31" for a date."""
    if isinstance(value, str):
        return value
    if value is None or value != value:  # NaN and pandas' NaT differ from themselves
        return ""
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, float) and math.isfinite(value) and abs(value) < EXACT_WHOLE_NUMBERS:
        return str(int(value)) if value.is_integer() else repr(value)
    if isinstance(value, datetime.datetime):
        return value.isoformat(" ").removesuffix(" 00:00:00")
    return str(value)
