"""Checkpoints and guesses: what they print carries the result and the data."""

import pytest
from support.lessons import PATHS, list_code_cells, read_notebook, read_printed

from helpers.tutorial import checks
from helpers.tutorial.checks import compare_guess, confirm, describe_distance


@pytest.mark.parametrize(
    ("guess", "found", "outcome"),
    [
        (20, 40, "Too low by a factor of 2.0"),
        (0.5, 0.25, "Too high by a factor of 2.0"),
        (10, 11, "Close"),
        (1, 0, "Far too high"),
        (1, 1000, "Far too low"),
        (0, 0, "Right"),
    ],
)
def test_numbers_are_compared_by_their_ratio(guess, found, outcome):
    assert describe_distance(guess, found) == outcome


@pytest.mark.parametrize(
    ("guess", "found", "unit", "shown"),
    [
        (20, 40, "tokens", ["20 tokens", "40 tokens"]),
        (0.5, 0.25, "%", ["50.0%", "25.0%"]),
        (2, 1234567.0, "", ["Guess: 2.", "1.235e+06"]),
        ("q_proj", "up_proj", "", ["'q_proj'", "'up_proj'"]),
        (None, 0.25, "%", ["25.0%"]),
    ],
)
def test_guess_is_printed_beside_what_was_found(guess, found, unit, shown, capsys):
    compare_guess(guess, found, unit)
    printed = capsys.readouterr().out
    assert all(value in printed for value in shown) and printed.count("\n") == 1


def test_names_are_right_or_wrong(capsys):
    compare_guess("up_proj", "up_proj")
    compare_guess("q_proj", "up_proj")
    right, wrong = capsys.readouterr().out.splitlines()
    assert right != wrong.replace("q_proj", "up_proj")


def test_lessons_show_a_guess_as_it_is_printed_now(capsys):
    compare_guess(0.05, 0.21, "%")
    compare_guess("same", "different")
    cells = [cell for path in PATHS for cell in list_code_cells(read_notebook(path))]
    shown = {line for cell in cells for line in read_printed(cell).splitlines()}
    assert set(capsys.readouterr().out.splitlines()) <= shown


def test_checkpoint_prints_what_holds_or_what_to_do(capsys):
    confirm(True, "it works", "start it")
    confirm(False, "it works", "start it")
    passed, failed = capsys.readouterr().out.splitlines()
    assert passed == "✅ it works"
    assert failed.startswith("❌") and "it works" in failed and "start it" in failed


def test_published_result_is_kept_and_shown_as_asked(monkeypatch):
    found = []
    monkeypatch.setattr(checks, "display", lambda data, raw: found.append(data))
    checks.publish("answer.raw", "Blue.")
    checks.publish("scoreboard", {"rows": "9 rows"}, "of 9 rows")
    assert [data["text/plain"] for data in found] == ["answer.raw: Blue.", "of 9 rows"]
    assert found[1][checks.MIME] == {"name": "scoreboard", "value": {"rows": "9 rows"}}
