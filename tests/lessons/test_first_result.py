"""The comment with which lesson 1 begins: the LoRA is sure of its answer, on every machine."""

import re

import pytest
from support.lessons import NOTEBOOKS, name_pair

from helpers import adapters, evaluation, loading, tutorial

SURE = 2  # nats between the right answer and the next one; rounding moves it by tenths


@pytest.fixture
def shown():
    """The task's data, and the row that lesson 1 shows."""
    lesson = name_pair(NOTEBOOKS / "01_weights.ipynb").read_text(encoding="utf-8")
    [start] = re.findall(r'startswith\("(.*)"\)', lesson)
    data = tutorial.Task("college_preferences").load()
    [row] = [row for row in data.test if row["text"].startswith(start)]
    return data, row


@pytest.mark.real
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_right_answer_is_far_ahead_in_both_orders(shown, real_model_name, dtype):
    data, row = shown
    loaded = loading.load_model(real_model_name, dtype=dtype)
    adapters.attach_adapter(loaded, "college-preferences-15-minutes")
    right = data.template.build_answers(row)[row["label"]]
    for order in tutorial.list_orders(row, data.template):
        scores = evaluation.score_answers(loaded, [order], data.template, progress=False)[0]
        answers = data.template.build_answers(order)
        first, second = sorted(scores, key=scores.__getitem__, reverse=True)[:2]
        assert answers[first] == right and scores[first] - scores[second] > SURE
