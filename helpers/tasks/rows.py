"""A CSV in; validated rows, an audit and leak-free splits out.

One comment can stand in several rows (one for each pair of options), so a split keeps all rows of a comment on one side.
"""

import collections
from pathlib import Path

import pandas as pd

from helpers.common.errors import KitError
from helpers.common.files import write_json
from helpers.common.paths import find_file
from helpers.tasks.template import Template

Row = dict[str, object]


def load_rows(path: str | Path, template: Template) -> list[Row]:
    """The rows of a CSV, as dicts: the template's columns (str) and `label` (int). KitError names the first thing that is wrong."""
    path = find_file(path, "CSV file")
    try:
        frame = pd.read_csv(path, dtype=str, keep_default_na=False, encoding="utf-8")
    except pd.errors.EmptyDataError:
        raise KitError(
            f"{path} is empty.", f"Give a CSV with the columns {', '.join([*template.columns, 'label'])}."
        ) from None
    except (pd.errors.ParserError, UnicodeDecodeError) as error:
        raise KitError(f"{path} is no CSV in UTF-8: {error}", "Save it as CSV, UTF-8.") from None
    missing = [column for column in [*template.columns, "label"] if column not in frame.columns]
    if missing:
        raise KitError(
            f"{path} lacks the column {', '.join(missing)} (it has {', '.join(frame.columns)}).",
            "Rename or add it.",
        )
    if frame.empty:
        raise KitError(f"{path} has a header and no rows.", "Add rows to it.")
    known = {str(label): label for label in template.label}
    for line, row in enumerate(frame.itertuples(), start=1):
        if row.label not in known:
            remedy = f"The template knows {', '.join(known)}; mend the row or the template."
            raise KitError(f"Row {line} of {path} has the label '{row.label}'.", remedy)
        if not row.text.strip():
            raise KitError(f"Row {line} of {path} has an empty text.", "Fill it in or delete the row.")
    frame["label"] = frame["label"].map(known)
    return frame[[*template.columns, "label"]].to_dict("records")


def count_labels(rows: list[Row]) -> dict[int, int]:
    """How many rows each label has, sorted by label."""
    return dict(sorted(collections.Counter(row["label"] for row in rows).items()))


def write_split(folder: Path, template: Template, train: list[Row], test: list[Row]) -> tuple[Path, Path]:
    """Writes train.json and test.json into `folder`: a list of {"prompt", "completion", "label"}, prompt and label apart."""
    return tuple(
        write_json(Path(folder) / f"{name}.json", [template.build_example(row) for row in rows])
        for name, rows in (("train", train), ("test", test))
    )
