"""Tables from files (the first form)."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pandas as pd

from helpers.common.errors import DamagedError
from helpers.common.paths import find_file


@dataclass(frozen=True)
class Table:
    """A table."""

    path: Path
    columns: list[str]
    rows: list[dict[str, Any]]
    places: list[str]
    notes: list[str] = field(default_factory=list)
    label_names: dict[str, list[str]] = field(default_factory=dict)


def read_table(path: str | Path, columns: object = ()) -> Table:
    """Reads a table."""
    path = find_file(path, "CSV file")
    try:
        if path.suffix == ".jsonl":
            frame = pd.read_json(path, lines=True)
        else:
            frame = pd.read_csv(path, dtype=str, keep_default_na=False)
    except (ValueError, pd.errors.EmptyDataError) as error:
        raise DamagedError(f"{path}: {error}", "Fix it.") from None
    rows: Any = frame.to_dict("records")
    return Table(
        path, [str(name) for name in frame.columns], rows, [f"Row {i + 1}" for i in range(len(rows))]
    )
