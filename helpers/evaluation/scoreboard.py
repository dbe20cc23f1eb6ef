"""One scoreboard: every way to answer is judged on the same rows, and compared with the same rival.

It has two columns. The first counts the rows whose answer is right. The second takes the rows that are on one
of two sides, and counts those where the right side scores above the other: here a coin gets half of them.

    board = Scoreboard(test, template)
    board.add_scores("bag of words", "knows which words occur, and not who is compared with whom", bag)
    board.add_scores("LoRA", "the one that this lesson trained", tuned)
    board.tabulate(rival="bag of words")
"""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TypedDict

import pandas as pd

from helpers.common.errors import NotFoundError, UsageError
from helpers.common.files import read_json, write_json
from helpers.common.values import check_lengths
from helpers.evaluation.board_figures import (
    ANSWER,
    SIDE,
    BoardFigures,
    GainFigure,
    LineFigures,
    Share,
    list_cells,
)
from helpers.evaluation.metrics import (
    Scores,
    list_labels,
    list_right,
    measure_share,
    pick_predictions,
    pick_sides,
)
from helpers.evaluation.resampling import measure_gain
from helpers.tasks.data import hash_rows
from helpers.tasks.sides import find_sides
from helpers.tasks.split import name_groups
from helpers.tasks.template import Label, Row, Template

NO_BREAK = "\u00a0"  # a space at which a cell of a table is not broken
RIVAL = "bag of words"  # the line that the others are compared with


@dataclass(frozen=True)
class Line:
    """A way to answer, and which rows it had right: 1 or 0 each."""

    name: str
    what: str  # what it is, in one sentence
    answers: list[int]  # of each row
    sides: list[int] | None = None  # of each row that is on a side; None if that was not measured


class SavedLine(TypedDict):
    """A Line in a file."""

    name: str
    what: str
    answers: list[int]
    sides: list[int] | None


class Saved(TypedDict):
    """What a scoreboard's file has."""

    rows_sha256: str
    lines: list[SavedLine]


class Scoreboard:
    """What each way to answer had right, on the same rows."""

    def __init__(self, rows: Sequence[Row], template: Template, pair: Sequence[Label] | None = None):
        """`pair`: the labels of the two sides, () for none; by default those that the template has."""
        self.rows, self.template = list(rows), template
        self.pair = tuple(find_sides(template) if pair is None else pair)
        self.on_side = [row for row in self.rows if row["label"] in self.pair]
        self.lines: dict[str, Line] = {}

    def add_majority(self) -> None:
        """The line of the laziest answer: always the most frequent label."""
        labels = list_labels(self.rows)
        common = max(self.template.label, key=labels.count)
        words = f"always answers {self.template.label[common]!r}, the most frequent answer here"
        self.add_predictions("majority", words, [common] * len(labels))

    def add_scores(self, name: str, what: str, scores: Sequence[Scores]) -> None:
        """A line from the scores of each row's answers."""
        sides = pick_sides(scores, self.rows, self.pair)
        self.add_predictions(name, what, pick_predictions(scores), sides)

    def add_predictions(
        self,
        name: str,
        what: str,
        predictions: Sequence[Label | None],
        sides: Sequence[Label | None] | None = None,
    ) -> None:
        """A line from the label that was said for each row, and for each row of `on_side` when asked for it.

        None is for what is not one of the answers. A line of that name is replaced.
        """
        check_lengths(predictions=predictions, rows=self.rows)
        found = None
        if sides is not None and self.on_side:
            check_lengths(sides=sides, rows=self.on_side)
            found = list_right(sides, self.on_side)
        self.lines[name] = Line(name, what, list_right(predictions, self.rows), found)

    def measure_gain(self, name: str, rival: str, column: str = ANSWER) -> tuple[float, tuple[float, float]]:
        """(How much higher the share of line `name` is than that of `rival`, 95% interval).

        Paired by row, rows of one text drawn together. Raises UsageError if one of them has no such figure.
        """
        rows = self.rows if column == ANSWER else self.on_side
        mine, other = (self._list(line, column) for line in (name, rival))
        if mine is None or other is None:
            raise UsageError(f"{name} or {rival} has no figure for the {column}.", "Compare other lines.")
        gain = measure_gain(other, mine, name_groups(rows, self.template))
        return gain.value, gain.interval

    def _list(self, name: str, column: str) -> list[int] | None:
        """1 or 0 of each row of a column."""
        if name not in self.lines:
            known = ", ".join(self.lines) or "none"
            raise NotFoundError(f"The scoreboard has no line {name!r}.", f"Lines: {known}.")
        line = self.lines[name]
        return line.answers if column == ANSWER else line.sides

    def get_shares(self, column: str = ANSWER) -> dict[str, tuple[float, int]]:
        """{name: (share that is right, rows)} of the lines with a figure in that column."""
        lists = {name: self._list(name, column) for name in self.lines}
        return {name: (sum(found) / len(found), len(found)) for name, found in lists.items() if found}

    def list_figures(self, rival: str = RIVAL) -> BoardFigures:
        """Every figure as plain JSON: shares with 95% intervals, and the gains over `rival`."""
        columns = [ANSWER, SIDE] if self.on_side else [ANSWER]
        lines = [self._list_line(name, columns, rival) for name in self.lines]
        return {"rows": self.describe_rows(), "rival": rival, "columns": columns, "lines": lines}

    def _list_line(self, name: str, columns: list[str], rival: str) -> LineFigures:
        """The figures of one line."""
        shares: dict[str, Share] = {}
        gains: dict[str, GainFigure] = {}
        for column in columns:
            if not (found := self._list(name, column)):
                continue
            shares[column] = measure_share(found)
            if name != rival and rival in self.lines and self._list(rival, column):
                value, (low, high) = self.measure_gain(name, rival, column)
                gains[column] = {"value": value, "low": low, "high": high}
        return {"name": name, "what": self.lines[name].what, "shares": shares, "gains": gains}

    def tabulate(self, rival: str = RIVAL) -> pd.DataFrame:
        """A line for each way to answer: both shares with 95% intervals, and the gains over `rival`."""
        figures, table = self.list_figures(rival), []
        for line in figures["lines"]:
            cells = {"": line["name"]}
            pairs = zip(figures["columns"], list_cells(line, figures["columns"]), strict=True)
            for column, (share, gain) in pairs:
                written = {column: share, f"{column}: gain over {rival}": gain}
                cells |= {head: text.replace(" ", NO_BREAK) for head, text in written.items()}
            table.append({**cells, "what it is": line["what"]})
        return pd.DataFrame(table).set_index("")

    def describe_rows(self) -> str:
        """What the figures are of, in one sentence."""
        sides = f", {len(self.on_side)} of them on a side" if self.on_side else ""
        texts = len(set(name_groups(self.rows, self.template)))
        return f"All figures are of the same {len(self.rows)} held-out rows{sides}, from {texts} texts."

    def save(self, path: Path) -> None:
        """Writes the lines to a file of JSON."""
        lines = [asdict(line) for line in self.lines.values()]
        write_json(path, {"rows_sha256": hash_rows(self.rows), "lines": lines})

    def load(self, path: Path) -> bool:
        """Adds the lines of a saved scoreboard; False if there is none, or one of other rows."""
        if not path.is_file():
            return False
        saved = read_json(path, "Delete it.", Saved)
        if saved["rows_sha256"] != hash_rows(self.rows):
            return False
        self.lines = {line["name"]: Line(**line) for line in saved["lines"]} | self.lines
        return True
