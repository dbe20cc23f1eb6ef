"""The figures of an evaluation: accuracy with an interval, F1, confusion, and how far two models differ.

They are made from scores. The score of an answer is its log-probability in nats, and a row's scores are
{label: score}. A model's prediction for a row is the label with the highest score.
"""

import collections
from collections.abc import Sequence
from dataclasses import dataclass
from typing import cast

from scipy.stats import binomtest
from sklearn.metrics import confusion_matrix, f1_score

from helpers.common.arguments import shorten
from helpers.common.errors import UsageError
from helpers.common.values import check_filled, check_lengths, check_whole, refuse
from helpers.evaluation.board_figures import Share
from helpers.evaluation.resampling import measure_gain
from helpers.tasks.given import check_rows
from helpers.tasks.rows import ONLY_LABELS
from helpers.tasks.split import name_groups
from helpers.tasks.template import Label, Row, Template

Scores = dict[Label, float]  # of one row: {label: log P(answer | prompt), in nats}


@dataclass(frozen=True)
class Evaluation:
    """The figures of one evaluation. `python -m helpers.evaluation --json` writes them under these names."""

    rows: int  # number of rows that were judged
    accuracy: float  # share of rows with the right prediction
    interval: tuple[float, float]  # 95% Wilson interval of the accuracy
    macro_f1: float  # mean F1 of the labels
    weighted_f1: float  # mean F1 of the labels, weighted by their numbers of rows
    # One row for each true label, one column for each predicted one, in the template's order. A last column
    # counts the rows without a known answer; it is omitted if there are none.
    confusion: list[list[int]]
    majority_accuracy: float  # accuracy of always answering with the most frequent label
    right_side: Share | None = None  # of the rows on a side (scoreboard); None if it was not measured


def pick_predictions(scores: Sequence[Scores]) -> list[Label]:
    """The most likely label of each row; the first of them if several are equal."""
    for number, row_scores in enumerate(scores, start=1):
        if not row_scores or any(score != score for score in row_scores.values()):
            problem = f"Row {number} has no scores that are numbers: {shorten(row_scores)}."
            raise UsageError(problem, "Give {label: log-probability} for each row, as score_answers returns.")
    return [max(row_scores, key=row_scores.__getitem__) for row_scores in scores]


def summarise_predictions(
    truth: Sequence[Label], predictions: Sequence[Label | None], labels: Sequence[Label]
) -> Evaluation:
    """The figures of an evaluation, from the true and the predicted label of each row.

    `labels` are all labels, in the template's order. A prediction of None means that the model gave no known
    answer; it counts as wrong.
    """
    check_filled("rows", truth)
    check_lengths(truth=truth, predictions=predictions)
    known = {None, *labels}
    if unknown := [label for label in (*truth, *predictions) if label not in known]:
        refuse("A label", unknown[0], f"one of the template's: {shorten(list(labels))}")
    rows = len(truth)
    places = {label: place for place, label in enumerate(labels)}  # labels may be words
    no_answer = len(labels)  # a label of its own, for scikit-learn
    expected = [places[label] for label in truth]
    predicted = [no_answer if label is None else places[label] for label in predictions]
    right = sum(wanted == found for wanted, found in zip(expected, predicted, strict=True))
    confusion = confusion_matrix(expected, predicted, labels=range(no_answer + 1))[:no_answer]
    if not confusion[:, -1].any():
        confusion = confusion[:, :-1]
    return Evaluation(
        rows=rows,
        accuracy=right / rows,
        interval=estimate_interval(right, rows),
        macro_f1=measure_f1(expected, predicted, range(no_answer), "macro"),
        weighted_f1=measure_f1(expected, predicted, range(no_answer), "weighted"),
        confusion=confusion.tolist(),
        majority_accuracy=max(collections.Counter(truth).values()) / rows,
    )


def measure_f1(truth: Sequence[int], predicted: Sequence[int], labels: Sequence[int], average: str) -> float:
    """Mean F1 of the labels, as scikit-learn's `average` says; a label that never occurs counts as 0."""
    # scikit-learn annotates zero_division as a str, but documents and accepts 0
    zero = cast(str, 0)
    return float(f1_score(truth, predicted, labels=list(labels), average=average, zero_division=zero))


def estimate_interval(right: int, rows: int) -> tuple[float, float]:
    """95% Wilson score interval of a share (E. B. Wilson, 1927), computed by SciPy."""
    check_whole("rows", rows, 1)
    check_whole("right", right, 0, rows)
    interval = binomtest(right, rows).proportion_ci(method="wilson")
    return float(interval.low), float(interval.high)


def measure_share(right: Sequence[int]) -> Share:
    """The share of the rows that are right, 1 or 0 each, with its 95% Wilson interval."""
    low, high = estimate_interval(sum(right), len(right))
    return {"value": sum(right) / len(right), "low": low, "high": high, "n": len(right)}


def measure_pairwise_accuracy(
    scores: Sequence[Scores], rows: Sequence[Row], pair: Sequence[Label]
) -> float | None:
    """Share of the rows labelled with one of the pair in which that label scores above the other.

    Chance is 0.5. None if no row has a label of the pair. Labels outside the pair play no part, even if one
    of them is the prediction.
    """
    right = list_right(pick_sides(scores, rows, pair), [row for row in rows if row["label"] in pair])
    return sum(right) / len(right) if right else None


def pick_sides(scores: Sequence[Scores], rows: Sequence[Row], pair: Sequence[Label]) -> list[Label]:
    """Of each row labelled with one of the pair, the label of the pair that scores higher."""
    check_lengths(scores=scores, rows=rows)
    labels = list_labels(rows)
    return [
        max(pair, key=found.__getitem__) for found, label in zip(scores, labels, strict=True) if label in pair
    ]


def bootstrap_gain(
    base: Sequence[Scores], tuned: Sequence[Scores], rows: Sequence[Row], template: Template | None = None
) -> tuple[float, float]:
    """95% interval of accuracy(tuned) - accuracy(base), paired by row, resampled by groups.

    Rows are grouped as the template groups them, or by their `text` without one.
    """
    check_filled("rows", rows)
    check_lengths(base=base, tuned=tuned, rows=rows)
    before, after = (list_right(pick_predictions(scores), rows) for scores in (base, tuned))
    return measure_gain(before, after, name_groups(rows, template)).interval


def list_right(predictions: Sequence[Label | None], rows: Sequence[Row]) -> list[int]:
    """1 for each row whose prediction is right, else 0."""
    pairs = zip(predictions, list_labels(rows), strict=True)
    return [int(prediction == label) for prediction, label in pairs]


def find_worst(
    scores: Sequence[Scores], rows: Sequence[Row], count: int = 3
) -> list[tuple[Row, Label, float]]:
    """The most confident mistakes, worst first: (row, prediction, gap).

    The gap is how much higher the prediction scores than the right label, in nats.
    """
    check_lengths(scores=scores, rows=rows)
    mistakes = []
    labels, predictions = list_labels(rows), pick_predictions(scores)
    for row, found, label, prediction in zip(rows, scores, labels, predictions, strict=True):
        if prediction != label:
            mistakes.append((row, prediction, found[prediction] - found[label]))
    return sorted(mistakes, key=lambda mistake: -mistake[2])[:count]


def list_labels(rows: Sequence[Row]) -> list[Label]:
    """The label of each row."""
    check_rows(rows, ["label"], ONLY_LABELS, empty=True)
    return [row["label"] for row in rows]
