"""Five comments that the learner answers before a model does."""

import pytest

from helpers.common.errors import UsageError
from helpers.tasks.template import Template
from helpers.tutorial import game

TEMPLATE = Template("t", "Judge.", "{text}", {0: "none", 1: "A", 2: "B"})
ROWS = [{"text": f"comment {number}" + "!" * (number // 6), "label": number % 3} for number in range(12)]


def test_rounds_are_short_rows_of_different_texts_with_mixed_labels():
    rounds = game.pick_rounds([*ROWS, *ROWS], TEMPLATE)
    assert len({row["text"] for row in rounds}) == 5
    assert {row["label"] for row in rounds} == {0, 1, 2}
    assert rounds == game.pick_rounds([*ROWS, *ROWS], TEMPLATE)


def test_rounds_are_drawn_from_the_shorter_half_and_are_not_the_shortest():
    rows = [{"text": "x" * length, "label": length % 3} for length in range(1, 61)]
    lengths = [len(row["text"]) for row in game.pick_rounds(rows, TEMPLATE)]
    assert max(lengths) <= 30 and sum(lengths) > 3 * sum(range(1, 6))


def test_few_texts_give_few_rounds():
    assert len(game.pick_rounds(ROWS[:2] * 4, TEMPLATE)) == 2


def test_shown_rounds_do_not_give_the_answer_away():
    shown = [game.write_rounds([{"text": "<b>mine</b>", "label": label}], TEMPLATE) for label in (1, 2)]
    assert shown[0] == shown[1]
    assert "&lt;b&gt;mine" in shown[0] and "<b>2</b> B" in shown[0]


@pytest.fixture
def rounds(home):
    return game.pick_rounds(ROWS, TEMPLATE)


def test_answers_are_counted_and_found_again(rounds, capsys):
    answers = [row["label"] for row in rounds[:3]] + [9, None]
    game.keep_answers(answers, rounds, "colleges")
    assert "3 of 5" in capsys.readouterr().out
    assert game.read_answers(rounds, "colleges") == answers
    assert game.read_answers(rounds[::-1], "colleges") is None


def test_no_answers_are_not_kept(rounds, capsys):
    game.keep_answers([None] * 5, rounds, "colleges")
    assert "not answered yet" in capsys.readouterr().out
    assert game.read_answers(rounds, "colleges") is None


def test_damaged_answers_are_none(rounds, home):
    game.name_file("colleges").parent.mkdir(parents=True)
    game.name_file("colleges").write_text("{")
    assert game.read_answers(rounds, "colleges") is None


def test_too_few_answers_are_refused(rounds):
    with pytest.raises(UsageError, match="length"):
        game.keep_answers([1], rounds, "colleges")


def test_players_are_compared_row_by_row(rounds):
    labels = [row["label"] for row in rounds]
    wrong = [(label + 1) % 3 for label in labels]
    table = game.compare_players({"you": None, "base": wrong, "LoRA": labels}, rounds, TEMPLATE)
    assert list(table.columns) == ["truth", "base", "LoRA"]
    assert table.loc["right"].to_list() == ["", "0 of 5", "5 of 5"]
    assert all(cell.startswith(game.RIGHT) for cell in table["LoRA"][:-1])
    assert all(cell.startswith(game.WRONG) for cell in table["base"][:-1])


def test_answer_that_is_none_of_them_is_named(rounds):
    with pytest.raises(UsageError, match="7"):
        game.compare_players({"you": [7] * 5}, rounds, TEMPLATE)
