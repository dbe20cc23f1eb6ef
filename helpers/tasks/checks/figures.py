"""Figures about the answers of a data set: how they are spread, and what a simple method gets."""

import collections
import random
import statistics
import warnings
from collections.abc import Sequence
from dataclasses import dataclass

from helpers.tasks.baseline import judge_bag_of_words
from helpers.tasks.checks.findings import Finding
from helpers.tasks.rows import AnyTemplate, count_labels
from helpers.tasks.template import Label, Row, Template

FOLDS = 5
BAG_ROWS = 2000  # rows on which a bag of words is judged
BAG_EFFORT = 4000  # rows x labels up to which it is logistic regression, and naive Bayes beyond
FEW = 10  # rows of a label
MOST = 0.9  # share of the most frequent label or answer


@dataclass(frozen=True)
class LabelFigures:
    """How the labels are spread."""

    counts: dict[Label, int]  # rows of each label
    majority: float  # accuracy of the most frequent label
    bag_of_words: float | None  # accuracy of a bag of words on grouped folds; None with too few rows
    bag_method: str  # which one, on how many rows; or why there is none


@dataclass(frozen=True)
class AnswerFigures:
    """How answers in free text are spread."""

    different: int
    most_frequent: float  # share of the most frequent answer
    words: float  # median length


def measure_labels(rows: Sequence[Row], template: Template) -> LabelFigures:
    """The figures of a template with labels."""
    counts = count_labels(rows)
    majority = max(counts.values()) / len(rows)
    if len(counts) < 2 or len(rows) < 4 * FOLDS or max(counts.values()) < FOLDS:
        return LabelFigures(counts, majority, None, f"too few rows for {FOLDS} folds")
    chosen = random.Random(0).sample(list(rows), min(BAG_ROWS, len(rows)))
    fast = len(chosen) * len(counts) > BAG_EFFORT
    method = f"{'naive Bayes' if fast else 'logistic regression'}, {FOLDS} folds of {len(chosen):,} rows"
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of labels that are not in every fold
            accuracy, _ = judge_bag_of_words(chosen, FOLDS, template=template, fast=fast)
    except ValueError:  # no words at all, or fewer groups than folds
        return LabelFigures(counts, majority, None, "too few texts or words")
    return LabelFigures(counts, majority, accuracy, method)


def measure_answers(rows: Sequence[Row], template: AnyTemplate) -> AnswerFigures:
    """The figures of answers in free text, those of chats included."""
    answers = [template.build_answer(row).strip() for row in rows]
    ((_, most),) = collections.Counter(answers).most_common(1)
    words = statistics.median(len(answer.split()) for answer in answers)
    return AnswerFigures(len(set(answers)), most / len(answers), words)


def judge_balance(labels: LabelFigures | None, answers: AnswerFigures | None) -> list[Finding]:
    """Findings about labels that are rare and answers that are always the same."""
    found = []
    if labels:
        rare = [str(label) for label, count in labels.counts.items() if count < FEW]
        if rare:
            words = ", ".join(rare[:5]) + (" ..." if len(rare) > 5 else "")
            problem = f"{len(rare)} of {len(labels.counts)} labels have fewer than {FEW} rows: {words}."
            found.append(Finding("rare_labels", "hints", problem, "Add rows with them, or join labels."))
        if labels.majority > MOST:
            problem = f"One label has {labels.majority:.0%} of the rows."
            remedy = "Compare the accuracy with that share; macro-F1 says more."
            found.append(Finding("unbalanced", "hints", problem, remedy))
    if answers and answers.most_frequent > MOST:
        problem = f"One answer has {answers.most_frequent:.0%} of the rows."
        found.append(Finding("same_answer", "warns", problem, "Add rows with other answers."))
    return found
