"""llama.cpp on the real GGUF file, by itself and behind both APIs."""

import importlib.util
import os
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import openai
import psutil
import pytest

from helpers import KitError, clients, run_command, weights
from helpers.engines import EngineStopping
from helpers.generation import GenerationRequest
from helpers.llama_engine import LlamaEngine
from helpers.server.__main__ import main

pytestmark = [
    pytest.mark.real,
    pytest.mark.skipif(not importlib.util.find_spec("xllamacpp"), reason="xllamacpp is not installed: pip install -e '.[llamacpp]'"),
]
SKY = [{"role": "user", "content": "What color is the sky? One short sentence."}]


@pytest.fixture(scope="module")
def folder(real_model_name):
    return weights.find_model(f"{real_model_name}-GGUF")


@pytest.fixture(scope="module")
def engine(folder):
    engine = LlamaEngine(folder)
    yield engine
    engine.close()


def test_answer_comes_in_pieces_and_whole(engine):
    *pieces, whole = engine.stream(GenerationRequest(SKY, max_new_tokens=40))
    assert len(pieces) > 3 and "".join(piece.text for piece in pieces) == whole.text and "sky" in whole.text.lower()
    assert whole.finish_reason == "stop" and 0 < whole.completion_tokens < 40 and engine.generate(GenerationRequest(SKY, max_new_tokens=40)) == whole


def test_length_and_stop_strings_end_the_answer(engine):
    assert engine.generate(GenerationRequest(SKY, max_new_tokens=3)).finish_reason == "length"
    stopped = engine.generate(GenerationRequest(SKY, max_new_tokens=40, stop=["sky"]))
    assert stopped.finish_reason == "stop" and "sky" not in stopped.text and stopped.text


def test_last_message_is_continued(engine):
    messages = [*SKY, {"role": "assistant", "content": "Grass is green, and the sky is"}]
    longer = engine.generate(GenerationRequest(messages, continue_last=True, max_new_tokens=3))
    assert longer.text.startswith(" blue")


def test_seed_repeats_a_draw_and_another_gives_another(engine):
    drawn = [engine.generate(GenerationRequest(prompt="Once", temperature=1.5, seed=seed, max_new_tokens=20)).text for seed in (1, 1, -2)]
    assert drawn[0] == drawn[1] != drawn[2]


def test_what_comes_together_is_answered_and_takes_less_than_in_turn(engine):
    requests = [GenerationRequest(prompt=f"{word} is", max_new_tokens=48) for word in ("Bread", "Rain", "Chess", "Iron")]
    begun = time.perf_counter()
    alone = [engine.generate(request) for request in requests]
    in_turn, begun = time.perf_counter() - begun, time.perf_counter()
    with ThreadPoolExecutor(4) as pool:
        together = list(pool.map(engine.generate, requests))
    assert time.perf_counter() - begun < in_turn
    assert [answer.completion_tokens for answer in together] == [answer.completion_tokens for answer in alone] and all(a.text for a in together)


def test_closed_iterator_stops_the_work(engine):
    pieces = engine.stream(GenerationRequest(prompt="Count:", max_new_tokens=4000))
    next(pieces)
    pieces.close()
    time.sleep(1)
    begun = time.monotonic()
    engine.generate(GenerationRequest(prompt="Hi", max_new_tokens=1))
    assert time.monotonic() - begun < 1


def test_request_that_waits_for_its_turn_is_never_computed_once_it_is_cancelled(engine):
    long = [GenerationRequest(prompt=f"Count {i}:", max_new_tokens=4000) for i in range(4)]
    waiting = GenerationRequest(prompt="Hi", max_new_tokens=4000)
    with ThreadPoolExecutor(5) as pool:
        running = [pool.submit(engine.generate, request) for request in long]
        time.sleep(0.5)
        last = pool.submit(engine.generate, waiting)
        for request in (waiting, *long):
            request.cancelled.set()
        assert last.result(20).completion_tokens == 0 and all(0 < job.result(20).completion_tokens < 4000 for job in running)


def test_cancelled_request_ends_with_what_it_has(engine):
    request = GenerationRequest(prompt="Count:", max_new_tokens=4000)
    threading.Timer(0.5, request.cancelled.set).start()
    answer = engine.generate(request)
    assert answer.finish_reason == "length" and 0 < answer.completion_tokens < 4000


@pytest.mark.parametrize(
    ("request_", "message"),
    [
        (GenerationRequest(prompt="word " * 9000), "The prompt has 9001 tokens; the model takes 1 to 8191"),
        (GenerationRequest(prompt=""), "The prompt has 0 tokens"),
        (GenerationRequest(prompt="Hi", adapter="x"), "No LoRA 'x' is loaded"),
    ],
)
def test_what_cannot_be_answered_is_refused(engine, request_, message):
    with pytest.raises(KitError, match=message):
        engine.generate(request_)


def test_engine_that_was_closed_refuses(folder):
    closed = LlamaEngine(folder)
    closed.close()
    with pytest.raises(EngineStopping):
        closed.generate(GenerationRequest(prompt="Hi"))


def test_both_apis_answer_from_a_gguf_within_seconds(folder):
    begun = time.monotonic()
    with clients.start_server(folder.name) as server:
        client = clients.make_openai_client(server.openai_url)
        reply = client.chat.completions.create(model="x", messages=SKY, max_tokens=30, temperature=0)
        seconds = time.monotonic() - begun
        assert "sky" in reply.choices[0].message.content.lower() and reply.usage.completion_tokens > 3
        assert "sky" in clients.last_reply(clients.chat_raw(SKY[0]["content"], url=server.raw_url, max_new_tokens=30, do_sample=False)).lower()
        leaving = client.chat.completions.create(model="x", messages=SKY, max_tokens=4000, temperature=1.5, stream=True)
        next(iter(leaving))
        leaving.close()
        time.sleep(1)
        before = psutil.Process(server.process.pid).cpu_times()
        time.sleep(1)
        after = psutil.Process(server.process.pid).cpu_times()
        assert after.user - before.user < 0.3  # seconds of computing: who has left costs nothing any more
        with pytest.raises(openai.BadRequestError, match="tokens"):
            client.chat.completions.create(model="x", messages=[{"role": "user", "content": "word " * 9000}])
    assert seconds < 10  # 1.3 to 2.4 on two idle cores; other work on the machine doubles it


@pytest.mark.parametrize(("extra", "message"), [(["--lora", "x"], "which llama.cpp does not read"), (["--dtype", "float32"], "Leave --dtype away")])
def test_what_a_gguf_cannot_take_is_refused_with_the_way_out(folder, capsys, extra, message):
    assert run_command(main, ["--model", folder.name, *extra, "--api", "--api-blocking-port", "0", "--api-streaming-port", "0"]) == 2
    assert message in capsys.readouterr().err


def test_damaged_file_is_one_line(home, capfd):
    (home / "models" / "bad").mkdir(parents=True)
    (home / "models" / "bad" / "a.gguf").write_bytes(b"GGUF, and then nothing")
    assert run_command(main, ["--model", "bad", "--api", "--api-blocking-port", "0", "--api-streaming-port", "0"]) == 2
    error = capfd.readouterr().err
    assert "cannot load" in error and len(error.splitlines()) == 1


def test_setting_for_torch_does_not_reach_llama_cpp_and_stays_for_others():
    code = """
import os, sys, helpers
from helpers.llama_engine import import_xllamacpp
class Watcher:
    def find_spec(self, name, path, target=None):
        if name == "xllamacpp":
            seen.append(os.environ.get("OMP_WAIT_POLICY"))
seen = []
sys.meta_path.insert(0, Watcher())
import_xllamacpp()
print(seen[-1], os.environ["OMP_WAIT_POLICY"])
"""
    environment = {name: value for name, value in os.environ.items() if name != "OMP_WAIT_POLICY"}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=environment, check=True)
    assert done.stdout.split() == ["None", "PASSIVE"]
