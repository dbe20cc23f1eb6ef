import pytest
import torch

from helpers import evaluation, loading
from helpers.evaluation.scoring import fill_batches, find_likeliest, score_plainly, tokenize_row


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


@pytest.mark.parametrize("names", [("Larkmoor", "Halloran"), ("University of A", "University of B")])
def test_verdicts_from_what_had_to_be_scored_are_those_of_all_scores(tiny, rows, template, names):
    some = [{**row, "alternative_a": names[0], "alternative_b": names[1]} for row in rows]
    complete = evaluation.score_answers(tiny, some, template, 500, progress=False)
    needed = evaluation.score_answers(tiny, some, template, 500, progress=False, every=False)
    assert evaluation.pick_predictions(needed) == evaluation.pick_predictions(complete)
    for few, every in zip(needed, complete, strict=True):
        assert few == pytest.approx({label: every[label] for label in few}, rel=1e-4)


def test_batches_take_rows_until_their_tokens_are_enough():
    assert fill_batches([2, 0, 1, 3], [4, 9, 3, 1], 8) == [[2, 0], [1], [3]]


def test_answers_that_may_still_win_are_computed_to_the_end():
    ends = {1: -9.0, 2: -2.0, 3: -2.0}  # the answer that begins best goes on badly
    beginnings = [{1: -0.5, 2: -1.0, 3: -2.0, 4: -9.5}, {1: -0.5, 2: -9.5, 3: -9.6, 4: -9.7}]
    asked = []

    def finish(wanted):
        asked.append(wanted)
        return [{label: ends.get(label, -10.0) for label in labels} for labels in wanted]

    found = find_likeliest(beginnings, finish)
    assert asked == [[[1], [1]], [[2, 3], []]] and evaluation.pick_predictions(found) == [2, 1]


def test_score_of_an_answer_is_the_sum_of_its_tokens_log_probabilities(tiny, rows, template):
    prompt, answers = tokenize_row(tiny, rows[0], template)
    with torch.inference_mode():
        for label, score in score_plainly(tiny, prompt, answers).items():
            total, ids = 0.0, list(prompt)
            for token in answers[label]:
                total += tiny.model(torch.tensor([ids])).logits[0, -1].log_softmax(-1)[token].item()
                ids.append(token)
            assert score == pytest.approx(total, rel=1e-4)


@pytest.mark.real
def test_verdicts_of_the_real_model_are_the_uncached_ones(real_model_name, rows, template):
    loaded = loading.load_model(real_model_name, dtype="float32")
    scores = evaluation.score_answers(loaded, rows[:4], template, progress=False)
    with torch.inference_mode():
        for row, found in zip(rows[:4], scores, strict=True):
            plain = score_plainly(loaded, *tokenize_row(loaded, row, template))
            assert found == pytest.approx(plain, rel=1e-3) and max(found, key=found.get) == max(
                plain, key=plain.get
            )
    needed = evaluation.score_answers(loaded, rows[:4], template, progress=False, every=False)
    assert evaluation.pick_predictions(needed) == evaluation.pick_predictions(scores)
