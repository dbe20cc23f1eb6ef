"""The scoreboard: the same rows for every line, intervals, and gains paired by row."""

import json

import pytest

from helpers.common.errors import NotFoundError, UsageError
from helpers.evaluation import Scoreboard
from helpers.evaluation.board_figures import describe_gain, is_board, write_board
from helpers.evaluation.scoreboard import ANSWER, SIDE
from helpers.tasks.template import Template

TEMPLATE = Template("t", "", "{text} {a} {b}", {0: "none", 1: "{a}", 2: "{b}", 3: "both"})
LABELS = [1, 2, 0, 3, 1, 1]
ROWS = [
    {"text": f"comment {number // 2}", "a": "Elm", "b": "Glen", "label": label}
    for number, label in enumerate(LABELS)
]


def score(label, rival):
    """Scores of one row, with `label` on top and `rival` above the others."""
    return {0: -9.0, 1: -9.0, 2: -9.0, 3: -9.0, rival: -2.0, label: -1.0}


@pytest.fixture
def board():
    board = Scoreboard(ROWS, TEMPLATE)
    board.add_scores("words", "counts words", [score(0, 2) for _ in ROWS])
    board.add_scores("reads", "reads the comment", [score(row["label"], 1) for row in ROWS])
    return board


def test_shares_are_of_all_rows_and_of_those_on_a_side(board):
    assert board.get_shares() == {"words": (1 / 6, 6), "reads": (1.0, 6)}
    assert board.get_shares(SIDE) == {"words": (1 / 4, 4), "reads": (1.0, 4)}


def test_side_is_the_higher_of_the_two_even_if_another_answer_is_said(board):
    assert board.lines["words"].answers == [0, 0, 1, 0, 0, 0]  # says "none" each time
    assert board.lines["words"].sides == [0, 1, 0, 0]  # and scores B above A


def test_majority_is_the_most_frequent_label(board):
    board.add_majority()
    assert board.get_shares()["majority"] == (3 / 6, 6)
    assert "'{a}'" in board.lines["majority"].what and board.lines["majority"].sides is None


def test_gain_is_paired_and_its_interval_holds_the_value(board):
    value, (low, high) = board.measure_gain("reads", "words")
    assert value == pytest.approx(5 / 6) and low <= value <= high
    value, _ = board.measure_gain("reads", "words", SIDE)
    assert value == pytest.approx(3 / 4)


def test_table_has_a_line_for_each_with_its_gain_and_what_it_is(board):
    board.add_majority()
    table = board.tabulate("words")
    assert list(table.index) == ["words", "reads", "majority"]
    assert table.loc["reads", ANSWER].startswith("100.0%\u00a0[")
    assert table.loc["reads", f"{ANSWER}: gain over words"].startswith("+83.3\u00a0[")
    assert table.loc["words", f"{ANSWER}: gain over words"] == ""
    assert table.loc["majority", SIDE] == "not\u00a0measured"
    assert table.loc["majority", f"{SIDE}: gain over words"] == ""


def test_reply_that_is_no_answer_counts_as_wrong(board):
    board.add_predictions("server", "asked over HTTP", [None] * 6, [None, 2, 1, 1])
    assert board.get_shares()["server"][0] == 0 and board.get_shares(SIDE)["server"] == (3 / 4, 4)


def test_rows_without_sides_have_one_column():
    board = Scoreboard([row for row in ROWS if row["label"] in (0, 3)], TEMPLATE)
    board.add_scores("words", "counts words", [score(0, 2)] * 2)
    assert list(board.tabulate("words").columns) == [ANSWER, f"{ANSWER}: gain over words", "what it is"]
    assert "side" not in board.describe_rows()


def test_saved_lines_come_back_and_do_not_replace_newer_ones(board, tmp_path):
    board.save(tmp_path / "board.json")
    later = Scoreboard(ROWS, TEMPLATE)
    later.add_scores("words", "counted again", [score(1, 2)] * 6)
    assert later.load(tmp_path / "board.json")
    assert later.lines["reads"] == board.lines["reads"]
    assert later.lines["words"].what == "counted again"


def test_scoreboard_of_other_rows_is_not_taken_over(board, tmp_path):
    board.save(tmp_path / "board.json")
    other = Scoreboard(ROWS[:4], TEMPLATE)
    assert not other.load(tmp_path / "board.json") and not other.load(tmp_path / "none.json")
    assert other.lines == {}


def test_line_that_is_not_there_and_rows_that_are_too_few_are_refused(board):
    with pytest.raises(NotFoundError, match="words, reads"):
        board.measure_gain("tea leaves", "words")
    with pytest.raises(UsageError, match="length"):
        board.add_predictions("short", "", [1])
    board.add_majority()
    with pytest.raises(UsageError, match=SIDE):
        board.measure_gain("majority", "words", SIDE)


def test_gain_is_written_in_percentage_points():
    assert describe_gain({"value": 0.168, "low": 0.091, "high": 0.249}) == "+16.8 [+9.1, +24.9]"


def test_rows_are_described_with_their_texts(board):
    assert (
        board.describe_rows()
        == "All figures are of the same 6 held-out rows, 4 of them on a side, from 3 texts."
    )


def test_task_without_two_options_has_no_sides():
    plain = Template("t", "", "{text}", {0: "no", 1: "yes", 2: "later"})
    board = Scoreboard(ROWS, plain)
    board.add_scores("words", "counts words", [{0: -9.0, 1: -1.0, 2: -2.0} for _ in ROWS])
    assert board.on_side == [] and board.list_figures()["columns"] == [ANSWER]


def test_figures_are_those_of_the_table_and_survive_json(board):
    board.add_majority()
    figures = json.loads(json.dumps(board.list_figures("words")))
    assert is_board(figures) and figures["rows"] == board.describe_rows() and figures["rival"] == "words"
    words, reads, majority = figures["lines"]
    assert words["gains"] == {} and majority["shares"].keys() == majority["gains"].keys() == {ANSWER}
    share = reads["shares"][SIDE]
    assert (share["value"], share["high"], share["n"]) == (1, 1, 4) and 0 < share["low"] < 1
    value, interval = board.measure_gain("reads", "words")
    gain = reads["gains"][ANSWER]
    assert (gain["value"], gain["low"], gain["high"]) == (value, *interval)


def test_written_board_has_the_cells_of_the_table_its_rows_and_what_each_line_is(board):
    board.add_majority()
    written, table = write_board(board.list_figures("words")), board.tabulate("words")
    lines = written.splitlines()
    assert lines[0] == board.describe_rows()
    for name, cells in table.iterrows():
        [line] = [line for line in lines if line.startswith(f"| {name} ")]
        found = [cell.strip() for cell in line.strip("|").split("|")]
        assert found == [name, *(cell.replace("\u00a0", " ") for cell in cells.drop("what it is"))]
        assert f"- {name}: {cells['what it is']}" in lines
    assert len({len(line) for line in lines if line.startswith("|")}) == 1


@pytest.mark.parametrize("part", ["rows", "rival", "columns", "lines"])
def test_what_lacks_a_part_or_has_no_line_is_no_board(board, part):
    figures = board.list_figures("words")
    assert not is_board({key: value for key, value in figures.items() if key != part})
    assert not is_board({**figures, "lines": []}) and not is_board(None) and not is_board([figures])
    figures["lines"][0]["shares"][ANSWER]["value"] = "high"
    assert not is_board(figures)
