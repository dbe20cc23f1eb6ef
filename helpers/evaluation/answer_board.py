"""The scoreboard of free answers: every way to answer on the same rows, and compared with the same rival.

board = AnswerBoard(test, template)
board.add_simple_ways(train)
board.add_answers("LoRA", "the one that was trained above", judge_answers(loaded, test, template))
board.tabulate()
"""

from collections.abc import Sequence
from dataclasses import dataclass

import pandas as pd

from helpers.common.errors import NotFoundError
from helpers.common.values import check_lengths
from helpers.evaluation.board_figures import describe_gain
from helpers.evaluation.free_answers import (
    AnswerEvaluation,
    JudgedAnswer,
    JudgedAnswers,
    answer_simply,
    measure_answer_gains,
    summarise_answers,
)
from helpers.evaluation.resampling import Gain
from helpers.tasks.rows import AnyTemplate
from helpers.tasks.template import Row

EXACT, OVERLAP = "word for word", "token F1"  # the columns
SIMPLE = {  # what each way to answer without a model is
    "most frequent answer": "always gives the answer that most of the training rows have",
    "nearest neighbour": "gives the answer of the training row that is most like it",
}


@dataclass(frozen=True)
class AnswerLine:
    """A way to answer, and its answers to the rows."""

    what: str  # what it is, in one sentence
    judged: JudgedAnswers

    def summarise(self) -> AnswerEvaluation:
        """Its figures."""
        return summarise_answers(self.judged)


class AnswerBoard:
    """How close each way to answer comes, on the same rows."""

    def __init__(self, rows: Sequence[Row], template: AnyTemplate):
        self.rows, self.template = list(rows), template
        self.lines: dict[str, AnswerLine] = {}

    def add_simple_ways(self, train: Sequence[Row]) -> None:
        """The lines of the ways to answer that need no model, only the training rows."""
        for name, answers in answer_simply(train, self.rows, self.template).items():
            self.add_answers(name, SIMPLE[name], answers)

    def add_answers(self, name: str, what: str, judged: JudgedAnswers | list[JudgedAnswer]) -> None:
        """A line from the answers to the rows, in their order. A line of that name is replaced."""
        found = judged if isinstance(judged, JudgedAnswers) else JudgedAnswers(judged)
        check_lengths(answers=found.answers, rows=self.rows)
        self.lines[name] = AnswerLine(what, found)

    def measure_gain(self, name: str, rival: str) -> Gain:
        """How many more answers of line `name` are right, word for word, than of line `rival`."""
        for line in (name, rival):
            if line not in self.lines:
                known = ", ".join(self.lines) or "none"
                raise NotFoundError(f"The scoreboard has no line {line!r}.", f"Lines: {known}.")
        return measure_answer_gains(self.lines[rival].judged, self.lines[name].judged)["exact_match"]

    def tabulate(self, rival: str = "nearest neighbour") -> pd.DataFrame:
        """A line for each way to answer: its figures with 95% intervals, and the gain over `rival`."""
        table = []
        for name, line in self.lines.items():
            found, gain = line.summarise(), ""
            if rival in self.lines and name != rival:
                measured = self.measure_gain(name, rival)
                low, high = measured.interval
                gain = describe_gain({"value": measured.value, "low": low, "high": high})
            (low, high), (worst, best) = found.exact_interval, found.token_f1_interval
            cells = {"": name, EXACT: f"{found.exact_match:.1%} [{100 * low:.0f}, {100 * high:.0f}]"}
            cells |= {f"{EXACT}: gain over {rival}": gain}
            cells |= {OVERLAP: f"{found.token_f1:.2f} [{worst:.2f}, {best:.2f}]", "what it is": line.what}
            table.append(cells)
        return pd.DataFrame(table).set_index("")

    def describe_rows(self) -> str:
        """What the figures are of, in one sentence."""
        return f"All figures are of the same {len(self.rows)} held-out rows."
