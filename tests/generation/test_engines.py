import threading
import time
from dataclasses import replace

import pytest
import torch
from support.tiny import make_byte_tokenizer, make_tiny_adapter

from helpers import KitError
from helpers.adapters.attaching import attach_adapter
from helpers.generation.decoding import TextStream, read_bytes
from helpers.generation.engine import MAX_REQUESTS, EngineBusy, EngineStopping
from helpers.generation.request import GenerationRequest
from helpers.generation.stopping import StopFilter
from helpers.generation.transformers_engine import MAX_BATCH, TransformersEngine


@pytest.fixture
def engine(tiny, home):
    make_tiny_adapter(home / "loras" / "shift", home / "models" / "tiny")
    engine = TransformersEngine(attach_adapter(tiny, "shift"))
    yield engine
    engine.close()


def ask(engine, **settings):
    return engine.generate(GenerationRequest(**{"prompt": "Hello", "max_new_tokens": 24, **settings}))


def test_greedy_answers_repeat(engine):
    assert ask(engine) == ask(engine)


def test_sampling_repeats_with_its_seed_only(engine):
    first, again, other = (ask(engine, temperature=1.0, seed=seed) for seed in (1, 1, 2))
    assert first == again and first.text != other.text


def test_adapter_is_chosen_by_the_request(engine):
    base, adapted, base_again = ask(engine), ask(engine, adapter="shift"), ask(engine)
    assert base == base_again and base.text != adapted.text


def test_pieces_add_up_to_the_whole(engine):
    *pieces, generation = engine.stream(GenerationRequest(prompt="Hello", max_new_tokens=24))
    assert len(pieces) > 1 and "".join(piece.text for piece in pieces) == generation.text == ask(engine).text


def stream_bytes(text, leave_out=0):
    """The pieces that come out when a model says `text` byte by byte (one token each), without its last `leave_out` bytes."""
    pieces, tokenizer = [], make_byte_tokenizer()
    stream = TextStream(tokenizer, [], lambda piece: pieces.append(piece.text))
    ids = tokenizer(text, add_special_tokens=False)["input_ids"]
    for number in ids[: len(ids) - leave_out]:
        stream.push(number)
    stream.finish()
    return pieces


def test_no_piece_holds_half_a_character():
    text = "naïve 東京 🙂 end"
    assert stream_bytes(text) == list(text)


def test_half_character_at_the_length_limit_is_not_returned():
    assert "".join(stream_bytes("ok🙂", leave_out=2)) == "ok"


def test_length_ends_an_answer_and_is_reported(engine):
    result = ask(engine, max_new_tokens=3)
    assert result.completion_tokens == 3 and result.finish_reason == "length"


def test_stop_string_ends_the_answer_and_is_not_returned(engine):
    text = ask(engine).text
    stop = text[4:6]
    result = ask(engine, stop=[stop])
    assert result.text == text[: text.index(stop)] and result.finish_reason == "stop"
    assert result.completion_tokens < ask(engine).completion_tokens  # and costs nothing further


def test_answers_of_clients_that_ask_together_are_those_they_get_alone(engine):
    prompts = [f"Question {i}" for i in range(6)]
    adapters = [None, "shift"] * 3
    alone = [ask(engine, prompt=p, adapter=a).text for p, a in zip(prompts, adapters, strict=True)]
    together = [None] * 6

    def run(i):
        together[i] = ask(engine, prompt=prompts[i], adapter=adapters[i]).text

    threads = [threading.Thread(target=run, args=(i,)) for i in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert together == alone


def test_client_that_leaves_cancels_its_answer(engine):
    request = GenerationRequest(prompt="Hello", max_new_tokens=2000)
    pieces = engine.stream(request)
    next(pieces)
    pieces.close()
    assert request.cancelled.is_set()
    began = time.monotonic()
    assert ask(engine, max_new_tokens=1).completion_tokens == 1
    assert time.monotonic() - began < 1  # all 2000 tokens take some seconds


def first_piece(tell):
    """Calls `tell` at an answer's first piece."""
    pieces = iter([tell])
    return lambda piece: next(pieces, lambda: None)()


def test_engine_that_stops_ends_what_runs_and_refuses_what_waits(engine):
    begun = threading.Semaphore(0)
    long = [GenerationRequest(prompt="Hello", max_new_tokens=2000) for _ in range(MAX_BATCH + 1)]
    *running, waiting = [engine.start(request, first_piece(begun.release)) for request in long]
    assert all(begun.acquire(timeout=10) for _ in running)
    engine.close()
    assert all(
        job.result(10).finish_reason == "length" and job.result().completion_tokens < 2000 for job in running
    )
    with pytest.raises(EngineStopping):
        waiting.result(10)
    with pytest.raises(EngineStopping):
        ask(engine)


def test_request_too_many_is_refused(engine):
    jobs = [
        engine.start(GenerationRequest(prompt="Hello", max_new_tokens=2000), lambda piece: None)
        for _ in range(MAX_REQUESTS)
    ]
    with pytest.raises(EngineBusy):
        ask(engine)
    engine.close()
    assert all(job.exception(10) or job.result() for job in jobs)


def test_row_that_fails_leaves_the_engine_alive(engine):
    whole, reads = ask(engine).text, []
    failing = engine.start(
        GenerationRequest(prompt="Hello", max_new_tokens=2000), lambda piece: reads.append(piece.text + 1)
    )
    with pytest.raises(TypeError):
        failing.result(10)
    assert ask(engine).text == whole


def test_answers_that_join_and_leave_a_running_batch_are_those_they_get_alone(engine):
    asked = [
        GenerationRequest(
            prompt="x" * (1 + 37 * i % 50), max_new_tokens=3 + 5 * i, adapter=[None, "shift"][i % 2]
        )
        for i in range(10)
    ]
    alone = [engine.generate(replace(request)).text for request in asked]
    jobs, texts = [], [[] for _ in asked]
    for request, text in zip(asked, texts, strict=True):
        jobs.append(engine.start(request, lambda piece, text=text: text.append(piece.text)))
        time.sleep(0.02)  # some passes of those before
    assert [job.result(30).completion_tokens > 0 for job in jobs] and [
        "".join(text) for text in texts
    ] == alone


ENDING = {"logit_bias": {257: 3.0}}  # makes the end likely
DRAWN = {"temperature": 1.0, "seed": 3}


@pytest.mark.parametrize(("setting", "beside"), [
    ({"presence_penalty": 2.0}, {}), ({"frequency_penalty": 2.0}, {}), ({"repetition_penalty_range": 2}, {"repetition_penalty": 1.5}),
    ({"encoder_repetition_penalty": 3.0}, {}), ({"no_repeat_ngram_size": 1}, {}), ({"logit_bias": {65: 100.0}}, {}), ({"min_length": 29}, ENDING),
    ({"ban_eos": True}, ENDING), ({"skip_special_tokens": False}, {"logit_bias": {256: 100.0}}), ({"epsilon_cutoff": 0.02}, DRAWN),
    ({"eta_cutoff": 0.02}, DRAWN),
])  # fmt: skip
def test_optional_setting_that_is_honoured_changes_the_answer(engine, setting, beside):
    assert engine.list_unsupported(GenerationRequest(**setting)) == []
    assert ask(engine, max_new_tokens=60, **setting, **beside) != ask(engine, max_new_tokens=60, **beside)


def test_setting_that_is_not_honoured_is_named(engine):
    assert engine.list_unsupported(
        GenerationRequest(grammar="root ::= [a-z]+", ban_eos=True, mirostat_tau=5.0)
    ) == ["grammar"]


def test_logprobs_are_those_of_a_plain_pass(engine):
    answer = ask(engine, top_logprobs=3, max_new_tokens=6)
    ids = engine.loaded.tokenizer("Hello" + answer.text, return_tensors="pt")["input_ids"]
    with torch.inference_mode(), engine.loaded.model.disable_adapter():
        expected = engine.loaded.model(ids).logits[0, 4:-1].log_softmax(-1)
    assert b"".join(token.data for token in answer.tokens).decode() == answer.text
    for token, row in zip(answer.tokens, expected, strict=True):
        assert token.logprob == pytest.approx(float(row.max()), abs=1e-4) and len(token.top) == 3
        assert token.top[0] == (token.data, token.logprob) and [
            value for _, value in token.top
        ] == pytest.approx(row.topk(3).values.tolist(), abs=1e-4)


def test_messages_that_the_chat_template_refuses_are_explained(engine):
    engine.loaded.tokenizer.chat_template = "{{ raise_exception('roles must alternate') }}"
    with pytest.raises(KitError, match="roles must alternate"):
        ask(engine, prompt=None, messages=[{"role": "user", "content": "Hi"}])


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"adapter": "none"}, "No LoRA 'none'"),
        ({"prompt": "x" * 3000}, "3000 tokens"),
        ({"logit_bias": {260: 1.0}}, "token 260"),
        ({"prompt": ""}, "0 tokens"),
    ],
)
def test_impossible_request_is_refused(engine, settings, message):
    with pytest.raises(KitError, match=message):
        ask(engine, **settings)


@pytest.mark.parametrize("cut", range(1, 12))
def test_stop_string_is_found_wherever_the_pieces_are_cut(cut):
    text = "some text###END and more"
    stop = StopFilter(["###END"])
    passed = "".join(stop.push(text[i : i + cut]) for i in range(0, len(text), cut)) + stop.finish()
    assert passed == "some text"


def test_beginning_of_a_stop_string_is_passed_on_when_it_comes_to_nothing():
    stop = StopFilter(["###END"])
    assert stop.push("a ##") + stop.push("# b") + stop.push(" #") + stop.finish() == "a ### b #"


def test_an_id_that_is_no_token_has_no_bytes():
    assert read_bytes(make_byte_tokenizer(), 259) == b""  # vocabularies are rounded up


def test_an_answer_that_fails_leaves_those_beside_it_alone(engine):
    begun = threading.Event()
    beside = engine.start(
        GenerationRequest(prompt="Hello", max_new_tokens=200, ban_eos=True), lambda piece: begun.set()
    )
    assert begun.wait(10)
    failing = engine.start(GenerationRequest(prompt="Hello", max_new_tokens=200), lambda piece: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        failing.result(10)
    assert beside.result(20).completion_tokens == 200
