"""How each kind of template is judged, for the command: labels are scored, free answers are generated."""

import dataclasses
from abc import ABC, abstractmethod
from typing import Any, NamedTuple

from helpers.common.errors import ServerError
from helpers.evaluation.answering import ask_answers, judge_answers, limit_reply
from helpers.evaluation.asking import Ask
from helpers.evaluation.free_answers import (
    AnswerEvaluation,
    JudgedAnswers,
    judge_baselines,
    measure_answer_gains,
    summarise_answers,
)
from helpers.evaluation.judging import ask_predictions, ask_sides
from helpers.evaluation.metrics import (
    Evaluation,
    list_right,
    measure_share,
    pick_predictions,
    pick_sides,
    summarise_predictions,
)
from helpers.evaluation.resampling import Gain, measure_gain
from helpers.evaluation.scoring import score_answers
from helpers.loading.model import LoadedModel
from helpers.tasks.baseline import judge_fitted_bag
from helpers.tasks.rows import AnyTemplate
from helpers.tasks.sides import find_sides
from helpers.tasks.split import name_groups
from helpers.tasks.template import Label, Row, Template

LABEL_TOKENS = 32  # the limit of a server's reply; the answers of labels are short
REFUSES_CHOICE = (400, 422)  # the status of a server's answer to a field that it does not know


class Judge(ABC):
    """Judges rows of one kind. What `judge` and `ask` find out is what the other methods take."""

    reply_tokens: int  # the limit of a server's reply

    @abstractmethod
    def judge(self, loaded: LoadedModel) -> Any:
        """Judges the model, and the LoRA that is active on it."""

    @abstractmethod
    def ask(self, ask: Ask) -> Any:
        """Judges the server that `ask` asks."""

    @abstractmethod
    def summarise(self, found: Any) -> Evaluation | AnswerEvaluation:
        """The figures."""

    def measure_baselines(self) -> dict[str, dict[str, float]]:
        """Figures of ways to answer without a model that are not among those of summarise."""
        return {}

    @abstractmethod
    def measure_gains(self, base: Any, tuned: Any) -> dict[str, Gain]:
        """{metric: how much higher it is for `tuned` than for `base`}."""


class Verdicts(NamedTuple):
    """What was said of rows with labels. None is for what is not one of the answers."""

    labels: list[Label | None]  # of each row
    sides: list[Label | None] | None  # of each row on a side; None if that was not measured


class LabelJudge(Judge):
    """Judges rows with labels, and sides if the task has two. What it finds out are Verdicts."""

    reply_tokens = LABEL_TOKENS

    def __init__(self, template: Template, rows: list[Row], train: list[Row]):
        self.template, self.rows, self.train = template, rows, train
        self.pair = tuple(find_sides(template))
        self.on_side = [row for row in rows if row["label"] in self.pair]

    def judge(self, loaded: LoadedModel) -> Verdicts:
        """The most likely label of each row, and the likelier side."""
        scores = score_answers(loaded, self.rows, self.template, every=bool(self.on_side))
        sides = pick_sides(scores, self.rows, self.pair) if self.on_side else None
        return Verdicts([*pick_predictions(scores)], [*sides] if sides else None)

    def ask(self, ask: Ask) -> Verdicts:
        """The label of each reply, and the side if the server can be held to a choice of two answers."""
        return Verdicts(ask_predictions(ask, self.rows, self.template), self._ask_sides(ask))

    def _ask_sides(self, ask: Ask) -> list[Label | None] | None:
        """The sides that a server says; None if it refuses the choice, or says something else."""
        said: list[Label | None] = []
        for rows in (self.on_side[:1], self.on_side[1:]):  # the first tells whether the server can
            try:
                said += ask_sides(ask, rows, self.template, self.pair, progress=len(rows) > 1)
            except ServerError as error:
                if error.status not in REFUSES_CHOICE:
                    raise
                return None
            if None in said:
                return None
        return said or None

    def summarise(self, found: Verdicts) -> Evaluation:
        """The figures."""
        truth = [row["label"] for row in self.rows]
        figures = summarise_predictions(truth, found.labels, list(self.template.label))
        side = measure_share(list_right(found.sides, self.on_side)) if found.sides else None
        return dataclasses.replace(figures, right_side=side)

    def measure_baselines(self) -> dict[str, dict[str, float]]:
        """The accuracy of a bag of words that is fitted on the training rows, if there are any."""
        if not self.train:
            return {}
        accuracy = judge_fitted_bag(self.train, self.rows)
        return {"bag of words": {"accuracy": accuracy, "rows": len(self.rows)}}

    def measure_gains(self, base: Verdicts, tuned: Verdicts) -> dict[str, Gain]:
        """The gain in accuracy, and in right sides."""
        gains = {"accuracy": self._measure_gain(base.labels, tuned.labels, self.rows)}
        if base.sides and tuned.sides:
            gains["right_side"] = self._measure_gain(base.sides, tuned.sides, self.on_side)
        return gains

    def _measure_gain(self, base: list[Label | None], tuned: list[Label | None], rows: list[Row]) -> Gain:
        """How many more of the rows are right."""
        return measure_gain(list_right(base, rows), list_right(tuned, rows), name_groups(rows, self.template))


class AnswerJudge(Judge):
    """Judges rows with free answers, beside the baselines if there are training rows."""

    def __init__(self, template: AnyTemplate, rows: list[Row], train: list[Row]):
        self.template, self.rows = template, rows
        self.reply_tokens = limit_reply(rows, template)
        self.baselines = judge_baselines(train, rows, template) if train else {}

    def judge(self, loaded: LoadedModel) -> JudgedAnswers:
        """The generated answers."""
        return judge_answers(loaded, self.rows, self.template)

    def ask(self, ask: Ask) -> JudgedAnswers:
        """The replies."""
        return ask_answers(ask, self.rows, self.template)

    def summarise(self, found: JudgedAnswers) -> AnswerEvaluation:
        """The figures."""
        return summarise_answers(found, self.baselines)

    def measure_gains(self, base: JudgedAnswers, tuned: JudgedAnswers) -> dict[str, Gain]:
        """The gains in exact match, token F1 and chrF."""
        return measure_answer_gains(base, tuned)


def make_judge(template: AnyTemplate, rows: list[Row], train: list[Row]) -> Judge:
    """The judge for this kind of template; `train` is what the baselines may know."""
    if isinstance(template, Template) and template.kind == "labels":
        return LabelJudge(template, rows, train)
    return AnswerJudge(template, rows, train)
