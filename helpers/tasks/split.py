"""A CSV in; validated rows, an audit and leak-free splits out.

One comment can stand in several rows (one for each pair of options), so a split keeps all rows of a comment on one side.
"""

import collections
import random

from sklearn.model_selection import StratifiedGroupKFold

from helpers.common.errors import KitError
from helpers.tasks.rows import Row
from helpers.tasks.words import split_words


def split_rows(rows: list[Row], test_size: float = 0.2, seed: int = 0) -> tuple[list[Row], list[Row]]:
    """(train, test), grouped by comment and stratified by label; the test part is 1/k of the comments, k = round(1 / test_size).

    Source: scikit-learn's StratifiedGroupKFold, its first fold.
    """
    if not 0 < test_size <= 0.5:
        raise KitError(
            f"A test size of {test_size} is out of range.", "Give a share above 0 and up to 0.5, such as 0.2."
        )
    folds, texts, labels = round(1 / test_size), [row["text"] for row in rows], [row["label"] for row in rows]
    if len(set(labels)) < 2:
        raise KitError(
            f"All rows have the label {labels[0]}: there is nothing to tell apart.",
            "Add rows with another label.",
        )
    fewest = min(collections.Counter(labels).values())
    if len(set(texts)) < folds or fewest < folds:
        raise KitError(
            f"{len(set(texts))} different comments, the rarest label in {fewest} rows: too few for a test part of {test_size}.",
            "Add comments, or use a larger --test-size.",
        )
    splitter = StratifiedGroupKFold(n_splits=folds, shuffle=True, random_state=seed)
    train, test = next(iter(splitter.split(texts, labels, groups=texts)))
    return [rows[i] for i in train], [rows[i] for i in test]


def keep_short(rows: list[Row], count: int, seed: int) -> list[Row]:
    """At most `count` of the rows, with short texts, the same number of each label, drawn at random: most rows for the computation.

    The limit of length is the same for all labels, the smallest that leaves enough of each; otherwise the length would tell the label.
    """
    groups: dict[object, list[Row]] = {}
    for row in sorted(rows, key=lambda row: len(row["text"])):
        groups.setdefault(row["label"], []).append(row)
    share = max(count // len(groups), 1)
    limit = max(len(group[min(share, len(group)) - 1]["text"]) for group in groups.values())
    draw, kept = random.Random(seed), []
    for group in groups.values():
        short = [row for row in group if len(row["text"]) <= limit]
        kept += draw.sample(short, min(share, len(short)))
    return kept


def find_leaks(train: list[Row], test: list[Row]) -> list[Row]:
    """The rows of `test` whose text, but for case, space and punctuation, is also trained on."""
    seen = {tuple(split_words(row["text"])) for row in train}
    return [row for row in test if tuple(split_words(row["text"])) in seen]
