import dataclasses

import pytest
import torch
from support.zoo import make_zoo_model

from helpers import evaluation, loading
from helpers.common.errors import UnsupportedError
from helpers.evaluation.scoring import ScoredRow, fill_batches, score_plainly, tokenize_row
from helpers.loading.tokenizer import make_chat_tokenizer
from helpers.training._private import read_attention


@pytest.mark.parametrize("batch_tokens", [1, 500])
def test_packed_scores_are_those_of_whole_sequences_which_unknown_architectures_get(
    tiny, rows, template, batch_tokens
):
    packed = evaluation.score_answers(tiny, rows, template, batch_tokens, progress=False)
    tiny.model.config.model_type = "unknown"
    plain = evaluation.score_answers(tiny, rows, template, batch_tokens, progress=False)
    for first, second in zip(packed, plain, strict=True):
        assert first == pytest.approx(second, rel=1e-4)
    assert packed != plain  # the same up to rounding only: both ways were taken


@pytest.mark.parametrize("window", [None, 100, 2000])
def test_scores_of_a_model_with_a_sliding_window_are_those_of_whole_sequences(home, rows, template, window):
    make_zoo_model("gptoss", home / "models" / "gptoss", sliding_window=window)
    loaded = loading.load_model("gptoss", dtype="float32")
    scores = evaluation.score_answers(loaded, rows, template, progress=False)
    chat = make_chat_tokenizer(loaded.tokenizer)
    with torch.inference_mode():
        plain = [score_plainly(loaded, tokenize_row(chat, row, template)) for row in rows]
    for first, second in zip(scores, plain, strict=True):
        assert first == pytest.approx(second, rel=1e-4)
    assert (scores == plain) == (window == 100)  # rows beyond the window are computed plainly


def test_rows_longer_than_the_context_of_the_model_are_refused(home, rows, template):
    make_zoo_model("chatml", home / "models" / "narrow", max_position_embeddings=300)
    loaded = loading.load_model("narrow", dtype="float32")
    with pytest.raises(UnsupportedError, match="longer than the 300 tokens"):
        evaluation.score_answers(loaded, rows, template, progress=False)


@pytest.mark.parametrize("names", [("Larkmoor", "Halloran"), ("University of A", "University of B")])
def test_predictions_from_the_needed_scores_are_those_from_all_scores(tiny, rows, template, names):
    some = [{**row, "alternative_a": names[0], "alternative_b": names[1]} for row in rows]
    complete = evaluation.score_answers(tiny, some, template, 500, progress=False)
    needed = evaluation.score_answers(tiny, some, template, 500, progress=False, every=False)
    assert evaluation.pick_predictions(needed) == evaluation.pick_predictions(complete)
    for few, every in zip(needed, complete, strict=True):
        assert few == pytest.approx({label: every[label] for label in few}, rel=1e-4)


def test_answers_that_cannot_win_are_not_scored(tiny, rows, template):
    short = dataclasses.replace(template, label={0: "a", 1: "b", 2: "c", 3: "d"})
    tiny.model.model.norm.weight.data *= 20  # a random model with strong preferences
    complete = evaluation.score_answers(tiny, rows, short, progress=False)
    needed = evaluation.score_answers(tiny, rows, short, progress=False, every=False)
    assert evaluation.pick_predictions(needed) == evaluation.pick_predictions(complete)
    assert 12 <= sum(len(few) for few in needed) < 48 == sum(len(every) for every in complete)


def test_a_scored_model_keeps_the_attention_that_it_had(tiny, rows, template):
    tiny.model.set_attn_implementation("eager")
    evaluation.score_answers(tiny, rows, template, progress=False)
    assert read_attention(tiny.model) == "eager"


def test_batches_take_rows_until_their_tokens_are_enough():
    rows = [ScoredRow([0] * (2 + own), {}) for own in (3, 4, 9, 1)]  # 2 tokens are shared
    batches = fill_batches(rows, 2, 8)
    assert [[len(row.prompt) - 2 for row in batch] for batch in batches] == [[3, 4], [9], [1]]


def test_answers_that_may_still_be_the_likeliest_are_the_rivals_of_the_favourite():
    answers = {label: [label, 0] for label in (1, 2, 3, 4)}
    beginnings = {1: -0.5, 2: -1.0, 3: -2.0, 4: -9.5}
    row = ScoredRow(prompt=[0], answers=answers, beginnings=beginnings)
    assert row.find_favourite() == 1
    row.scores[1] = -9.0  # the answer that begins best goes on badly
    assert row.list_rivals() == [2, 3]
    row.scores[1] = -0.6  # it goes on well
    assert row.list_rivals() == []


def test_scores_come_in_the_template_s_order_so_that_the_first_of_equal_ones_is_predicted():
    row = ScoredRow(prompt=[0], answers={1: [5, 0], 2: [6, 0], 3: [7, 0]}, scores={3: -2.0, 2: -2.0})
    assert evaluation.pick_predictions([row.sort_scores()]) == [2]


def test_score_of_an_answer_is_the_sum_of_its_tokens_log_probabilities(tiny, rows, template):
    row = tokenize_row(make_chat_tokenizer(tiny.tokenizer), rows[0], template)
    with torch.inference_mode():
        for label, score in score_plainly(tiny, row).items():
            total = 0.0
            ids = list(row.prompt)
            for token in row.answers[label]:
                total += tiny.model(torch.tensor([ids])).logits[0, -1].log_softmax(-1)[token].item()
                ids.append(token)
            assert score == pytest.approx(total, rel=1e-4)


@pytest.mark.real
def test_predictions_of_the_real_model_are_those_of_whole_sequences(real_model_name, rows, template):
    loaded = loading.load_model(real_model_name, dtype="float32")
    scores = evaluation.score_answers(loaded, rows[:4], template, progress=False)
    chat = make_chat_tokenizer(loaded.tokenizer)
    with torch.inference_mode():
        plain = [score_plainly(loaded, tokenize_row(chat, row, template)) for row in rows[:4]]
    for found, expected in zip(scores, plain, strict=True):
        assert found == pytest.approx(expected, rel=1e-3)
    needed = evaluation.score_answers(loaded, rows[:4], template, progress=False, every=False)
    predictions = evaluation.pick_predictions(plain)
    assert evaluation.pick_predictions(scores) == evaluation.pick_predictions(needed) == predictions
