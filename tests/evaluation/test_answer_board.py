"""The scoreboard of free answers: the same rows for every line, intervals, and gains paired by row."""

import pytest

from helpers.common.errors import NotFoundError, UsageError
from helpers.evaluation.answer_board import EXACT, OVERLAP, AnswerBoard
from helpers.evaluation.free_answers import judge_baselines, judge_texts
from helpers.tasks.template import Template

TEMPLATE = Template("questions", "Answer.", "{question}", answer="{answer}")
TRAIN = [
    {"question": "Who wound the red clock?", "answer": "Ann"},
    {"question": "Who made the red clock?", "answer": "Ben Low"},
    {"question": "Who made the blue clock?", "answer": "Ben Low"},
]
ROWS = [
    {"question": "And who wound the red clock?", "answer": "Ann"},
    {"question": "By whom was the blue clock made?", "answer": "Ben High"},
]


@pytest.fixture
def board():
    board = AnswerBoard(ROWS, TEMPLATE)
    board.add_simple_ways(TRAIN)
    board.add_answers("LoRA", "trained", judge_texts(ROWS, TEMPLATE, ["ann.", "Ben High"]))
    return board


def test_simple_ways_are_those_of_the_evaluation(board):
    for name, figures in judge_baselines(TRAIN, ROWS, TEMPLATE).items():
        assert board.lines[name].summarise().exact_match == figures["exact_match"]


def test_table_has_figures_with_intervals_and_the_gain_over_the_nearest_neighbour(board):
    table = board.tabulate()
    assert list(table.index) == ["most frequent answer", "nearest neighbour", "LoRA"]
    assert table.loc["nearest neighbour", EXACT].startswith("50.0% [")
    assert table.loc["LoRA", EXACT] == "100.0% [34, 100]"
    assert table.loc["LoRA", OVERLAP] == "1.00 [1.00, 1.00]"
    assert table.loc["LoRA", f"{EXACT}: gain over nearest neighbour"].startswith("+50.0 [")
    assert table.loc["nearest neighbour", f"{EXACT}: gain over nearest neighbour"] == ""
    assert "2 held-out rows" in board.describe_rows()


def test_gain_over_a_line_that_is_not_there_names_those_that_are(board):
    with pytest.raises(NotFoundError, match="nearest neighbour"):
        board.measure_gain("LoRA", "bag of words")


def test_answers_to_other_rows_are_refused(board):
    with pytest.raises(UsageError):
        board.add_answers("other", "", judge_texts(ROWS[:1], TEMPLATE, ["Ann"]))
