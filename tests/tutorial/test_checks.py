import pytest

from helpers.tutorial.checks import compare_guess, confirm


@pytest.mark.parametrize(
    ("guess", "found", "unit", "words"),
    [
        (20, 40, "tokens", "Guessed 20 tokens, found 40 tokens: 2.0 times too low."),
        (0.5, 0.25, "%", "Guessed 50.0%, found 25.0%: 2.0 times too high."),
        (10, 11, "", "Guessed 10, found 11: close."),
        (1, 0, "", "Guessed 1, found 0: far too high."),
        (0, 0, "", "Guessed 0, found 0: close."),
        ("q_proj", "up_proj", "", "Guessed 'q_proj', found 'up_proj': not so."),
        ("up_proj", "up_proj", "", "Guessed 'up_proj', found 'up_proj': right."),
        (
            None,
            1234567.0,
            "",
            "No guess yet; found: 1.235e+06. Guess first next time: what surprises is remembered.",
        ),
    ],
)
def test_guess_is_set_beside_what_was_found(guess, found, unit, words, capsys):
    compare_guess(guess, found, unit)
    assert capsys.readouterr().out.strip() == words


def test_checkpoint_says_what_holds_or_what_to_do(capsys):
    confirm(True, "it works", "mend it")
    confirm(False, "it works", "mend it")
    assert capsys.readouterr().out.splitlines() == [
        "✅ it works",
        "❌ not yet: it works. What to do: mend it",
    ]
