"""What the functions of evaluation are given and cannot use."""

import pytest

from helpers import evaluation, tasks
from helpers.common.errors import UsageError

FREE = tasks.Template("free", "", "{question}", answer="{answer}")
ROWS = [{"question": "q", "answer": "a"}] * 2
LABELS = tasks.Template("labels", "", "{text}", label={0: "A", 1: "B"})
LABELLED = [{"text": "x", "label": 1}, {"text": "y", "label": 0}]
NAN = float("nan")


def ask(messages):
    return "A"


@pytest.mark.parametrize(
    "call",
    [
        lambda: evaluation.evaluate_over_url(ask, ROWS, FREE, False),
        lambda: evaluation.ask_predictions(ask, ROWS, FREE, False),
        lambda: evaluation.summarise_scores([{0: 1.0}] * 2, ROWS, FREE),
        lambda: evaluation.evaluate(None, ROWS, FREE),
    ],
)
def test_labels_are_asked_for_with_a_template_that_has_them(call):
    with pytest.raises(UsageError, match="free has no labels.*ask_answers"):
        call()


@pytest.mark.parametrize(
    "call",
    [
        lambda: evaluation.ask_predictions(lambda messages: None, LABELLED, LABELS, False),
        lambda: evaluation.ask_answers(lambda messages: None, ROWS, FREE, False),
        lambda: evaluation.ask_answers("x", ROWS, FREE, False),
        lambda: evaluation.ask_answers(ask, [{"x": 1}], FREE, False),
        lambda: evaluation.ask_answers(ask, ROWS, "t.yaml", False),
        lambda: evaluation.summarise_answers(evaluation.ask_answers(ask, [], FREE, False)),
        lambda: evaluation.evaluate_over_url(ask, [], LABELS, False),
        lambda: evaluation.score_answers(None, LABELLED, LABELS),
        lambda: evaluation.judge_answers(None, ROWS, FREE),
        lambda: evaluation.judge_baselines([], ROWS, FREE),
        lambda: evaluation.judge_baselines(ROWS, [{"x": 1}], FREE),
        lambda: evaluation.compare_answers(None, "x"),
        lambda: evaluation.summarise_predictions([], [], []),
        lambda: evaluation.summarise_predictions([1, 0], [1], [0, 1]),
        lambda: evaluation.summarise_predictions([1, 2], [1, 1], [0, 1]),
        lambda: evaluation.summarise_predictions([1, 0], [1, 7], [0, 1]),
        lambda: evaluation.pick_predictions([{}]),
        lambda: evaluation.pick_predictions([{0: NAN, 1: 0.5}]),
        lambda: evaluation.pick_predictions([{0: 0.5, 1: NAN}]),
        lambda: evaluation.estimate_interval(5, 3),
        lambda: evaluation.estimate_interval(0, 0),
        lambda: evaluation.estimate_interval(-1, 3),
        lambda: evaluation.estimate_interval("a", 3),
        lambda: evaluation.bootstrap_gain([], [], []),
        lambda: evaluation.bootstrap_gain([{0: 1.0}], [], LABELLED[:1]),
        lambda: evaluation.find_worst([{0: 1.0}], LABELLED),
        lambda: evaluation.measure_pairwise_accuracy([{0: 1.0}], LABELLED, (1, 2)),
    ],
)
def test_what_cannot_be_judged_is_refused(call):
    with pytest.raises(UsageError):
        call()


def test_gains_are_between_answers_to_the_same_rows():
    few, many = (evaluation.ask_answers(ask, rows, FREE, False) for rows in (ROWS[:1], ROWS))
    with pytest.raises(UsageError, match="base 1, tuned 2"):
        evaluation.measure_answer_gains(few, many)
