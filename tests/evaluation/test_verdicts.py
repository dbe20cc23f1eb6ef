"""What is made of scores: figures by hand, known values, drawn again."""

import pytest

from helpers import evaluation


def make_rows(labels, comments=None):
    return [{"text": str(comments[i] if comments else i), "label": label} for i, label in enumerate(labels)]


def make_scores(labels, margin=1.0):
    """Scores whose verdicts are these labels."""
    return [{label: -margin * (label != best) for label in range(4)} for best in labels]


def test_summary_counts_what_is_right():
    result = evaluation.summarise_verdicts([0, 0, 1, 1, 2], [0, 1, 1, 1, None], [0, 1, 2])
    assert result.rows == 5 and result.accuracy == 0.6 and result.majority_accuracy == 0.4
    assert result.confusion == [[1, 1, 0, 0], [0, 2, 0, 0], [0, 0, 0, 1]]
    assert result.interval[0] < 0.6 < result.interval[1]


def test_interval_is_wilsons():
    low, high = evaluation.estimate_interval(50, 100)
    assert (low, high) == pytest.approx((0.4038, 0.5962), abs=1e-4)  # textbook values for 50 of 100


def test_told_apart_looks_at_two_labels_whatever_the_verdict_is():
    scores = [
        {0: 0.0, 1: -1.0, 2: -2.0},
        {0: 0.0, 1: -2.0, 2: -1.0},
        {0: 0.0, 1: -1.0, 2: -2.0},
        {0: -9.0, 1: 0.0, 2: -1.0},
    ]
    assert evaluation.measure_told_apart(scores, make_rows([1, 2, 2, 0])) == pytest.approx(2 / 3)
    assert evaluation.measure_told_apart(scores, make_rows([0, 0, 3, 3])) is None


def test_gain_is_paired_and_its_interval_holds_the_gain():
    labels = [i % 4 for i in range(200)]
    base, tuned = (
        make_scores([0] * 200),
        make_scores([label if i % 5 else 0 for i, label in enumerate(labels)]),
    )
    low, high = evaluation.bootstrap_gain(base, tuned, make_rows(labels))
    gain = sum(label != 0 for i, label in enumerate(labels) if i % 5) / 200
    assert low < gain < high and low > 0.5
    assert evaluation.bootstrap_gain(base, base, make_rows(labels)) == (0.0, 0.0)


def test_rows_of_one_comment_count_as_one_draw():
    labels = [1] * 100
    base, tuned = make_scores([0] * 100), make_scores([1] * 50 + [0] * 50)
    apart = evaluation.bootstrap_gain(base, tuned, make_rows(labels))
    together = evaluation.bootstrap_gain(
        base, tuned, make_rows(labels, comments=[i // 25 for i in range(100)])
    )
    assert together[1] - together[0] > 2 * (apart[1] - apart[0])


def test_worst_rows_are_the_surest_mistakes():
    rows, scores = make_rows([0, 1, 2, 3]), make_scores([0, 0, 0, 0], margin=1.0)
    scores[2][2] = -5.0
    assert [(row["label"], verdict, gap) for row, verdict, gap in evaluation.find_worst(scores, rows, 2)] == [
        (2, 0, 5.0),
        (1, 0, 1.0),
    ]
