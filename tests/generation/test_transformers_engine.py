import threading
from concurrent.futures import wait
from dataclasses import replace

import pytest
import torch
from support.tiny import make_tiny_adapter, make_tiny_model
from tokenizers.processors import TemplateProcessing

from helpers.adapters.attaching import attach_adapter
from helpers.common.choices import describe_choices
from helpers.common.errors import NotFoundError, UsageError
from helpers.common.machine import Choice
from helpers.generation.engine import MAX_REQUESTS, EngineBusy, EngineStopping
from helpers.generation.prompts import PromptTooLong, UnknownToken
from helpers.generation.request import GenerationRequest
from helpers.generation.transformers_engine import MAX_BATCH, TransformersEngine, list_choices
from helpers.loading.model import load_model

WAIT_S = 30  # for what takes far less: an answer that hangs fails the test
LONG = {"prompt": "Hello", "max_new_tokens": 2000, "ban_eos": True}  # takes seconds, unless it is ended
UNKNOWN = 260  # the first id that the tiny model does not have


@pytest.fixture
def engine(tiny, home):
    make_tiny_adapter(home / "loras" / "shift", home / "models" / "tiny")
    engine = TransformersEngine(attach_adapter(tiny, "shift"))
    yield engine
    engine.close()


def ask(engine, **settings):
    return engine.generate(GenerationRequest(**{"prompt": "Hello", "max_new_tokens": 24, **settings}))


def ignore(piece):
    """Takes a piece of an answer whose text does not matter."""


def start_and_wait(engine, request):
    """(the answer's future, its pieces so far) once its first piece has come, or it has ended without one."""
    begun = threading.Event()
    pieces = []

    def take(piece):
        pieces.append(piece)
        begun.set()

    job = engine.start(request, take)
    job.add_done_callback(lambda _: begun.set())
    assert begun.wait(WAIT_S)
    return job, pieces


# What was chosen


def test_choices_of_a_plain_model_on_a_cpu_are_none(engine):
    assert engine.choices == {}


def test_kernel_and_cuda_graphs_are_among_the_choices_of_a_model_on_a_gpu(tiny):
    kernel, slots = Choice("gptq_triton", "the fastest"), Choice(True, "one CUDA device")
    loaded = replace(tiny, kernel=kernel, device=Choice("cuda", "given"))
    assert describe_choices(list_choices(loaded, slots)) == [
        "kernel gptq_triton: the fastest",
        "cuda_graphs on: one CUDA device",
    ]
    assert list_choices(replace(tiny, kernel=kernel), slots) == {"kernel": kernel}


# One answer


def test_greedy_answers_repeat(engine):
    assert ask(engine) == ask(engine)


def test_draws_repeat_with_their_seed_only(engine):
    first, again, other = (ask(engine, temperature=1.0, seed=seed) for seed in (1, 1, 2))
    assert first == again
    assert first.text != other.text


def test_request_chooses_the_adapter(engine):
    base, adapted, base_again = ask(engine), ask(engine, adapter="shift"), ask(engine)
    assert base == base_again
    assert base.text != adapted.text
    assert engine.default_adapter == "shift"


def test_pieces_add_up_to_the_whole_answer(engine):
    *pieces, generation = engine.stream(GenerationRequest(prompt="Hello", max_new_tokens=24))
    assert len(pieces) > 1
    assert "".join(piece.text for piece in pieces) == generation.text == ask(engine).text


def test_length_limit_ends_an_answer_and_is_reported(engine):
    result = ask(engine, max_new_tokens=3)
    assert (result.completion_tokens, result.finish_reason) == (3, "length")


def test_stop_string_ends_the_answer_and_is_not_part_of_it(engine):
    whole = ask(engine)
    stop = whole.text[4:6]
    result = ask(engine, stop=[stop])
    assert (result.text, result.finish_reason) == (whole.text[: whole.text.index(stop)], "stop")
    assert result.completion_tokens < whole.completion_tokens  # nothing was computed after it


def test_log_probabilities_are_those_of_a_plain_pass(engine):
    answer = ask(engine, top_logprobs=3, max_new_tokens=6)
    assert b"".join(token.data for token in answer.tokens).decode() == answer.text
    ids = engine.loaded.tokenizer("Hello" + answer.text, return_tensors="pt")["input_ids"]
    with torch.inference_mode(), engine.loaded.model.disable_adapter():
        expected = engine.loaded.model(ids).logits[0, 4:-1].log_softmax(-1)
    for token, row in zip(answer.tokens, expected, strict=True):
        best = row.topk(3).values.tolist()
        assert token.logprob == pytest.approx(best[0], abs=1e-4)
        assert token.top[0] == (token.data, token.logprob)
        assert [value for _, value in token.top] == pytest.approx(best, abs=1e-4)


# Requests that come together


def test_answers_computed_together_are_those_computed_alone(engine):
    requests = [
        GenerationRequest(prompt=f"Question {number}", max_new_tokens=24, adapter=[None, "shift"][number % 2])
        for number in range(6)
    ]
    alone = [engine.generate(replace(request)).text for request in requests]
    texts = [[] for _ in requests]
    jobs = [
        engine.start(request, lambda piece, text=text: text.append(piece.text))
        for request, text in zip(requests, texts, strict=True)
    ]
    assert wait(jobs, WAIT_S).not_done == set()
    assert ["".join(text) for text in texts] == alone


def test_answers_that_join_and_leave_a_running_batch_are_those_computed_alone(engine):
    requests = [
        GenerationRequest(
            prompt="x" * (1 + 37 * number % 50),
            max_new_tokens=3 + 5 * number,
            adapter=[None, "shift"][number % 2],
        )
        for number in range(10)
    ]
    alone = [engine.generate(replace(request)).text for request in requests]
    begun = [start_and_wait(engine, request) for request in requests]  # each joins those before it
    assert wait([job for job, _ in begun], WAIT_S).not_done == set()
    assert ["".join(piece.text for piece in pieces) for _, pieces in begun] == alone


def test_request_beyond_the_limit_is_refused(engine):
    jobs = [engine.start(GenerationRequest(**LONG), ignore) for _ in range(MAX_REQUESTS)]
    with pytest.raises(EngineBusy):
        ask(engine)
    engine.close()
    assert wait(jobs, WAIT_S).not_done == set()


# Answers that end early


def test_closing_the_iterator_cancels_the_request(engine):
    request = GenerationRequest(**LONG)
    pieces = engine.stream(request)
    next(pieces)
    pieces.close()
    assert request.cancelled.is_set()


def test_cancelled_answer_ends_at_its_next_token(engine):
    request = GenerationRequest(**LONG)
    job, _ = start_and_wait(engine, request)
    request.cancelled.set()
    answer = job.result(WAIT_S)
    assert answer.finish_reason == "length"
    assert 0 < answer.completion_tokens < LONG["max_new_tokens"]


def test_request_that_is_cancelled_while_it_waits_is_never_computed(engine):
    running = [GenerationRequest(**LONG) for _ in range(MAX_BATCH)]
    for request in running:
        start_and_wait(engine, request)
    waiting = GenerationRequest(**LONG)
    job = engine.start(waiting, ignore)
    for request in (waiting, *running):
        request.cancelled.set()
    assert job.result(WAIT_S).completion_tokens == 0


def test_closed_engine_ends_running_answers_and_refuses_waiting_ones(engine):
    running = [start_and_wait(engine, GenerationRequest(**LONG))[0] for _ in range(MAX_BATCH)]
    waiting = engine.start(GenerationRequest(**LONG), ignore)
    engine.close()
    for job in running:
        assert job.result(WAIT_S).finish_reason == "length"
        assert job.result().completion_tokens < LONG["max_new_tokens"]
    with pytest.raises(EngineStopping):
        waiting.result(WAIT_S)
    with pytest.raises(EngineStopping):
        ask(engine)


def test_long_prompt_is_read_in_chunks_until_the_engine_closes_or_it_is_cancelled(engine):
    engine.chunk = 1
    beside, _ = start_and_wait(engine, GenerationRequest(**LONG))
    read, cancelled, unread = (GenerationRequest(prompt="x" * 1500, max_new_tokens=1) for _ in range(3))
    reading, ending, waiting = (engine.start(request, ignore) for request in (read, cancelled, unread))
    cancelled.cancelled.set()
    assert ending.result(WAIT_S).completion_tokens == 0
    engine.close()
    for job in (reading, waiting):
        with pytest.raises(EngineStopping):
            job.result(WAIT_S)
    assert 0 < beside.result(WAIT_S).completion_tokens < LONG["max_new_tokens"]


# Answers that fail


def test_answer_that_fails_leaves_the_others_alone(engine):
    beside, _ = start_and_wait(engine, GenerationRequest(prompt="Hello", max_new_tokens=200, ban_eos=True))
    failing = engine.start(GenerationRequest(prompt="Hello", max_new_tokens=200), lambda piece: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        failing.result(WAIT_S)
    assert beside.result(WAIT_S).completion_tokens == 200


def test_engine_answers_after_one_that_failed(engine):
    whole = ask(engine)
    failing = engine.start(GenerationRequest(**LONG), lambda piece: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        failing.result(WAIT_S)
    assert ask(engine) == whole


def test_answer_that_fails_while_the_engine_closes_leaves_the_others_alone(engine):
    held_back = {"logit_bias": {engine.tokenize("a")[0]: 100.0}, "stop": ["a" * 3000]}  # until the end
    failing = engine.start(GenerationRequest(**LONG, **held_back), lambda piece: 1 / 0)
    beside, _ = start_and_wait(engine, GenerationRequest(**LONG))
    engine.close()
    with pytest.raises(ZeroDivisionError):
        failing.result(WAIT_S)
    assert beside.result(WAIT_S).finish_reason == "length"


@pytest.mark.parametrize(
    ("settings", "kind", "named"),
    [
        ({"adapter": "none"}, NotFoundError, "'none'"),
        ({"adapter": ""}, NotFoundError, "''"),
        ({"prompt": "x" * 3000}, PromptTooLong, "3000"),
        ({"logit_bias": {UNKNOWN: 1.0}}, UnknownToken, str(UNKNOWN)),
        ({"prompt": ""}, UsageError, "0"),
        ({"prompt": None}, UsageError, "messages"),
    ],
)
def test_impossible_request_is_refused(engine, settings, kind, named):
    with pytest.raises(kind) as refused:
        ask(engine, **settings)
    assert named in str(refused.value)


def test_messages_that_the_chat_template_rejects_are_refused_with_its_reason(engine):
    engine.chat = replace(engine.chat, template="{{ raise_exception('roles must alternate') }}")
    with pytest.raises(UsageError) as refused:
        ask(engine, prompt=None, messages=[{"role": "user", "content": "Hi"}])
    assert "roles must alternate" in str(refused.value)


def test_bos_comes_once_before_a_prompt_that_writes_it(engine):
    core, bos = engine.loaded.tokenizer.backend_tokenizer, engine.bos_id
    ids = engine.encode("Hi", add_special=False)
    before = core.post_processor
    core.post_processor = TemplateProcessing(
        single="<|im_start|> $A", special_tokens=[("<|im_start|>", bos)]
    )  # as Llama 2's tokenizer does
    asked = [engine.check(GenerationRequest(prompt=prompt)) for prompt in ("Hi", "<|im_start|>Hi")]
    bare = engine.check(GenerationRequest(prompt="Hi", add_special_tokens=False))
    core.post_processor = before
    assert asked == [[bos, *ids]] * 2
    assert bare == ids


def test_answer_ends_at_the_chat_template_s_end_too(home):
    make_tiny_model(home / "models" / "tiny")
    loaded = load_model("tiny", dtype="float32", chat_template="vicuna")
    loaded.tokenizer.eos_token = (
        "<|im_start|>"  # which Vicuna's template then writes; the config says <|im_end|>
    )
    engine = TransformersEngine(loaded)
    likely = {"logit_bias": {256: 100.0}, "max_new_tokens": 5}
    answer = engine.generate(GenerationRequest(prompt="Hi", **likely))
    engine.close()
    assert (answer.finish_reason, answer.completion_tokens) == ("stop", 1)


# Optional fields

ENDING = {"logit_bias": {257: 3.0}}  # makes the end likely
DRAWN = {"temperature": 1.0, "seed": 3}


@pytest.mark.parametrize(
    ("setting", "beside"),
    [
        ({"presence_penalty": 2.0}, {}),
        ({"frequency_penalty": 2.0}, {}),
        ({"repetition_penalty_range": 2}, {"repetition_penalty": 1.5}),
        ({"encoder_repetition_penalty": 3.0}, {}),
        ({"no_repeat_ngram_size": 1}, {}),
        ({"logit_bias": {65: 100.0}}, {}),
        ({"min_length": 29}, ENDING),
        ({"ban_eos": True}, ENDING),
        ({"skip_special_tokens": False}, {"logit_bias": {256: 100.0}}),
        ({"epsilon_cutoff": 0.02}, DRAWN),
        ({"eta_cutoff": 0.02}, DRAWN),
    ],
)
def test_optional_setting_that_is_honoured_changes_the_answer(engine, setting, beside):
    assert engine.list_unsupported(GenerationRequest(**setting)) == []
    assert ask(engine, max_new_tokens=60, **setting, **beside) != ask(engine, max_new_tokens=60, **beside)


def test_setting_that_is_not_honoured_is_reported(engine):
    request = GenerationRequest(mirostat_mode=2, ban_eos=True)
    assert engine.list_unsupported(request) == ["mirostat_mode"]
