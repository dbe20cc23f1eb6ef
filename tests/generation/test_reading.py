"""Log-probabilities of prompts on the transformers engine: read in passes, beside other answers."""

import math
from functools import partial

import pytest
import torch

from helpers.common.errors import UsageError
from helpers.generation import reading
from helpers.generation.batching import Batch, PendingAnswer
from helpers.generation.decoding import TextStream, read_bytes
from helpers.generation.reading import PromptListing, count_fitting
from helpers.generation.request import LEAST_LOGPROB, GenerationRequest
from helpers.generation.sampling import Sampler
from helpers.generation.slots import SlotBatch
from helpers.loading.messages import list_end_ids

CONTEXT = 2048


@pytest.fixture(autouse=True)
def short_passes(monkeypatch):
    monkeypatch.setattr(reading, "PASS_TOKENS", 8)


def make_answer(loaded, prompt, listed=True, **settings):
    """(an answer that a batch can take, its pieces)."""
    request = GenerationRequest(**{"max_new_tokens": 4, "ban_eos": True, **settings})
    ids, pieces = loaded.tokenizer(prompt)["input_ids"], []
    eos = list_end_ids(loaded)
    answer = PendingAnswer(
        request=request,
        prompt=ids,
        sampler=Sampler(request, ids, eos, loaded.tokenizer, loaded.model.device),
        text=TextStream(loaded.tokenizer, [], pieces.append),
        max_tokens=request.max_new_tokens,
        eos_ids=eos,
        must_end=request.cancelled.is_set,
    )
    if listed:
        data = partial(read_bytes, loaded.tokenizer)
        answer.listing = PromptListing(prompt, ids, 1, data, pieces.append)
    return answer, pieces


def finish(batch, *answers):
    batch.advance(list(answers))
    while batch.list_all():
        batch.advance([])


def test_other_answers_get_a_token_between_two_passes(tiny):
    batch = Batch(tiny.model)
    running, _ = make_answer(tiny, "Hello", listed=False, max_new_tokens=40)
    reader, pieces = make_answer(tiny, "x" * 80)
    batch.advance([running])
    for passes in range(10):
        assert (len(running.tokens), pieces) == (1 + passes, [])
        batch.advance([] if passes else [reader])
    assert len(pieces[0].prompt.tokens) == 80


@pytest.mark.parametrize("kind", [Batch, lambda model: SlotBatch(model, CONTEXT, None)])
def test_answer_to_a_listed_prompt_is_that_to_the_plain_one(tiny, kind):
    prompts = ("Hi", "a", "Good morning everybody", "four")
    plain = [make_answer(tiny, prompt, listed=False) for prompt in prompts]
    listed = [make_answer(tiny, prompt) for prompt in prompts]
    finish(Batch(tiny.model), *(answer for answer, _ in plain))
    finish(kind(tiny.model), *(answer for answer, _ in listed))
    assert [answer.tokens for answer, _ in listed] == [answer.tokens for answer, _ in plain]
    assert [len(pieces[0].prompt.tokens) for _, pieces in listed] == [len(prompt) for prompt in prompts]


def test_cancelled_prompt_is_not_read_to_its_end(tiny):
    batch = Batch(tiny.model)
    answer, pieces = make_answer(tiny, "x" * 800)
    batch.advance([answer])
    answer.request.cancelled.set()
    batch.advance([])
    assert (answer.job.done(), batch.list_all(), pieces) == (True, [], [])
    assert len(answer.listing.tokens) < 20


def test_prompts_fill_a_pass_with_their_padding():
    assert count_fitting([2, 2, 2, 2, 1], 8) == 4
    assert count_fitting([1, 1, 5], 8) == 2
    assert count_fitting([100, 1], 8) == 1


def test_impossible_token_has_a_number_and_no_number_is_an_error():
    listing = PromptListing("", [0, 1, 1], 1, lambda number: b"", None)
    listing.extend(torch.tensor([[0.0, -math.inf]]))
    assert (listing.tokens[1].logprob, listing.tokens[1].rank) == (LEAST_LOGPROB, 2)
    listing.extend(torch.tensor([[math.nan, math.nan]]))
    with pytest.raises(UsageError):
        listing.finish()
