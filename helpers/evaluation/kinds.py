"""How each kind of template is judged, for the command: labels are scored, free answers are generated."""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any

from helpers.evaluation.answering import ask_answers, judge_answers, limit_reply
from helpers.evaluation.asking import Ask
from helpers.evaluation.free_answers import (
    AnswerEvaluation,
    JudgedAnswers,
    judge_baselines,
    measure_answer_gains,
    summarise_answers,
)
from helpers.evaluation.judging import ask_predictions
from helpers.evaluation.metrics import Evaluation, list_right, pick_predictions, summarise_predictions
from helpers.evaluation.resampling import Gain, measure_gain
from helpers.evaluation.scoring import score_answers
from helpers.loading.model import LoadedModel
from helpers.tasks.baseline import judge_fitted_bag
from helpers.tasks.rows import AnyTemplate
from helpers.tasks.split import name_groups
from helpers.tasks.template import Label, Row, Template

LABEL_TOKENS = 32  # the limit of a server's reply; the answers of labels are short


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


class LabelJudge(Judge):
    """Judges rows with labels. What it finds out are predictions."""

    reply_tokens = LABEL_TOKENS

    def __init__(self, template: Template, rows: list[Row], train: list[Row]):
        self.template, self.rows, self.train = template, rows, train

    def judge(self, loaded: LoadedModel) -> list[Label]:
        """The most likely label of each row."""
        return pick_predictions(score_answers(loaded, self.rows, self.template, every=False))

    def ask(self, ask: Ask) -> list[Label | None]:
        """The label of each reply; None for a reply that is not one of the answers."""
        return ask_predictions(ask, self.rows, self.template)

    def summarise(self, found: Sequence[Label | None]) -> Evaluation:
        """The figures."""
        return summarise_predictions([row["label"] for row in self.rows], found, list(self.template.label))

    def measure_baselines(self) -> dict[str, dict[str, float]]:
        """The accuracy of a bag of words that is fitted on the training rows, if there are any."""
        if not self.train:
            return {}
        accuracy = judge_fitted_bag(self.train, self.rows)
        return {"bag of words": {"accuracy": accuracy, "rows": len(self.rows)}}

    def measure_gains(self, base: list[Label], tuned: list[Label]) -> dict[str, Gain]:
        """The gain in accuracy."""
        before, after = list_right(base, self.rows), list_right(tuned, self.rows)
        return {"accuracy": measure_gain(before, after, name_groups(self.rows, self.template))}


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
