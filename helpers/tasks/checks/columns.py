"""What a column of a table looks like: numbers, labels, free text, or the name of a row."""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from helpers.tasks.files.tables import Table
from helpers.tasks.nested import add_inner_columns
from helpers.tasks.template import simplify_number

# Names that tell what a column is for, the surest first.
ANSWER_NAMES = (
    "answer", "answers", "output", "response", "completion", "summary", "highlights", "target", "reply",
    "target_text", "best_answer", "translation", "solution", "assistant", "abstract",
)  # fmt: skip
LABEL_NAMES = (
    "label", "labels", "class", "category", "sentiment", "target", "intent", "answer", "rating", "stars",
    "score", "emotion", "topic", "polarity", "stance", "verdict", "response", "output", "type", "tag",
)  # fmt: skip
ID_NAME = re.compile(r"(.*_)?(id|idx|index|uid|uuid|guid|url|link|hash)s?|no|nr")
MOST_LABELS = 200  # different values that a column of labels may have
NUMBER = re.compile(r"[-+]?[\d.,:/% -]+(e[-+]?\d+)?|nan", re.IGNORECASE)


@dataclass(frozen=True)
class Column:
    """One column of texts."""

    name: str  # as a template writes it: `answers.text.0` for a text inside a cell
    hint: str  # what its name says, in lower case with underscores
    cells: list[str]  # of each row, without the spaces around it

    @cached_property
    def filled(self) -> list[str]:
        """The cells that are not empty."""
        return [cell for cell in self.cells if cell]

    @cached_property
    def different(self) -> set[str]:
        """The different values, as labels are compared: 1.0 is 1, and Yes is yes."""
        return {simplify_number(cell).casefold() for cell in self.filled}

    @cached_property
    def words(self) -> float:
        """Mean number of words."""
        return sum(len(cell.split()) for cell in self.filled) / max(len(self.filled), 1)

    @cached_property
    def is_numeric(self) -> bool:
        """True if nine of ten cells are numbers or dates."""
        return sum(map(bool, map(NUMBER.fullmatch, self.filled))) >= 0.9 * len(self.filled)

    @property
    def is_id(self) -> bool:
        """True for what only names or numbers the row: an id, a link."""
        return bool(ID_NAME.fullmatch(self.hint)) and self.words <= 1.5

    @property
    def has_few_values(self) -> bool:
        """True if many rows share a value, as with labels."""
        few = 2 <= len(self.different) <= min(MOST_LABELS, len(self.filled) / 2)
        return few and not self.is_id and max(map(len, self.different)) <= 80

    @cached_property
    def repeated(self) -> float:
        """Share of the filled cells that equal an earlier one."""
        return 1 - len(self.different) / max(len(self.filled), 1)


def list_columns(table: Table) -> list[Column]:
    """The columns of a table that hold texts, those inside cells included."""
    names: list[tuple[str, str]] = []
    for column in table.columns:
        inner = list(dict.fromkeys(way for row in table.rows[:100] for way in list_inner(row[column])))
        for way in inner:
            last = [step for step in way if not step.isdigit()][-1:]
            names.append((".".join([column, *way]), last[0] if len(inner) > 1 and last else column))
        if not inner:
            names.append((column, column))
    table = add_inner_columns(table, [name for name, _ in names])
    known = set(table.columns)
    return [
        Column(
            name, re.sub(r"\W+", "_", hint.casefold()).strip("_"), [row[name].strip() for row in table.rows]
        )
        for name, hint in names
        if name in known and all(isinstance(row[name], str) for row in table.rows)
    ]


def list_inner(cell: Any) -> Iterator[tuple[str, ...]]:
    """The ways to the texts inside a cell: ("text", "0") in {"text": ["x", "y"]}. Of a list, its first."""
    inside = cell.items() if isinstance(cell, dict) else [("0", one) for one in cell[:1]]
    for step, value in [] if isinstance(cell, str) else inside:
        if isinstance(value, str):
            yield (str(step),)
        elif isinstance(value, dict | list):
            yield from ((str(step), *further) for further in list_inner(value))
