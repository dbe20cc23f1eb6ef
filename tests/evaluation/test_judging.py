"""Evaluations: by a loaded model, which scores each answer, and by a server, which is asked."""

import pytest

from helpers import evaluation


def answer_the_first_row(messages):
    """A server that knows one answer, which is right for the first of the rows only."""
    return " No preference\n" if "Comment number 0" in messages[-1]["content"] else "something else"


def test_reply_counts_if_it_is_one_of_the_answers_word_for_word(template, rows):
    predictions = evaluation.ask_predictions(answer_the_first_row, rows, template, progress=False)
    assert predictions == [0, 0, *[None] * 10]  # two rows are about comment number 0


def test_server_is_judged_by_its_replies(template, rows):
    result = evaluation.evaluate_over_url(answer_the_first_row, rows, template, progress=False)
    assert result.rows == 12
    assert result.accuracy == 1 / 12
    assert [row[-1] for row in result.confusion] == [2, 2, 3, 3]  # the last column: without a known answer


def test_server_is_asked_what_the_template_says(template, rows):
    asked = []

    def note(messages):
        asked.append(messages)
        return ""

    evaluation.ask_predictions(note, rows[:2], template, progress=False)
    assert asked == [template.build_messages(row) for row in rows[:2]]


def test_model_is_judged_by_the_likeliest_answers(tiny, template, rows):
    scores = evaluation.score_answers(tiny, rows, template, progress=False)
    predictions = evaluation.pick_predictions(scores)
    right = sum(row["label"] == label for row, label in zip(rows, predictions, strict=True))
    result = evaluation.evaluate(tiny, rows, template, progress=False)
    assert result.accuracy == pytest.approx(right / 12)
    assert result == evaluation.summarise_scores(scores, rows, template)
