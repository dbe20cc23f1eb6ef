"""Training and test rows without leaks.

One comment can be in several rows (one for each pair of options), so a split keeps all rows of a comment on
one side.
"""

import collections
import random
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from sklearn.model_selection import StratifiedGroupKFold

from helpers.common.errors import DamagedError, UsageError
from helpers.common.files import write_json
from helpers.tasks.rows import Row
from helpers.tasks.template import Template
from helpers.tasks.words import split_words


@dataclass(frozen=True)
class Split:
    """How rows are split. The defaults are those of the lessons and of every command."""

    seed: int = 0
    test_size: float = 0.2  # share of the comments that is held out

    def divide(self, rows: list[Row]) -> tuple[list[Row], list[Row]]:
        """(training rows, test rows), as split_rows gives them."""
        return split_rows(rows, self.test_size, self.seed)


def split_rows(
    rows: list[Row], test_size: float = Split.test_size, seed: int = Split.seed
) -> tuple[list[Row], list[Row]]:
    """(training rows, test rows), grouped by comment and stratified by label.

    The test part holds 1/k of the comments, k = round(1 / test_size): the first fold of scikit-learn's
    StratifiedGroupKFold. Raises UsageError for a test size out of range, DamagedError for too few rows.
    """
    if not 0 < test_size <= 0.5:
        problem = f"A test size of {test_size} is out of range."
        raise UsageError(problem, "Give a share above 0 and up to 0.5, such as 0.2.")
    folds = round(1 / test_size)
    texts = [row["text"] for row in rows]
    labels = [row["label"] for row in rows]
    if len(set(labels)) < 2:
        problem = f"All rows have the label {labels[0]}: there is nothing to learn."
        raise DamagedError(problem, "Add rows with another label.")
    fewest = min(collections.Counter(labels).values())
    if len(set(texts)) < folds or fewest < folds:
        facts = f"{len(set(texts))} different comments, the rarest label in {fewest} rows"
        problem = f"{facts}: too few for a test part of {test_size}."
        raise DamagedError(problem, "Add comments, or use a larger --test-size.")
    splitter = StratifiedGroupKFold(n_splits=folds, shuffle=True, random_state=seed)
    train, test = next(iter(splitter.split(texts, labels, groups=texts)))
    return [rows[i] for i in train], [rows[i] for i in test]


def keep_short(rows: list[Row], count: int, seed: int) -> list[Row]:
    """At most `count` rows with short texts, as many of each label: most rows for the time.

    The limit of length is the same for all labels, the smallest that leaves enough of each. Otherwise the
    length would give the label away.
    """
    groups: dict[int, list[Row]] = {}
    for row in sorted(rows, key=lambda row: len(row["text"])):
        groups.setdefault(row["label"], []).append(row)
    share = max(count // len(groups), 1)
    limit = max(len(group[min(share, len(group)) - 1]["text"]) for group in groups.values())
    draw = random.Random(seed)
    kept = []
    for group in groups.values():
        short = [row for row in group if len(row["text"]) <= limit]
        kept += draw.sample(short, min(share, len(short)))
    return kept


def find_leaks(train: Sequence[Row], test: Sequence[Row]) -> list[Row]:
    """The rows of `test` whose text is also trained on, ignoring case, space and punctuation."""
    seen = {tuple(split_words(row["text"])) for row in train}
    return [row for row in test if tuple(split_words(row["text"])) in seen]


def write_split(folder: Path, template: Template, train: list[Row], test: list[Row]) -> tuple[Path, Path]:
    """Writes train.json and test.json: lists of {"prompt", "completion", "label"}. Returns the paths."""

    def write(name: str, rows: list[Row]) -> Path:
        return write_json(Path(folder) / f"{name}.json", [template.build_example(row) for row in rows])

    return write("train", train), write("test", test)
