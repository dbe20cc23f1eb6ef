"""A table in, checked rows out."""

import collections
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from helpers.common.errors import DamagedError, MismatchError
from helpers.common.paths import find_file
from helpers.tasks.template import Template

Row = dict[str, Any]  # the template's columns (str) and `label` (int)


def load_rows(path: str | Path, template: Template) -> list[Row]:
    """The rows of a CSV: the template's columns and `label`. A KitError names the first fault in it."""
    path = find_file(path, "CSV file")
    frame = read_csv(path, template)
    columns = [*template.columns, "label"]
    missing = [column for column in columns if column not in frame.columns]
    if missing:
        problem = f"{path} has no column {', '.join(missing)} (it has {', '.join(frame.columns)})."
        raise MismatchError(problem, "Rename or add it.")
    if frame.empty:
        raise DamagedError(f"{path} has a header and no rows.", "Add rows to it.")
    known = {str(label): label for label in template.label}
    rows = [{column: row[column] for column in columns} for row in frame.to_dict("records")]
    for number, row in enumerate(rows, start=1):
        if row["label"] not in known:
            remedy = f"The template knows {', '.join(known)}; fix the row or the template."
            raise MismatchError(f"Row {number} of {path} has the label '{row['label']}'.", remedy)
        if not row["text"].strip():
            raise DamagedError(f"Row {number} of {path} has an empty text.", "Fill it in or delete the row.")
        row["label"] = known[row["label"]]
    return rows


def read_csv(path: Path, template: Template) -> pd.DataFrame:
    """The table, every cell as text; DamagedError if it is empty or not a CSV."""
    try:
        return pd.read_csv(path, dtype=str, keep_default_na=False, encoding="utf-8")
    except pd.errors.EmptyDataError:
        columns = ", ".join([*template.columns, "label"])
        raise DamagedError(f"{path} is empty.", f"Give a CSV with the columns {columns}.") from None
    except (pd.errors.ParserError, UnicodeDecodeError) as error:
        raise DamagedError(f"{path} is not a CSV in UTF-8: {error}", "Save it as CSV, UTF-8.") from None


def count_labels(rows: Sequence[Row]) -> dict[int, int]:
    """How many rows each label has, sorted by label."""
    return dict(sorted(collections.Counter(row["label"] for row in rows).items()))
