"""llama.cpp on the tiny random Llama, where it computes as transformers does, and on the real GGUF file."""

import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch
from support.tiny import make_byte_tokenizer
from transformers import AutoModelForCausalLM

from helpers.common.errors import DamagedError, NotFoundError, UsageError
from helpers.generation.decoding import read_bytes
from helpers.generation.engine import EngineStopping
from helpers.generation.llama_engine import LlamaEngine, build_body
from helpers.generation.llama_server import (
    PARALLEL,
    PROMPT_STEP,
    ConversationPlan,
    LlamaServer,
    plan_conversations,
)
from helpers.generation.llama_slots import SlotPool
from helpers.generation.prompts import PromptTooLong, UnknownToken
from helpers.generation.request import GenerationRequest
from helpers.generation.structure import Structure
from helpers.loading.tokenizer import make_chat_tokenizer
from helpers.weights.folders import find_model

pytest.importorskip("xllamacpp", reason="xllamacpp is not installed: pip install -e '.[llamacpp]'")

WAIT_S = 60  # for what takes far less: an answer that hangs fails the test
LONG = {"max_new_tokens": 1500, "ban_eos": True}  # takes seconds, unless it is ended
UNKNOWN = 260  # the first id that the tiny model does not have
END = 257  # the tokenizer's <|im_end|>
SKY = [{"role": "user", "content": "What color is the sky? One short sentence."}]


@pytest.fixture(scope="module")
def engine(llama_home):
    engine = LlamaEngine(llama_home.gguf, llama_home.loras)
    yield engine
    engine.close()


@pytest.fixture(scope="module")
def base_engine(llama_home):
    """Without LoRAs, so that prompts are cached."""
    engine = LlamaEngine(llama_home.gguf)
    yield engine
    engine.close()


def ask(engine, **settings):
    return engine.generate(GenerationRequest(**{"prompt": "Hello", "max_new_tokens": 24, **settings}))


def list_running(engine):
    """llama.cpp's slots that compute an answer."""
    return [slot for slot in engine.server.ask("/slots") if slot["is_processing"]]


def test_file_with_a_token_twice_is_refused_and_does_not_end_the_process(llama_home, tmp_path):
    content = llama_home.gguf.gguf.read_bytes()
    assert content.count(b"<259>") == 1 and content.count(b"<258>") == 1
    damaged = tmp_path / "tiny.gguf"
    damaged.write_bytes(content.replace(b"<259>", b"<258>"))
    with pytest.raises(DamagedError, match="its vocabulary has '<258>' twice"):
        LlamaServer(damaged, [])


def count_last_tokens(engine, slot):
    """Tokens of prompt and answer that llama.cpp has in a slot when nothing runs any more."""
    while list_running(engine):
        time.sleep(0.01)
    return engine.server.ask("/slots")[slot]["n_prompt_tokens"]


def start_together(engine, requests):
    """The answers' futures when all have begun: none goes beyond its first piece before that."""
    begun = threading.Barrier(len(requests) + 1)

    def hold_first():
        pieces = []

        def take(piece):
            pieces.append(piece)
            if len(pieces) == 1:
                begun.wait(WAIT_S)

        return take

    jobs = [engine.start(request, hold_first()) for request in requests]
    begun.wait(WAIT_S)
    return jobs


# One answer


def test_pieces_add_up_to_the_whole_answer(engine):
    *pieces, whole = engine.stream(GenerationRequest(prompt="Hello", max_new_tokens=24))
    assert len(pieces) > 3
    assert "".join(piece.text for piece in pieces) == whole.text
    assert (whole.prompt_tokens, whole.completion_tokens, whole.finish_reason) == (5, 24, "length")


def test_greedy_answers_repeat(engine):
    assert ask(engine) == ask(engine)


def test_prompt_may_be_token_ids_and_is_echoed_as_text(engine):
    ids = [*engine.tokenize("Hello"), END]
    by_ids = ask(engine, prompt=None, prompt_ids=ids, echo=True)
    by_text = ask(engine, prompt="Hello<|im_end|>", echo=True)
    assert by_ids == by_text
    assert by_ids.prompt.text == "Hello<|im_end|>"


def test_no_tokens_can_be_asked_for(engine):
    answer = ask(engine, max_new_tokens=0, echo=True)
    assert (answer.prompt.text, answer.text, answer.completion_tokens) == ("Hello", "", 0)


@pytest.mark.parametrize("seed", [1, -1, -2, 2**32 - 1, 2**62])
def test_draws_repeat_with_their_seed(engine, seed):
    assert ask(engine, temperature=1.5, seed=seed) == ask(engine, temperature=1.5, seed=seed)


def test_draws_with_other_seeds_differ(engine):
    drawn = {ask(engine, temperature=1.5, seed=seed).text for seed in (1, 2, -1, -2, None, None)}
    assert len(drawn) == 6


def test_messages_are_rendered_by_the_models_own_template(engine):
    asked = engine.render([{"role": "user", "content": "Hi"}])
    assert asked == "<|im_start|>user\nHi<|im_end|>\n<|im_start|>assistant\n"
    begun = [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Well"}]
    assert engine.render(begun, continue_last=True) == asked + "Well"
    answer = ask(engine, prompt=None, messages=begun, continue_last=True)
    assert answer.prompt_tokens == engine.count_tokens(asked + "Well")


@pytest.mark.parametrize("talk", ["Hi  2023", "see <|im_end|><|im_start|>system\n and <think>"])
def test_tokens_of_messages_are_those_that_transformers_is_given(engine, talk):
    messages = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": talk}]
    expected = make_chat_tokenizer(make_byte_tokenizer()).tokenize(messages)
    assert engine.check(GenerationRequest(messages=messages)) == expected
    assert engine.chat.end_ids == [END]


def test_stop_string_ends_the_answer_and_is_not_part_of_it(engine):
    whole = ask(engine)
    stop = whole.text[4:7]
    stopped = ask(engine, stop=[stop])
    assert (stopped.text, stopped.finish_reason) == (whole.text[: whole.text.index(stop)], "stop")
    assert stopped.completion_tokens < whole.completion_tokens


def test_model_ends_its_answer(engine):
    answer = ask(engine, logit_bias={END: 100.0})
    assert (answer.finish_reason, answer.completion_tokens) == ("stop", 1)


@pytest.mark.parametrize(
    ("settings", "kind", "named"),
    [
        ({"prompt": "word " * 900}, PromptTooLong, "4500"),
        ({"prompt": ""}, UsageError, "0"),
        ({"adapter": "x"}, NotFoundError, "'x'"),
        ({"logit_bias": {UNKNOWN: 1.0}}, UnknownToken, str(UNKNOWN)),
        ({"structure": Structure("grammar", "no grammar")}, UsageError, "grammar"),
        ({"prompt": None}, UsageError, "messages"),
    ],
)
def test_impossible_request_is_refused(engine, settings, kind, named):
    with pytest.raises(kind) as refused:
        ask(engine, **settings)
    assert named in str(refused.value)


# Adapters and the prompt cache


def test_answers_of_an_adapter_contain_nothing_that_another_one_computed(engine):
    names = (None, "shift", "twist")
    prompt = "The same long beginning of every prompt, which a cache would keep. " * 8
    alone = {name: ask(engine, prompt=prompt, adapter=name) for name in names}
    assert len({answer.text for answer in alone.values()}) == 3
    asked = [names[number % 3] for number in (0, 1, 0, 2, 1, 0, 2, 2, 1, 0, 1, 2, 0)]
    expected = [alone[name] for name in asked]
    assert [ask(engine, prompt=prompt, adapter=name) for name in asked] == expected
    with ThreadPoolExecutor(8) as pool:
        together = list(pool.map(lambda name: ask(engine, prompt=prompt, adapter=name), asked))
    assert together == expected


def count_read(engine, monkeypatch, prompts):
    """Of each (adapter, prompt), one after another: the tokens that llama.cpp reads, and does not find."""
    counts, complete = [], engine.server.complete

    def count(body, take):
        events = []
        complete(body, lambda event: bool(events.append(event)) or take(event))
        counts.append(events[-1]["timings"]["prompt_n"])

    with monkeypatch.context() as patch:
        patch.setattr(engine.server, "complete", count)
        for adapter, prompt in prompts:
            ask(engine, prompt=prompt, adapter=adapter, max_new_tokens=1)
    return counts


def test_begin_of_a_prompt_is_read_once_for_each_adapter(engine, monkeypatch):
    begin = "Each prompt of this test begins so. " * 4
    prompts = [begin + end for end in ("One.", "Two?", "Six!")]
    asked = [(adapter, prompt) for prompt in prompts for adapter in (None, "shift", "twist")]
    whole = [len(engine.tokenize(prompt)) for prompt in prompts]
    counts = count_read(engine, monkeypatch, asked)
    assert counts[:3] == [whole[0]] * 3
    assert counts[3:] == [
        max(1, length - len(engine.tokenize(begin))) for length in whole[1:] for _ in range(3)
    ]


def test_what_a_question_about_the_next_token_computed_is_never_reused(engine, monkeypatch):
    prompt = "Only this test asks about that. " * 4
    ids = engine.tokenize(prompt)
    asked = [("shift", prompt)]
    assert count_read(engine, monkeypatch, asked * 2)[1] == 1
    engine.measure_log_probability(ids, 5)
    assert count_read(engine, monkeypatch, asked * 2) == [len(ids), 1]


def test_long_prompt_is_read_in_parts_between_which_others_are_answered(engine, monkeypatch):
    prompt = "One part of a long prompt after another. " * 24
    ids, read, ask_server = engine.tokenize(prompt), [], engine.server.ask
    alone = ask(engine, prompt="Hi", adapter="twist")
    expected = ask(engine, prompt=prompt, adapter="shift").text  # in another slot than the next one

    def note(path, body=None):
        if path == "/completion":
            read.append(len(body["prompt"]))
            with monkeypatch.context() as patch:
                patch.setattr(engine.server, "ask", ask_server)
                assert ask(engine, prompt="Hi", adapter="twist") == alone
        return ask_server(path, body)

    engine._slots = SlotPool(PARALLEL)  # nothing is held
    monkeypatch.setattr(engine.server, "ask", note)
    assert ask(engine, prompt=prompt, adapter="shift").text == expected
    assert read == list(range(PROMPT_STEP, len(ids), PROMPT_STEP)) and len(read) > 2
    assert ask(engine, prompt=prompt + "More", adapter="shift").text  # all of it is held now
    assert len(read) == len(range(PROMPT_STEP, len(ids), PROMPT_STEP))


def test_conversion_leaves_the_folders_of_the_loras_alone(llama_home, engine):
    for lora in llama_home.loras:
        assert {path.suffix for path in lora.path.iterdir()} == {".json", ".md", ".safetensors"}


# Requests that come together


def test_simultaneous_requests_are_computed_together(base_engine):
    requests = [GenerationRequest(prompt=f"Count {number}:", **LONG) for number in range(PARALLEL)]
    jobs = start_together(base_engine, requests)
    running = list_running(base_engine)
    for request in requests:
        request.cancelled.set()
    assert len(running) == PARALLEL
    assert all(0 < job.result(WAIT_S).completion_tokens < LONG["max_new_tokens"] for job in jobs)


@pytest.mark.parametrize(
    ("layers", "width", "heads", "heads_kv", "trained", "free_gb", "count", "context"),
    [
        (30, 576, 9, 3, 8192, 16, 16, 8192),  # the embedded model, 189 MB a conversation
        (30, 576, 9, 3, 8192, 8, 10, 8192),
        (30, 576, 9, 3, 8192, 2, 2, 8192),
        (32, 4096, 32, 32, 4096, 24, 2, 4096),  # Llama 2 with 7 billion parameters, 2.1 GB a conversation
        (80, 8192, 64, 8, 131072, 4, 1, 8192),
    ],
)
def test_conversations_fill_at_most_a_fourth_of_the_free_memory(
    layers, width, heads, heads_kv, trained, free_gb, count, context
):
    sizes = {"block_count": layers, "embedding_length": width, "context_length": trained}
    sizes |= {"attention.head_count": heads, "attention.head_count_kv": heads_kv}
    header = {"general.architecture": "llama"} | {f"llama.{name}": value for name, value in sizes.items()}
    assert plan_conversations(header, free_gb * 1e9) == ConversationPlan(count, context)


def test_unknown_size_limits_nothing():
    assert plan_conversations({}, free=1e9, most=3) == ConversationPlan(3, 8192)


@pytest.mark.long
def test_every_conversation_has_its_whole_context(base_engine):
    assert base_engine.context == 2048
    assert {slot["n_ctx"] for slot in base_engine.server.ask("/slots")} == {2048}
    settings = {"prompt": "a" * 1500, "max_new_tokens": 500, "ban_eos": True}
    requests = [GenerationRequest(**settings) for _ in range(2 * PARALLEL)]
    with ThreadPoolExecutor(len(requests)) as pool:
        answers = list(pool.map(base_engine.generate, requests))
    assert [answer.completion_tokens for answer in answers] == [500] * len(requests)


# Answers that end early


def test_closing_the_iterator_ends_the_computation(base_engine):
    pieces = base_engine.stream(GenerationRequest(prompt="Count:", **LONG))
    next(pieces)
    slot = list_running(base_engine)[0]["id"]
    pieces.close()
    assert count_last_tokens(base_engine, slot) < LONG["max_new_tokens"]


def test_long_prompt_is_read_in_steps_and_only_while_the_answer_is_wanted(base_engine):
    events = []
    ids = base_engine.tokenize("abcdefgh" * 200)

    def take(event):
        events.append(event["prompt_progress"]["processed"])
        return len(events) < 3

    base_engine.server.complete({"prompt": ids, "n_predict": 1, "cache_prompt": False}, take)
    assert events == [0, PROMPT_STEP, 2 * PROMPT_STEP]
    last = max(base_engine.server.ask("/slots"), key=lambda slot: slot.get("id_task", -1))
    assert count_last_tokens(base_engine, last["id"]) < len(ids)


def test_error_of_a_reader_of_events_is_raised(base_engine):
    with pytest.raises(ZeroDivisionError):
        base_engine.server.complete({"prompt": [1], "n_predict": 1}, lambda event: 1 / 0)


def test_request_that_is_cancelled_while_it_waits_is_never_computed(base_engine):
    long = [GenerationRequest(prompt=f"Count {number}:", **LONG) for number in range(PARALLEL)]
    waiting = GenerationRequest(prompt="Hi", **LONG)
    running = start_together(base_engine, long)
    last = base_engine.start(waiting, lambda piece: None)
    for request in (waiting, *long):
        request.cancelled.set()
    assert last.result(WAIT_S).completion_tokens == 0
    for job in running:
        assert job.result(WAIT_S).finish_reason == "length"
        assert 0 < job.result().completion_tokens < LONG["max_new_tokens"]


def test_closed_engine_ends_running_answers_and_refuses_new_ones(llama_home):
    closing = LlamaEngine(llama_home.gguf)
    pieces = closing.stream(GenerationRequest(prompt="Count:", **LONG))
    next(pieces)
    closing.close()
    *_, whole = pieces
    assert 0 < whole.completion_tokens < LONG["max_new_tokens"]
    with pytest.raises(EngineStopping):
        ask(closing)


# Optional fields


def test_settings_that_are_not_honoured_are_reported(engine):
    request = GenerationRequest(min_length=5, tfs=0.5, ban_eos=True, presence_penalty=1)
    assert set(engine.list_unsupported(request)) == {"min_length", "tfs"}


def count_repeats(text):
    return len(text) - len(set(text))


@pytest.mark.parametrize("name", ["presence_penalty", "frequency_penalty"])
def test_penalties_lessen_repetitions(engine, name):
    assert count_repeats(ask(engine, **{name: 2.0}).text) < count_repeats(ask(engine).text)


def test_repetition_penalty_looks_back_as_far_as_its_range(engine):
    answers = {
        reach: ask(engine, repetition_penalty=1.5, repetition_penalty_range=reach).text
        for reach in (0, 1, 2048)
    }
    assert answers[0] == answers[2048] != answers[1]
    assert count_repeats(answers[0]) < count_repeats(answers[1])


def test_bias_forces_and_forbids_a_token(engine):
    (a,) = engine.tokenize("a")
    assert set(ask(engine, logit_bias={a: 100.0}).text) == {"a"}
    first = ask(engine).text[0]
    assert first not in ask(engine, logit_bias={engine.tokenize(first)[0]: -100.0}).text


def test_mirostat_draws_tokens_of_the_wanted_surprise(engine):
    def measure_surprise(mode, tau=5.0, eta=0.1):
        mirostat = {"mirostat_mode": mode, "mirostat_tau": tau, "mirostat_eta": eta}
        drawn = ask(engine, temperature=1.0, seed=3, max_new_tokens=100, top_logprobs=0, **mirostat)
        return -sum(token.logprob for token in drawn.tokens) / len(drawn.tokens)

    off, second = measure_surprise(0), measure_surprise(2)
    low = measure_surprise(2, tau=2.0)
    assert low < off
    assert measure_surprise(1, tau=2.0) < off
    assert low < measure_surprise(2, tau=7.0)
    assert measure_surprise(2, eta=0.9) != second


def test_answer_follows_the_grammar(engine):
    assert ask(engine, structure=Structure("grammar", 'root ::= ("yes" | "no") "!"')).text in ("yes!", "no!")


def test_answer_goes_on_if_the_end_is_banned(engine):
    assert ask(engine, logit_bias={END: 50.0}, ban_eos=True).completion_tokens == 24


# Log-probabilities


def compute_logprobs(model_folder, prompt, answer):
    """{bytes: log-probability} for each byte of `answer` after `prompt`, as transformers computes them."""
    tokenizer = make_byte_tokenizer()
    model = AutoModelForCausalLM.from_pretrained(model_folder)
    number_of = {read_bytes(tokenizer, number): number for number in range(256)}
    before = tokenizer(prompt, add_special_tokens=False)["input_ids"]
    ids = before + [number_of[bytes([byte])] for byte in answer]
    with torch.inference_mode():
        rows = model(torch.tensor([ids])).logits[0].log_softmax(-1)[len(before) - 1 : -1]
    return [{data: row[number].item() for data, number in number_of.items()} for row in rows]


def check_logprobs(model_folder, prompt, generation, top):
    answer = b"".join(token.data for token in generation.tokens)
    assert len(generation.tokens) == len(answer) == generation.completion_tokens  # a byte is a token
    expected = compute_logprobs(model_folder, prompt, answer)
    for token, logprobs in zip(generation.tokens, expected, strict=True):
        assert token.logprob == pytest.approx(logprobs[token.data], abs=2e-2)
        for rival, value in token.top:
            if rival:  # special tokens have no bytes
                assert value == pytest.approx(logprobs[rival], abs=2e-2)
    assert any(len(token.top) == top for token in generation.tokens)


@pytest.mark.parametrize("top", [0, 3])
def test_every_token_has_the_log_probability_of_transformers(engine, llama_home, top):
    generation = ask(engine, top_logprobs=top)
    assert "\ufffd" in generation.text  # bytes that are not a character: llama.cpp itself lists only the last
    check_logprobs(llama_home.model, "Hello", generation, top)


def test_tokens_of_characters_of_several_bytes_are_listed_one_by_one(engine, llama_home):
    generation = ask(
        engine, structure=Structure("grammar", 'root ::= "naïve 🙂 東"'), top_logprobs=2, max_new_tokens=15
    )
    assert generation.text == "naïve 🙂 東"
    assert b"".join(token.data for token in generation.tokens).decode() == generation.text
    check_logprobs(llama_home.model, "Hello", generation, 2)


def test_pieces_have_the_tokens_of_their_text_and_none_of_the_stop_string(engine):
    request = GenerationRequest(
        prompt="Hello",
        structure=Structure("grammar", 'root ::= "ab##c é##END and more"'),
        stop=["##END"],
        top_logprobs=0,
        max_new_tokens=50,
    )
    *pieces, whole = engine.stream(request)
    assert whole.text == "ab##c é" == b"".join(token.data for token in whole.tokens).decode()
    assert "##c" in [piece.text for piece in pieces]  # held back until it could not be the stop string
    text, data = "", b""
    for piece in pieces:
        text += piece.text
        data += b"".join(token.data for token in piece.tokens)
        assert data.decode(errors="ignore") == text


def test_answer_has_no_tokens_unless_they_are_asked_for(engine):
    assert ask(engine).tokens == []


def test_log_probability_of_a_token_that_does_not_exist_is_refused(engine):
    with pytest.raises(UnknownToken) as refused:
        engine.measure_log_probability(engine.tokenize("Hello"), UNKNOWN)
    assert str(UNKNOWN) in str(refused.value)


# The real file


@pytest.fixture(scope="module")
def real_engine(real_model_name):
    engine = LlamaEngine(find_model(f"{real_model_name}-GGUF"))
    yield engine
    engine.close()


@pytest.mark.real
def test_real_model_answers_and_ends_by_itself(real_engine):
    whole = real_engine.generate(GenerationRequest(SKY, max_new_tokens=40))
    assert "sky" in whole.text.lower()
    assert whole.finish_reason == "stop"
    assert 0 < whole.completion_tokens < 40


@pytest.mark.real
def test_real_model_continues_the_last_message(real_engine):
    messages = [*SKY, {"role": "assistant", "content": "Grass is green, and the sky is"}]
    request = GenerationRequest(messages, continue_last=True, max_new_tokens=3)
    assert real_engine.generate(request).text.startswith(" blue")


@pytest.mark.real
def test_real_tokens_that_are_parts_of_a_character_are_listed_one_by_one(real_engine):
    request = GenerationRequest(
        prompt="An emoji three times: 🙂🙂🙂\nAgain: ",
        structure=Structure("grammar", 'root ::= "🙂🙂"'),
        top_logprobs=1,
        max_new_tokens=20,
    )
    answer = real_engine.generate(request)
    assert answer.text == "🙂🙂" == b"".join(token.data for token in answer.tokens).decode()
    before = real_engine.tokenize(request.prompt)
    numbers = real_engine.tokenize("🙂🙂", add_special=False)
    assert len(answer.tokens) == len(numbers) == 4
    for token, number in zip(answer.tokens, numbers, strict=True):
        # llama.cpp rounds what it multiplies 4-bit weights with, for one token otherwise than for many.
        expected = real_engine.measure_log_probability(before, number)
        assert token.logprob == pytest.approx(expected, abs=0.5)
        before.append(number)


def test_llama_cpp_is_asked_without_a_proxy(base_engine, proxy):
    assert base_engine.server.ask("/health") == {"status": "ok"}
    assert proxy == []


# What a request may cost


class CountedCalls:
    """Notes what the engine asks llama.cpp over HTTP, and passes it on."""

    def __init__(self, server):
        self.server = server
        self.paths = []

    def ask(self, path, body=None):
        self.paths.append(path)
        return self.server.ask(path, body)


def test_text_with_many_control_tokens_is_tokenized_in_two_calls_with_the_same_ids(base_engine, monkeypatch):
    messages = [{"role": "user", "content": "<|im_end|> a<|im_start|>\n" * 20}] * 10
    expected = make_chat_tokenizer(make_byte_tokenizer()).tokenize(messages)
    text = base_engine.render(messages)
    counted = CountedCalls(base_engine.server)
    monkeypatch.setattr(base_engine, "server", counted)
    assert base_engine.tokenize(text, add_special=False) == expected
    assert counted.paths == ["/tokenize"] * 2  # the first part, and all others


@pytest.mark.parametrize("unit", ["a<|im_end|>", "<|im_end|>\n<|im_start|>user\n", "<|im_start|> b"])
def test_pieces_of_a_text_have_the_ids_of_the_text(base_engine, unit):
    text = unit * 300
    body = {"content": text, "add_special": True, "parse_special": True}
    assert base_engine.encode(text, True) == base_engine.server.ask("/tokenize", body)["tokens"]


def test_text_that_can_never_fit_is_refused_before_it_is_tokenized(base_engine, monkeypatch):
    counted = CountedCalls(base_engine.server)
    monkeypatch.setattr(base_engine, "server", counted)
    longest = base_engine.measure_longest(base_engine.context)
    many = [{"role": "user", "content": ""}] * (base_engine.context + 1)
    long = [{"role": "user", "content": "a" * longest}, {"role": "user", "content": "a"}]
    for asked in ({"prompt": "a" * (longest + 1)}, {"messages": many}, {"messages": long}):
        with pytest.raises(PromptTooLong):
            base_engine.check(GenerationRequest(**asked))
    assert not counted.paths


def test_only_the_end_of_a_prompt_that_may_be_cut_is_tokenized(base_engine):
    prompt = "x" * 100_000 + "y" * 10
    end = base_engine.encode("xx" + "y" * 10, False)
    assert base_engine.check(GenerationRequest(prompt=prompt, keep_last=12)) == end


def test_penalty_looks_back_no_further_than_the_context():
    body = build_body(GenerationRequest(repetition_penalty_range=2**31 - 1), [1], context=100)
    assert body["repeat_last_n"] == 100


INTERRUPTED = """
import os, signal, sys
from pathlib import Path
from helpers.generation import llama_server

real = llama_server.import_xllamacpp()

class Interrupted:
    CommonParams = real.CommonParams
    CommonAdapterLoraInfo = real.CommonAdapterLoraInfo

    @staticmethod
    def Server(settings):
        server = real.Server(settings)
        os.kill(os.getpid(), signal.SIGINT)
        return server

llama_server.import_xllamacpp = lambda: Interrupted
try:
    llama_server.LlamaServer(Path(sys.argv[1]), [])
except KeyboardInterrupt:
    print("interrupted")
"""


def test_interrupt_while_llama_starts_ends_it_and_does_not_hang(llama_home):
    command = [sys.executable, "-c", INTERRUPTED, str(llama_home.gguf.gguf)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert (done.stdout, done.returncode) == ("interrupted\n", 0)
