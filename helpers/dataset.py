"""A CSV in; validated rows and leak-free splits out.

One comment can stand in several rows (one for each pair of options), so a split keeps all rows of a comment on one side.
"""

import collections
from pathlib import Path

import pandas as pd
from sklearn.model_selection import StratifiedGroupKFold

from helpers import KitError, find_file, write_json
from helpers.templating import Template

Row = dict[str, object]


def load_rows(path: str | Path, template: Template) -> list[Row]:
    """The rows of a CSV, as dicts: the template's columns (str) and `label` (int). KitError names the first thing that is wrong."""
    path = find_file(path, "CSV file")
    try:
        frame = pd.read_csv(path, dtype=str, keep_default_na=False, encoding="utf-8")
    except pd.errors.EmptyDataError:
        raise KitError(f"{path} is empty.", f"Give a CSV with the columns {', '.join([*template.columns, 'label'])}.") from None
    except (pd.errors.ParserError, UnicodeDecodeError) as error:
        raise KitError(f"{path} is no CSV in UTF-8: {error}", "Save it as CSV, UTF-8.") from None
    missing = [column for column in [*template.columns, "label"] if column not in frame.columns]
    if missing:
        raise KitError(f"{path} lacks the column {', '.join(missing)} (it has {', '.join(frame.columns)}).", "Rename or add it.")
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


def split_rows(rows: list[Row], test_size: float = 0.2, seed: int = 0) -> tuple[list[Row], list[Row]]:
    """(train, test), grouped by comment and stratified by label; the test part is 1/k of the comments, k = round(1 / test_size).

    Source: scikit-learn's StratifiedGroupKFold, its first fold.
    """
    if not 0 < test_size <= 0.5:
        raise KitError(f"A test size of {test_size} is out of range.", "Give a share above 0 and up to 0.5, such as 0.2.")
    folds, texts, labels = round(1 / test_size), [row["text"] for row in rows], [row["label"] for row in rows]
    fewest = min(collections.Counter(labels).values())
    if len(set(texts)) < folds or fewest < folds:
        raise KitError(
            f"{len(set(texts))} different comments, the rarest label in {fewest} rows: too few for a test part of {test_size}.",
            "Add comments, or use a larger --test-size.",
        )
    splitter = StratifiedGroupKFold(n_splits=folds, shuffle=True, random_state=seed)
    train, test = next(iter(splitter.split(texts, labels, groups=texts)))
    return [rows[i] for i in train], [rows[i] for i in test]


def count_labels(rows: list[Row]) -> dict[int, int]:
    """How many rows each label has, sorted by label."""
    return dict(sorted(collections.Counter(row["label"] for row in rows).items()))


def write_split(folder: Path, template: Template, train: list[Row], test: list[Row]) -> tuple[Path, Path]:
    """Writes train.json and test.json into `folder`: a list of {"prompt", "completion", "label"}, prompt and label apart."""
    return tuple(
        write_json(Path(folder) / f"{name}.json", [template.build_example(row) for row in rows]) for name, rows in (("train", train), ("test", test))
    )
