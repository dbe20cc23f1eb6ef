"""llama.cpp on the tiny random Llama, where it computes as transformers does, and on the real GGUF file, behind both APIs."""

import importlib.util
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from types import SimpleNamespace

import openai
import pytest
import torch
from support.gguf import make_tiny_gguf
from support.tiny import make_byte_tokenizer, make_tiny_adapter, make_tiny_model
from transformers import AutoModelForCausalLM

from helpers import KitError, clients, weights
from helpers.common.command import run_command
from helpers.generation.decoding import read_bytes
from helpers.generation.engine import EngineStopping
from helpers.generation.llama_engine import LlamaEngine
from helpers.generation.llama_server import PARALLEL, PROMPT_STEP, plan_conversations
from helpers.generation.request import OPTIONAL_FIELDS, GenerationRequest
from helpers.server.__main__ import main
from helpers.server.service import Choice, Service

pytestmark = pytest.mark.skipif(
    not importlib.util.find_spec("xllamacpp"),
    reason="xllamacpp is not installed: pip install -e '.[llamacpp]'",
)
LONG = {"max_new_tokens": 1500, "ban_eos": True}  # seconds of computing, unless it is ended
SKY = [{"role": "user", "content": "What color is the sky? One short sentence."}]


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    """The home's folders: models/tiny, the same as GGUF, and two LoRAs on it."""
    home = tmp_path_factory.mktemp("home")
    model = make_tiny_model(home / "models" / "tiny")
    gguf = make_tiny_gguf(home / "models" / "tiny-GGUF", model)
    loras = [
        make_tiny_adapter(home / "loras" / name, model, seed)
        for seed, name in enumerate(("shift", "twist"), 1)
    ]
    return SimpleNamespace(home=home, model=model, gguf=gguf, loras=loras)


@pytest.fixture(scope="module")
def engine(folders):
    engine = LlamaEngine(folders.gguf, folders.loras)
    yield engine
    engine.close()


@pytest.fixture(scope="module")
def base_engine(folders):
    """Without LoRAs, so that prompts are cached."""
    engine = LlamaEngine(folders.gguf)
    yield engine
    engine.close()


def ask(engine, **settings):
    return engine.generate(GenerationRequest(**{"prompt": "Hello", "max_new_tokens": 24, **settings}))


def list_running(engine):
    """llama.cpp's slots that compute an answer."""
    return [slot for slot in engine.server.ask("/slots") if slot["is_processing"]]


def count_last_tokens(engine, slot):
    """Tokens of prompt and answer that llama.cpp has in a slot once nothing runs any more."""
    deadline = time.monotonic() + 60
    while list_running(engine):
        assert time.monotonic() < deadline
        time.sleep(0.01)
    return engine.server.ask("/slots")[slot]["n_prompt_tokens"]


def test_pieces_add_up_to_the_whole_and_greedy_answers_repeat(engine):
    *pieces, whole = engine.stream(GenerationRequest(prompt="Hello", max_new_tokens=24))
    assert len(pieces) > 3 and "".join(piece.text for piece in pieces) == whole.text
    assert ask(engine) == whole and (whole.prompt_tokens, whole.completion_tokens, whole.finish_reason) == (
        5,
        24,
        "length",
    )


def test_messages_are_rendered_with_the_models_own_template(engine):
    asked = engine.render([{"role": "user", "content": "Hi"}])
    assert asked == "<|im_start|>user\nHi<|im_end|>\n<|im_start|>assistant\n"
    begun = [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Well"}]
    assert engine.render(begun, continue_last=True) == asked + "Well"
    assert ask(engine, prompt=None, messages=begun, continue_last=True).prompt_tokens == engine.count_tokens(
        asked + "Well"
    )


def test_stop_string_ends_the_answer_and_is_not_returned(engine):
    whole = ask(engine)
    stopped = ask(engine, stop=[whole.text[4:7]])
    assert stopped.text == whole.text[: whole.text.index(whole.text[4:7])] and stopped.finish_reason == "stop"
    assert stopped.completion_tokens < whole.completion_tokens


def test_model_that_ends_its_answer_is_heard(engine):
    end = {engine.vocabulary_size - 3: 100.0}  # the tokenizer's <|im_end|>
    assert (
        ask(engine, logit_bias=end).finish_reason == "stop"
        and ask(engine, logit_bias=end).completion_tokens == 1
    )


def test_seed_repeats_a_draw_and_another_gives_another(engine):
    drawn = [ask(engine, temperature=1.5, seed=seed).text for seed in (1, 1, -2)]
    assert drawn[0] == drawn[1] != drawn[2]


def test_adapter_is_chosen_by_the_request_and_nothing_of_an_answer_is_kept_for_another_adapter(engine):
    names = (None, "shift", "twist")
    prompt = "The same long beginning of every prompt, which a cache would keep. " * 8
    alone = {name: ask(engine, prompt=prompt, adapter=name) for name in names}
    assert len({answer.text for answer in alone.values()}) == 3
    asked = [names[number % 3] for number in (0, 1, 0, 2, 1, 0, 2, 2, 1, 0, 1, 2, 0)]
    assert [ask(engine, prompt=prompt, adapter=name) for name in asked] == [alone[name] for name in asked]
    with ThreadPoolExecutor(8) as pool:
        together = list(pool.map(lambda name: ask(engine, prompt=prompt, adapter=name), asked))
    assert together == [alone[name] for name in asked]


def test_prompt_is_cached_where_no_adapter_is_loaded(base_engine, engine):
    def count_read(engine):
        progress = []
        engine.server.complete(
            {**engine._build_body(GenerationRequest(max_new_tokens=1), ids), "prompt": ids},
            lambda event: progress.append(event) or True,
        )
        return progress[-1]["timings"]["prompt_n"]

    ids = engine.tokenize("One two three four five six seven. " * 4)
    assert [count_read(base_engine) for _ in range(2)] == [len(ids), 1] and [
        count_read(engine) for _ in range(2)
    ] == [len(ids)] * 2


def start_together(engine, requests):
    """The answers' futures, once every one of them has begun: none goes beyond its first piece before."""
    begun = threading.Barrier(len(requests) + 1)

    def hold_first():
        pieces = []

        def take(piece):
            pieces.append(piece)
            if len(pieces) == 1:
                begun.wait(60)

        return take

    jobs = [engine.start(request, hold_first()) for request in requests]
    begun.wait(60)
    return jobs


def test_what_comes_together_is_computed_together(base_engine):
    requests = [GenerationRequest(prompt=f"Count {number}:", **LONG) for number in range(PARALLEL)]
    jobs = start_together(base_engine, requests)
    running = list_running(base_engine)
    for request in requests:
        request.cancelled.set()
    assert len(running) == PARALLEL
    assert all(0 < job.result(60).completion_tokens < LONG["max_new_tokens"] for job in jobs)


@pytest.mark.parametrize(
    ("layers", "width", "heads", "heads_kv", "trained", "free_gb", "expected"),
    [
        (30, 576, 9, 3, 8192, 8, (4, 8192)),  # the embedded model, 189 MB a conversation
        (30, 576, 9, 3, 8192, 2, (2, 8192)),
        (32, 4096, 32, 32, 4096, 24, (2, 4096)),  # Llama 2 with 7 billion parameters, 2.1 GB
        (80, 8192, 64, 8, 131072, 4, (1, 8192)),
    ],
)
def test_as_many_conversations_run_as_have_their_whole_room_in_a_fourth_of_the_free_memory(
    layers, width, heads, heads_kv, trained, free_gb, expected
):
    sizes = {"block_count": layers, "embedding_length": width, "context_length": trained}
    sizes |= {"attention.head_count": heads, "attention.head_count_kv": heads_kv}
    header = {"general.architecture": "llama"} | {f"llama.{name}": value for name, value in sizes.items()}
    assert plan_conversations(header, free_gb * 1e9) == expected


@pytest.mark.long
def test_every_conversation_has_its_whole_room(base_engine):
    assert base_engine.context == 2048 and {slot["n_ctx"] for slot in base_engine.server.ask("/slots")} == {
        2048
    }
    prompt, rest = "a" * 1500, 500
    requests = [
        GenerationRequest(prompt=prompt, max_new_tokens=rest, ban_eos=True) for _ in range(2 * PARALLEL)
    ]
    with ThreadPoolExecutor(len(requests)) as pool:
        assert [answer.completion_tokens for answer in pool.map(base_engine.generate, requests)] == [
            rest
        ] * len(requests)


def test_closed_iterator_stops_the_work(base_engine):
    pieces = base_engine.stream(GenerationRequest(prompt="Count:", **LONG))
    next(pieces)
    slot = list_running(base_engine)[0]["id"]
    pieces.close()
    assert count_last_tokens(base_engine, slot) < LONG["max_new_tokens"] / 2


def test_long_prompt_is_read_in_steps_and_no_further_once_nobody_waits(base_engine):
    events, ids = [], base_engine.tokenize("abcdefgh" * 200)

    def take(event):
        events.append(event["prompt_progress"]["processed"])
        return len(events) < 3

    base_engine.server.complete({"prompt": ids, "n_predict": 1, "cache_prompt": False}, take)
    assert events == [0, PROMPT_STEP, 2 * PROMPT_STEP]
    last = max(base_engine.server.ask("/slots"), key=lambda slot: slot.get("id_task", -1))
    assert count_last_tokens(base_engine, last["id"]) < len(ids)


def test_request_that_waits_for_its_turn_is_never_computed_once_it_is_cancelled(base_engine):
    long = [GenerationRequest(prompt=f"Count {number}:", **LONG) for number in range(PARALLEL)]
    waiting = GenerationRequest(prompt="Hi", **LONG)
    jobs = [*start_together(base_engine, long), base_engine.start(waiting, lambda piece: None)]
    for request in (waiting, *long):
        request.cancelled.set()
    *running, last = [job.result(60) for job in jobs]
    assert last.completion_tokens == 0
    assert all(
        answer.finish_reason == "length" and 0 < answer.completion_tokens < LONG["max_new_tokens"]
        for answer in running
    )


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"prompt": "word " * 900}, "The prompt has 4500 tokens; the model takes 1 to 2047"),
        ({"prompt": ""}, "The prompt has 0 tokens"),
        ({"adapter": "x"}, "No LoRA 'x' is loaded"),
        ({"logit_bias": {260: 1.0}}, "no token 260; the model has 0 to 259"),
        ({"grammar": "no grammar"}, "failed to parse grammar"),
    ],
)
def test_what_cannot_be_answered_is_refused(engine, settings, message):
    with pytest.raises(KitError, match=message):
        ask(engine, **settings)


def test_engine_that_was_closed_refuses_what_comes_and_ends_what_runs(folders):
    closing = LlamaEngine(folders.gguf)
    pieces = closing.stream(GenerationRequest(prompt="Count:", **LONG))
    next(pieces)
    closing.close()
    *_, whole = pieces
    assert 0 < whole.completion_tokens < LONG["max_new_tokens"]
    with pytest.raises(EngineStopping):
        ask(closing)


# Optional fields


def test_honoured_fields_are_optional_fields_and_the_others_are_reported(engine):
    assert engine.honoured < set(OPTIONAL_FIELDS)
    assert engine.list_unsupported(
        GenerationRequest(min_length=5, tfs=0.5, ban_eos=True, presence_penalty=1)
    ) == ["min_length", "tfs"]


def count_repeats(text):
    return len(text) - len(set(text))


@pytest.mark.parametrize("name", ["presence_penalty", "frequency_penalty"])
def test_penalties_take_repetitions_away(engine, name):
    assert count_repeats(ask(engine, **{name: 2.0}).text) < count_repeats(ask(engine).text)


def test_repetition_penalty_looks_as_far_back_as_its_range(engine):
    answers = {
        reach: ask(engine, repetition_penalty=1.5, repetition_penalty_range=reach).text
        for reach in (0, 1, 2048)
    }
    assert answers[0] == answers[2048] != answers[1] and count_repeats(answers[0]) < count_repeats(answers[1])


def test_bias_forces_and_forbids_a_token(engine):
    first, (a,) = ask(engine).text[0], engine.tokenize("a")
    assert set(ask(engine, logit_bias={a: 100.0}).text) == {"a"}
    assert first not in ask(engine, logit_bias={engine.tokenize(first)[0]: -100.0}).text


def test_mirostat_draws_what_surprises_as_much_as_it_is_told(engine):
    def surprise(mode, tau=5.0, eta=0.1):
        drawn = ask(
            engine,
            temperature=1.0,
            seed=3,
            mirostat_mode=mode,
            mirostat_tau=tau,
            mirostat_eta=eta,
            max_new_tokens=100,
            top_logprobs=0,
        )
        return -sum(token.logprob for token in drawn.tokens) / len(drawn.tokens)

    assert (
        surprise(2, tau=2.0) < surprise(0)
        and surprise(1, tau=2.0) < surprise(0)
        and surprise(2, tau=2.0) < surprise(2, tau=7.0)
    )
    assert surprise(2, eta=0.9) != surprise(2)


def test_grammar_is_followed(engine):
    assert ask(engine, grammar='root ::= ("yes" | "no") "!"').text in ("yes!", "no!")


def test_banned_end_lets_the_answer_go_on(engine):
    end = {engine.vocabulary_size - 3: 50.0}
    assert ask(engine, logit_bias=end, ban_eos=True).completion_tokens == 24


# Log-probabilities


def compute_logprobs(folders, prompt, answer):
    """Of the bytes `answer` after `prompt`, by transformers: [(bytes, log-probability, {bytes: log-probability})]."""
    tokenizer, model = make_byte_tokenizer(), AutoModelForCausalLM.from_pretrained(folders.model)
    number_of = {read_bytes(tokenizer, number): number for number in range(256)}
    before = tokenizer(prompt, add_special_tokens=False)["input_ids"]
    ids = [number_of[bytes([byte])] for byte in answer]
    with torch.inference_mode():
        logs = model(torch.tensor([before + ids])).logits[0].log_softmax(-1)[len(before) - 1 :]
    rivals = [{data: row[number].item() for data, number in number_of.items()} for row in logs]
    return [
        (bytes([byte]), row[number].item(), others)
        for byte, number, row, others in zip(answer, ids, logs, rivals, strict=False)
    ]


def check_logprobs(folders, prompt, generation, top):
    expected = compute_logprobs(folders, prompt, b"".join(token.data for token in generation.tokens))
    assert len(expected) == len(generation.tokens)
    for token, (data, logprob, rivals) in zip(generation.tokens, expected, strict=True):
        assert token.data == data and token.logprob == pytest.approx(logprob, abs=2e-2)
        assert all(rivals[rival] == pytest.approx(value, abs=2e-2) for rival, value in token.top if rival)
    assert any(len(token.top) == top for token in generation.tokens)


@pytest.mark.parametrize("top", [0, 3])
def test_every_token_is_told_with_transformers_log_probabilities(engine, folders, top):
    generation = ask(engine, top_logprobs=top)
    assert (
        "\ufffd" in generation.text
    )  # bytes that are no character: llama.cpp itself tells of the last one of them only
    assert len(generation.tokens) == generation.completion_tokens
    check_logprobs(folders, "Hello", generation, top)


def test_tokens_of_whole_characters_of_several_bytes_are_told_one_by_one(engine, folders):
    generation = ask(engine, grammar='root ::= "naïve 🙂 東"', top_logprobs=2, max_new_tokens=50)
    assert (
        generation.text == "naïve 🙂 東"
        and b"".join(token.data for token in generation.tokens).decode() == generation.text
    )
    check_logprobs(folders, "Hello", generation, 2)


def test_tokens_come_with_the_text_that_they_complete_and_none_of_the_stop_string(engine):
    grammar, stop = 'root ::= "ab##c é##END and more"', ["##END"]
    *pieces, whole = engine.stream(
        GenerationRequest(prompt="Hello", grammar=grammar, stop=stop, top_logprobs=0, max_new_tokens=50)
    )
    assert whole.text == "ab##c é" == b"".join(token.data for token in whole.tokens).decode()
    assert "##c" in [
        piece.text for piece in pieces
    ]  # what was held back until it could no more be the stop string
    for end in range(1, len(pieces) + 1):  # no piece of text is ahead of its tokens, nor behind them
        told = b"".join(token.data for piece in pieces[:end] for token in piece.tokens)
        assert told.decode(errors="ignore") == "".join(piece.text for piece in pieces[:end])


def test_nothing_is_told_unless_asked_for(engine):
    assert ask(engine).tokens == []


# The service


def test_server_answers_from_a_gguf_with_loras_without_torch_whose_import_takes_seconds(folders):
    code = """
import sys
from pathlib import Path
import helpers.server.__main__, helpers.server.openai_api, helpers.server.raw_api
from helpers.generation import GenerationRequest
from helpers.server.service import Choice, Service
home = Path(sys.argv[1])
engine = Service(home / "models", home / "loras").load(Choice("tiny-GGUF", ("twist", "shift")))
texts = {engine.generate(GenerationRequest(prompt="Hello", max_new_tokens=8, adapter=name)).text for name in (None, *engine.adapters)}
print(engine.adapters, len(texts), "torch" in sys.modules)
"""
    done = subprocess.run(
        [sys.executable, "-c", code, str(folders.home)], capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == "['twist', 'shift'] 3 False"


def test_loras_folder_may_be_read_only(folders, engine):
    assert all(
        sorted(path.suffix for path in lora.iterdir()) == [".json", ".md", ".safetensors"]
        for lora in folders.loras
    )


@pytest.mark.parametrize(
    ("choice", "message"),
    [
        (Choice("tiny-GGUF", ("other",)), "LoRA other was trained on big, not on tiny-GGUF"),
        (Choice("tiny-GGUF", ("dora",)), "LoRA dora has DoRA"),
        (Choice("tiny-GGUF", ("absent",)), "No LoRA 'absent'"),
        (Choice("tiny-GGUF", dtype="float32"), "Leave --dtype away"),
        (Choice("tiny", loader="llama.cpp"), "tiny has no GGUF file"),
    ],
)
def test_choice_that_cannot_be_is_refused_and_the_old_engine_stays(folders, tmp_path, choice, message):
    for name, change in (
        ("other", ("models/tiny", "models/big")),
        ("dora", ('"use_dora": false', '"use_dora": true')),
    ):
        config = make_tiny_adapter(tmp_path / name, folders.model) / "adapter_config.json"
        config.write_text(config.read_text().replace(*change))
    service = Service(folders.home / "models", tmp_path)
    before = service.load(Choice("tiny-GGUF"))
    with pytest.raises(KitError, match=message):
        service.load(choice)
    assert service.engine is before and ask(before).text
    service.unload()


@pytest.mark.long
def test_server_answers_from_a_gguf_with_a_lora_over_both_apis(folders, monkeypatch):
    monkeypatch.setenv("OPEN_LLM_KIT_HOME", str(folders.home))
    with clients.start_server("tiny-GGUF", ["shift", "twist"]) as server:
        client = clients.make_openai_client(server.openai_url)

        def chat(model):
            body = {
                "model": model,
                "messages": [{"role": "user", "content": "Hi"}],
                "max_tokens": 8,
                "temperature": 0,
            }
            return client.chat.completions.create(**body).choices[0].message.content

        said = {model: chat(model) for model in ("tiny-GGUF", "shift", "twist", "x")}
        assert said["x"] == said["shift"] and len(set(said.values())) == 3
        assert [model.id for model in client.models.list()] == ["tiny-GGUF", "shift", "twist"]
        assert clients.last_reply(
            clients.chat_raw("Hi", url=server.raw_url, max_new_tokens=8, do_sample=False)
        )
        with pytest.raises(openai.BadRequestError, match="tokens"):
            client.chat.completions.create(model="x", messages=[{"role": "user", "content": "word " * 900}])


@pytest.mark.parametrize(("part", "message"), [(0.01, "is no whole GGUF file"), (0.6, "cannot load")])
def test_damaged_file_is_one_line(home, folders, capfd, part, message):
    whole = (folders.gguf / "tiny.gguf").read_bytes()
    (home / "models" / "bad").mkdir(parents=True)
    (home / "models" / "bad" / "a.gguf").write_bytes(whole[: int(part * len(whole))])
    assert (
        run_command(
            main, ["--model", "bad", "--api", "--api-blocking-port", "0", "--api-streaming-port", "0"]
        )
        == 2
    )
    error = capfd.readouterr().err
    assert message in error and len(error.splitlines()) == 1


# The real file


@pytest.fixture(scope="module")
def real_engine(real_model_name):
    engine = LlamaEngine(weights.find_model(f"{real_model_name}-GGUF"))
    yield engine
    engine.close()


@pytest.mark.real
def test_real_model_answers_and_ends_by_itself(real_engine):
    whole = real_engine.generate(GenerationRequest(SKY, max_new_tokens=40))
    assert "sky" in whole.text.lower() and whole.finish_reason == "stop" and 0 < whole.completion_tokens < 40


@pytest.mark.real
def test_real_model_continues_the_last_message(real_engine):
    messages = [*SKY, {"role": "assistant", "content": "Grass is green, and the sky is"}]
    assert real_engine.generate(
        GenerationRequest(messages, continue_last=True, max_new_tokens=3)
    ).text.startswith(" blue")


@pytest.mark.real
def test_real_tokens_that_are_parts_of_a_character_are_told_one_by_one(real_engine):
    request = GenerationRequest(
        prompt="An emoji three times: 🙂🙂🙂\nAgain: ",
        grammar='root ::= "🙂🙂"',
        top_logprobs=1,
        max_new_tokens=20,
    )
    answer = real_engine.generate(request)
    assert (
        answer.text == "🙂🙂" == b"".join(token.data for token in answer.tokens).decode()
        and len(answer.tokens) > 2
    )
    ids = real_engine.tokenize(request.prompt)
    for token in answer.tokens:
        (number,) = {
            entry["id"]
            for entry in real_engine.server.find_likeliest(
                ids, lambda e, data=token.data: bytes(e["bytes"]) == data, {}
            )[:1]
        }
        # llama.cpp rounds what it multiplies 4-bit weights with, and rounds many tokens at once in another way than one.
        assert token.logprob == pytest.approx(real_engine.measure_log_probability(ids, number), abs=0.5)
        ids.append(number)


@pytest.mark.real
def test_real_model_answers_over_http(real_model_name):
    with clients.start_server(f"{real_model_name}-GGUF") as server:
        reply = clients.make_openai_client(server.openai_url).chat.completions.create(
            model="x", messages=SKY, max_tokens=30, temperature=0
        )
        assert "sky" in reply.choices[0].message.content.lower() and reply.usage.completion_tokens > 3
