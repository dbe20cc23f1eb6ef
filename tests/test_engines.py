import threading
import time

import pytest
import torch
from fixtures_tiny import make_byte_tokenizer, make_tiny_adapter

from helpers import KitError
from helpers.adapters import attach_adapter
from helpers.generation import GenerationRequest
from helpers.transformers_engine import PieceStreamer, StopFilter, TransformersEngine


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
    streamer = PieceStreamer(tokenizer, StopFilter([]), lambda piece: pieces.append(piece.text))
    streamer.put(torch.tensor([[256]]))  # the prompt
    ids = tokenizer(text, add_special_tokens=False)["input_ids"]
    for number in ids[: len(ids) - leave_out]:
        streamer.put(torch.tensor([number]))
    streamer.end()
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


def test_engine_that_stops_ends_what_runs_and_refuses_what_waits(engine):
    running = engine.stream(GenerationRequest(prompt="Hello", max_new_tokens=2000))
    next(running)
    refused = []

    def wait_in_line():
        try:
            ask(engine)
        except KitError as error:
            refused.append(str(error))

    waiting = threading.Thread(target=wait_in_line)
    waiting.start()
    while engine._inside < 2:
        time.sleep(0.01)
    engine.close()
    *_, generation = running
    waiting.join(10)
    assert generation.finish_reason == "length" and generation.completion_tokens < 2000
    assert refused and "stopping" in refused[0]


def test_messages_that_the_chat_template_refuses_are_explained(engine):
    engine.loaded.tokenizer.chat_template = "{{ raise_exception('roles must alternate') }}"
    with pytest.raises(KitError, match="roles must alternate"):
        ask(engine, prompt=None, messages=[{"role": "user", "content": "Hi"}])


@pytest.mark.parametrize(
    ("settings", "message"),
    [({"adapter": "none"}, "No LoRA 'none'"), ({"prompt": "x" * 3000}, "3000 tokens"), ({"prompt": ""}, "0 tokens")],
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
