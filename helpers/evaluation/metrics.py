"""Scores of answers in, figures out: accuracy with an interval, what is confused with what, how far two models differ.

Scores are log-probabilities in nats, a {label: score} for each row; the verdict is the label with the highest.
"""

import collections
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy.stats import binomtest
from sklearn.metrics import confusion_matrix, f1_score

from helpers.tasks.rows import Row

Scores = dict[int, float]  # of one row: log P(answer | prompt), in nats, of each label's answer


@dataclass(frozen=True)
class Evaluation:
    """What `python -m helpers.evaluation --json` writes."""

    rows: int  # how many were judged
    accuracy: float  # share of right verdicts
    interval: tuple[float, float]  # 95 % Wilson interval of the accuracy
    macro_f1: float  # F1 averaged over the labels
    weighted_f1: float  # F1 averaged over the labels, weighted by their rows
    confusion: list[
        list[int]
    ]  # rows: the true label, columns: the verdict, in the template's order (last column: no known answer)
    majority_accuracy: float  # what always answering the most frequent label gets


def estimate_interval(right: int, rows: int) -> tuple[float, float]:
    """95 % Wilson score interval of a share (E. B. Wilson, 1927), computed by SciPy."""
    interval = binomtest(right, rows).proportion_ci(method="wilson")
    return float(interval.low), float(interval.high)


def summarise_verdicts(
    truth: Sequence[int], verdicts: Sequence[int | None], labels: Sequence[int]
) -> Evaluation:
    """The figures of an evaluation. `verdicts` holds None where the model gave no known answer, which counts as wrong."""
    guesses = [max(labels) + 1 if verdict is None else verdict for verdict in verdicts]
    right, columns = sum(t == g for t, g in zip(truth, guesses, strict=True)), [*labels, max(labels) + 1]
    matrix = confusion_matrix(truth, guesses, labels=columns)[: len(labels)]
    if not matrix[:, -1].any():
        matrix = matrix[:, :-1]
    return Evaluation(
        rows=len(truth),
        accuracy=right / len(truth),
        interval=estimate_interval(right, len(truth)),
        macro_f1=float(f1_score(truth, guesses, labels=list(labels), average="macro", zero_division=0)),
        weighted_f1=float(f1_score(truth, guesses, labels=list(labels), average="weighted", zero_division=0)),
        confusion=matrix.tolist(),
        majority_accuracy=max(collections.Counter(truth).values()) / len(truth),
    )


def pick_verdicts(scores: Sequence[Scores]) -> list[int]:
    """The likeliest label of each row."""
    return [max(row_scores, key=row_scores.get) for row_scores in scores]


def measure_told_apart(
    scores: Sequence[Scores], rows: Sequence[Row], pair: tuple[int, int] = (1, 2)
) -> float | None:
    """Share of the rows labelled with one of the pair whose own label scores above the other; chance is 0.5. None without such rows."""
    first, second = pair
    right = [
        (s[first] > s[second]) == (row["label"] == first)
        for s, row in zip(scores, rows, strict=True)
        if row["label"] in pair
    ]
    return sum(right) / len(right) if right else None


def bootstrap_gain(
    base: Sequence[Scores], tuned: Sequence[Scores], rows: Sequence[Row], draws: int = 10_000, seed: int = 0
) -> tuple[float, float]:
    """95 % interval of accuracy(tuned) - accuracy(base), paired by row: comments are drawn anew, each with all of its rows.

    Source: B. Efron, Bootstrap methods, 1979 (percentiles); by comment, since rows of one comment are no independent draws.
    """
    gains: dict[object, list[int]] = collections.defaultdict(list)
    for before, after, row in zip(pick_verdicts(base), pick_verdicts(tuned), rows, strict=True):
        gains[row["text"]].append(int(after == row["label"]) - int(before == row["label"]))
    sums, sizes = (
        np.array([sum(found) for found in gains.values()]),
        np.array([len(found) for found in gains.values()]),
    )
    drawn = np.random.default_rng(seed).integers(len(sums), size=(draws, len(sums)))
    low, high = np.percentile(sums[drawn].sum(1) / sizes[drawn].sum(1), [2.5, 97.5])
    return float(low), float(high)


def find_worst(scores: Sequence[Scores], rows: Sequence[Row], count: int = 3) -> list[tuple[Row, int, float]]:
    """(row, verdict, how much higher it scores than the right answer, in nats) of the most confident mistakes, worst first."""
    mistakes = [
        (row, verdict, row_scores[verdict] - row_scores[row["label"]])
        for row, verdict, row_scores in zip(rows, pick_verdicts(scores), scores, strict=True)
        if verdict != row["label"]
    ]
    return sorted(mistakes, key=lambda mistake: -mistake[2])[:count]
