"""Evaluations: by a loaded model, which scores each answer, and by a server, which is asked."""

from dataclasses import replace

import pytest
import torch

from helpers import evaluation
from helpers.common.errors import DamagedError


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


def test_spaces_around_an_answer_do_not_count_in_a_reply(template, rows):
    spaced = replace(template, label={label: f" {text}\n" for label, text in template.label.items()})
    predictions = evaluation.ask_predictions(answer_the_first_row, rows, spaced, progress=False)
    assert predictions == [0, 0, *[None] * 10]


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


def test_empty_answers_are_scored_by_their_end_alone(tiny, template, rows):
    empty = replace(template, label={**template.label, 0: ""})
    tiny.model.lm_head.bias = make_bias(tiny, end=100.0)  # the empty answer begins best in each row
    scores = evaluation.score_answers(tiny, rows, empty, progress=False, every=False)
    assert evaluation.pick_predictions(scores) == [0] * 12


def test_scores_that_are_no_numbers_are_refused(tiny, template, rows):
    tiny.model.lm_head.bias = make_bias(tiny, end=float("nan"))
    with pytest.raises(DamagedError, match="not numbers"):
        evaluation.evaluate(tiny, rows, template, progress=False)


def make_bias(loaded, end):
    """A bias of the logits: `end` for the token that ends an answer."""
    bias = torch.zeros(loaded.model.config.vocab_size)
    bias[loaded.tokenizer.eos_token_id] = end
    return torch.nn.Parameter(bias)
