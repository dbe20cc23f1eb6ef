"""Training and test rows without leaks.

One comment can be in several rows (one for each pair of options), so a split keeps all rows of a comment on
one side. Which rows belong together is the template's to say (`find_group`); copies that differ in case,
space or punctuation do too.
"""

import collections
import math
import random
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NotRequired, TypedDict

from sklearn.model_selection import GroupShuffleSplit, StratifiedGroupKFold

from helpers.common.errors import DamagedError, UsageError
from helpers.common.files import write_json
from helpers.common.own_files import check_own_file
from helpers.common.values import (
    check_choice,
    check_filled,
    check_number,
    check_path,
    check_seed,
    check_whole,
)
from helpers.tasks.given import check_rows, check_template, list_group_columns
from helpers.tasks.rows import AnyTemplate
from helpers.tasks.template import Label, Row
from helpers.tasks.words import split_words

PARTS = ("test", "validation")


@dataclass(frozen=True)
class Split:
    """How rows are split. The defaults are those of the lessons and of every command."""

    seed: int = 0
    test_size: float = 0.2  # share of the texts that is held out for the test
    validation_size: float = 0.0  # share of the texts that is watched during the training; 0 = none

    def __post_init__(self):
        """A UsageError for a value that no split can have."""
        check_seed(self.seed)
        check_number("test_size", self.test_size, 0, 1)
        check_number("validation_size", self.validation_size, 0, 1)

    def divide(self, rows: list[Row], template: AnyTemplate | None = None) -> tuple[list[Row], list[Row]]:
        """(training rows, test rows), as split_rows gives them. Validation rows are among the former."""
        return split_rows(rows, self.test_size, self.seed, template)

    def take_validation(
        self, train: list[Row], template: AnyTemplate | None = None
    ) -> tuple[list[Row], list[Row]]:
        """(training rows, validation rows): takes validation_size of all texts from the training rows."""
        if not self.validation_size:
            return train, []
        share = self.validation_size / (1 - self.test_size)  # of what the test leaves
        if not 0 < share <= 0.5:
            problem = f"A validation size of {self.validation_size} is out of range."
            largest = f"{(1 - self.test_size) / 2:g}"
            raise UsageError(problem, f"Give a share of all texts above 0 and up to {largest}, such as 0.1.")
        return split_rows(train, share, self.seed, template, "validation")


def split_rows(
    rows: list[Row],
    test_size: float = Split.test_size,
    seed: int = Split.seed,
    template: AnyTemplate | None = None,
    part: str = "test",
) -> tuple[list[Row], list[Row]]:
    """(training rows, test rows), grouped by text and stratified by label if there are labels.

    With labels, the test part holds 1/k of the texts, k = round(1 / test_size): the first fold of
    scikit-learn's StratifiedGroupKFold. Without, it is a random `test_size` of them. Without a template, rows
    are grouped by their `text`. Raises UsageError for a size out of range, DamagedError for too few rows.
    """
    check_choice("part", part, PARTS)
    check_seed(seed)
    check_number(f"{part}_size", test_size, -math.inf, math.inf)
    labelled = refuse_other_rows(rows, template)
    check_filled("rows", rows)
    if not 0 < test_size <= 0.5:
        problem = f"A {part} size of {test_size} is out of range."
        raise UsageError(problem, "Give a share above 0 and up to 0.5, such as 0.2.")
    groups = name_groups(rows, template)
    if not labelled:
        check_enough(len(set(groups)), None, test_size, part)
        drawing = GroupShuffleSplit(n_splits=1, test_size=test_size, random_state=seed)
        train, test = next(drawing.split(rows, groups=groups))
    else:
        labels = [row["label"] for row in rows]
        check_enough(len(set(groups)), labels, test_size, part)
        splitter = StratifiedGroupKFold(n_splits=round(1 / test_size), shuffle=True, random_state=seed)
        train, test = next(iter(splitter.split(groups, labels, groups=groups)))
    return [rows[i] for i in train], [rows[i] for i in test]


def refuse_other_rows(rows: object, template: AnyTemplate | None) -> bool:
    """Whether the rows have labels; a UsageError if they lack them, or what says how they are grouped."""
    if template is not None:
        check_template(template)
    labelled = template is None or template.kind == "labels"
    check_rows(rows, [*list_group_columns(template), *(["label"] if labelled else [])], empty=True)
    return labelled


def check_enough(groups: int, labels: Sequence[Label] | None, test_size: float, part: str) -> None:
    """A DamagedError if there are too few texts, or rows of a label, for a part of this size."""
    facts, fewest = f"{groups} different texts", groups
    if labels is not None:
        if len(set(labels)) < 2:
            problem = f"All rows have the label {labels[0]}: there is nothing to learn."
            raise DamagedError(problem, "Add rows with another label.")
        rarest = min(collections.Counter(labels).values())
        facts, fewest = f"{facts}, the rarest label in {rarest} rows", min(groups, rarest)
    if fewest < round(1 / test_size):
        problem = f"{facts}: too few for a {part} part of {test_size}."
        raise DamagedError(problem, f"Add rows, or use a larger --{part}-size.")


def name_groups(rows: Sequence[Row], template: AnyTemplate | None = None) -> list[str]:
    """The group of each row: the first text with the same words."""
    check_rows(rows, list_group_columns(template), empty=True)
    first: dict[tuple[str, ...], str] = {}
    texts = [template.find_group(row) if template else row["text"] for row in rows]
    return [first.setdefault(list_key(text), text) for text in texts]


def list_key(text: str) -> tuple[str, ...]:
    """What two copies have in common: their words, or the text itself if it has none, such as an emoji."""
    return tuple(split_words(text)) or (text.strip(),)


def keep_short(rows: list[Row], count: int, seed: int, template: AnyTemplate | None = None) -> list[Row]:
    """At most `count` rows. With labels: rows with short texts, as many of each label: most for the time.

    The limit of length is the same for all labels, the smallest that leaves enough of each. Otherwise the
    length would give the label away. Without labels the rows are drawn at random: short ones would teach
    short answers.
    """
    check_whole("count", count, 0)
    check_seed(seed)
    labelled = refuse_other_rows(rows, template)
    draw = random.Random(seed)
    if not rows:
        return []
    if not labelled:
        return draw.sample(rows, min(count, len(rows)))

    def measure(row: Row) -> int:
        return len(template.find_group(row) if template else row["text"])

    groups: dict[Label, list[Row]] = {}
    for row in sorted(rows, key=measure):
        groups.setdefault(row["label"], []).append(row)
    share = max(count // len(groups), 1)
    limit = max(measure(group[min(share, len(group)) - 1]) for group in groups.values())
    kept = []
    for group in groups.values():
        short = [row for row in group if measure(row) <= limit]
        kept += draw.sample(short, min(share, len(short)))
    return kept


def find_leaks(train: Sequence[Row], test: Sequence[Row], template: AnyTemplate | None = None) -> list[Row]:
    """The rows of `test` whose text is also trained on, ignoring case, space and punctuation."""
    check_rows([*train, *test], list_group_columns(template), empty=True)
    texts = [template.find_group(row) if template else row["text"] for row in (*train, *test)]
    seen = {list_key(text) for text in texts[: len(train)]}
    return [row for row, text in zip(test, texts[len(train) :], strict=True) if list_key(text) in seen]


class Message(TypedDict):
    """A message as write_split writes it."""

    role: str
    content: str


class Example(TypedDict):
    """A row as write_split writes it."""

    prompt: list[Message]
    completion: list[Message]
    label: NotRequired[Label]


def write_split(folder: Path, template: AnyTemplate, train: list[Row], test: list[Row]) -> tuple[Path, Path]:
    """Writes train.json and test.json: lists of build_example's objects. Returns the paths.

    They replace files that it wrote before, and no others: an AlreadyThereError, before anything is written.
    """
    check_path("folder", folder)
    check_template(template)
    parts = {Path(folder) / "train.json": train, Path(folder) / "test.json": test}
    for path in parts:
        check_own_file(path, list[Example])
    first, second = (
        write_json(path, [template.build_example(row) for row in rows]) for path, rows in parts.items()
    )
    return first, second
