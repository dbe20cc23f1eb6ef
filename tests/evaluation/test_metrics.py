"""The figures made from scores: some computed by hand, some known from the literature, some drawn."""

import pytest

from helpers.evaluation.metrics import (
    bootstrap_gain,
    estimate_interval,
    find_worst,
    measure_pairwise_accuracy,
    pick_predictions,
    summarise_predictions,
)


def make_rows(labels, comments=None):
    """Rows with these labels; each has a comment of its own unless `comments` are given."""
    comments = range(len(labels)) if comments is None else comments
    return [{"text": str(comment), "label": label} for comment, label in zip(comments, labels, strict=True)]


def make_scores(labels):
    """Scores whose predictions are these labels, each 1 nat above the others."""
    return [{label: 0.0 if label == best else -1.0 for label in range(4)} for best in labels]


def test_prediction_is_the_most_likely_label_and_the_first_of_equals():
    assert pick_predictions([{0: -3.0, 1: -1.0, 2: -2.0}, {2: -1.0, 0: -1.0}]) == [1, 2]


def test_summary_counts_what_is_right():
    result = summarise_predictions([0, 0, 1, 1, 2], [0, 1, 1, 1, None], [0, 1, 2])
    assert (result.rows, result.accuracy, result.majority_accuracy) == (5, 0.6, 0.4)
    assert result.confusion == [[1, 1, 0, 0], [0, 2, 0, 0], [0, 0, 0, 1]]
    assert result.interval[0] < 0.6 < result.interval[1]
    # F1 by hand: 2/3 for label 0 (precision 1, recall 1/2), 4/5 for label 1 (2/3, 1), 0 for label 2
    assert result.macro_f1 == pytest.approx((2 / 3 + 4 / 5 + 0) / 3)
    assert result.weighted_f1 == pytest.approx((2 * 2 / 3 + 2 * 4 / 5 + 0) / 5)


def test_confusion_has_a_column_for_unknown_answers_only_if_there_are_any():
    assert summarise_predictions([0, 1], [1, 1], [0, 1]).confusion == [[0, 1], [0, 1]]


def test_interval_is_wilsons():
    low, high = estimate_interval(50, 100)
    assert (low, high) == pytest.approx((0.4038, 0.5962), abs=1e-4)  # textbook values for 50 of 100


def test_pairwise_accuracy_compares_two_labels_whatever_the_prediction_is():
    scores = [
        {0: 0.0, 1: -1.0, 2: -2.0},
        {0: 0.0, 1: -2.0, 2: -1.0},
        {0: 0.0, 1: -1.0, 2: -2.0},
        {0: -9.0, 1: 0.0, 2: -1.0},
    ]
    assert measure_pairwise_accuracy(scores, make_rows([1, 2, 2, 0]), (1, 2)) == pytest.approx(2 / 3)
    assert measure_pairwise_accuracy(scores, make_rows([0, 0, 3, 3]), (1, 2)) is None


def test_gain_is_paired_and_lies_in_its_interval():
    labels = [i % 4 for i in range(200)]
    found = [label if i % 5 else 0 for i, label in enumerate(labels)]
    base, tuned = make_scores([0] * 200), make_scores(found)
    low, high = bootstrap_gain(base, tuned, make_rows(labels))
    gain = sum(label != 0 for i, label in enumerate(labels) if i % 5) / 200
    assert low < gain < high and low > 0.5
    assert bootstrap_gain(base, base, make_rows(labels)) == (0.0, 0.0)


def test_rows_of_one_comment_count_as_one_draw():
    labels = [1] * 100
    base, tuned = make_scores([0] * 100), make_scores([1] * 50 + [0] * 50)
    apart = bootstrap_gain(base, tuned, make_rows(labels))
    together = bootstrap_gain(base, tuned, make_rows(labels, comments=[i // 25 for i in range(100)]))
    assert together[1] - together[0] > 2 * (apart[1] - apart[0])


def test_worst_rows_are_the_most_confident_mistakes():
    rows = make_rows([0, 1, 2, 3])
    scores = make_scores([0, 0, 0, 0])
    scores[2][2] = -5.0
    assert find_worst(scores, rows, 2) == [(rows[2], 0, 5.0), (rows[1], 0, 1.0)]
