"""How a server ends: within ten seconds, with streams that have an end, whatever it does at the moment."""

import json
import os
import signal
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import psutil
import pytest
import requests
import support
import websockets
from websockets.sync.client import connect

from helpers import clients
from helpers.server.ports import find_ports

pytestmark = pytest.mark.long

TEN_S = 10

# A server whose engine, or whose load, is stuck where nothing can interrupt it, as in a long prompt.
STUCK = """
import ctypes, sys, threading, time
sys.path.insert(0, sys.argv[1])
from support.scripted_engine import ScriptedEngine
from helpers.generation.request import Piece
from helpers.server.openai_api import make_openai_app
from helpers.server.ports import open_port
from helpers.server.raw_api import make_raw_app
from helpers.server.raw_stream import make_streaming_app
from helpers.server.service import Service
from helpers.server.serving import serve
from helpers.server.watchdog import start_watchdog

class StuckEngine(ScriptedEngine):
    def run(self, request, emit, job):
        emit(Piece("so far"))
        time.sleep(1000)

    def submit(self, request, prompt, emit):
        job = super().submit(request, prompt, emit)
        threading.Thread(target=time.sleep, args=(1000,)).start()  # Python would wait for it
        return job

    def close(self):
        super().close()
        if self.requests:
            time.sleep(30)  # waits for its thread, as the engine on transformers does

class StuckService(Service):
    def load(self, choice):
        with self._busy:
            if choice.model == "llama":  # which holds Python's lock
                ctypes.PyDLL(None).sleep(1000)
            time.sleep(1000)

start_watchdog()
service = StuckService(engine=StuckEngine())
apps = [make_raw_app(service), make_streaming_app(service), make_openai_app(service)]
serve(apps, [open_port("127.0.0.1", int(port), "--port") for port in sys.argv[2:]], service)
service.unload()
"""


@pytest.fixture
def stuck():
    """(the process, its three addresses)."""
    ports = [str(port) for port in find_ports([0, 0, 0])]
    tests = str(Path(support.__path__[0]).parent)
    process = subprocess.Popen(
        [sys.executable, "-c", STUCK, tests, *ports], stderr=subprocess.PIPE, text=True
    )
    raw, streaming, openai = (f"127.0.0.1:{port}" for port in ports)
    clients.wait_until_ready(f"http://{openai}/health", process)
    yield process, f"http://{raw}", f"ws://{streaming}", f"http://{openai}"
    process.kill()
    process.wait()


def end(process):
    """Sends SIGTERM; returns the exit code and the seconds that the process takes."""
    started = time.monotonic()
    process.send_signal(signal.SIGTERM)
    return process.wait(30), time.monotonic() - started


def read_socket(opened):
    """(the events that come, the code of the close)."""
    events = []
    try:
        while True:
            events.append(json.loads(opened.recv(30)))
    except websockets.ConnectionClosed as closed:
        return events, closed.rcvd.code if closed.rcvd else None


def test_streams_end_properly_though_the_engine_does_not(stuck):
    process, raw, streaming, openai = stuck
    with ThreadPoolExecutor(3) as pool, connect(streaming + "/api/v1/stream") as opened:
        body = {"prompt": "x", "max_tokens": 5}
        sse = pool.submit(
            requests.post, openai + "/v1/completions", json={**body, "stream": True}, timeout=60
        )
        whole = pool.submit(requests.post, openai + "/v1/completions", json=body, timeout=60)
        opened.send(json.dumps(body))
        load = {"action": "load", "model_name": "x"}
        loading = pool.submit(requests.post, raw + "/api/v1/model", json=load, timeout=60)
        time.sleep(1)
        code, took = end(process)
        events, close_code = read_socket(opened)
    assert (code, took < TEN_S) == (0, True)
    *_, failure, done = [line for line in sse.result().text.splitlines() if line]
    assert "stopping" in json.loads(failure.removeprefix("data: "))["error"]["message"]
    assert done == "data: [DONE]"
    assert [event["event"] for event in events[-2:]] == ["error", "stream_end"]
    assert close_code == 1012
    assert (whole.result().status_code, loading.result().status_code) == (503, 503)
    assert process.stderr.read() == ""


def test_idle_websocket_is_closed_and_holds_nothing_up(stuck):
    process, _, streaming, _ = stuck
    with connect(streaming + "/api/v1/chat-stream") as opened:
        time.sleep(0.3)
        code, took = end(process)
        assert read_socket(opened) == ([], 1012)
    assert (code, took < 5) == (0, True)


def test_signal_ends_streams_of_a_real_model_with_what_they_have(at_home):
    with clients.start_server("tiny", extra=["--dtype", "float32"]) as server:
        body = {"prompt": "x", "max_new_tokens": 1900, "custom_token_bans": "257"}  # 257 ends an answer
        lines = []

        def read_stream():
            asked = {"prompt": "x", "max_tokens": 2000, "stream": True, "logit_bias": {"257": -100}}
            url = server.openai_url + "/completions"
            with requests.post(url, json=asked, stream=True, timeout=60) as reply:
                lines.extend(line for line in reply.iter_lines(decode_unicode=True) if line)

        reader = threading.Thread(target=read_stream)
        with connect(server.streaming_url + "/api/v1/stream") as opened:
            opened.send(json.dumps(body))
            reader.start()
            while len(lines) < 3:
                time.sleep(0.01)
            code, took = end(server.process)
            events, close_code = read_socket(opened)
        reader.join()
    assert (code, took < TEN_S) == (0, True)
    assert lines[-1] == "data: [DONE]"
    assert json.loads(lines[-2].removeprefix("data: "))["choices"][0]["finish_reason"]
    assert [event["event"] for event in events[-2:]] == ["text_stream", "stream_end"]
    assert close_code == 1012


@pytest.mark.skipif(os.name == "nt", reason="Windows has no such lock-holding sleep")
def test_signal_ends_a_process_that_cannot_handle_it(stuck):
    process, raw, _, _ = stuck
    load = {"action": "load", "model_name": "llama"}
    with ThreadPoolExecutor(1) as pool:
        loading = pool.submit(requests.post, raw + "/api/v1/model", json=load, timeout=60)
        time.sleep(1)
        code, took = end(process)
        assert isinstance(loading.exception(), requests.ConnectionError)
    assert (code, took < TEN_S) == (-signal.SIGKILL, True)


def test_watchdog_ends_with_its_server(stuck):
    process, *_ = stuck
    (watchdog,) = psutil.Process(process.pid).children()
    process.kill()
    watchdog.wait(10)


@pytest.mark.skipif(os.name == "nt", reason="Windows has no SIGINT for another process")
def test_second_signal_ends_answers_at_once(stuck):
    process, _, _, openai = stuck
    with ThreadPoolExecutor(1) as pool:
        asked = {"prompt": "x", "max_tokens": 5}
        answer = pool.submit(requests.post, openai + "/v1/completions", json=asked, timeout=60)
        time.sleep(0.5)
        process.send_signal(signal.SIGINT)
        time.sleep(0.2)
        _, took = end(process)
    assert answer.result().status_code == 503
    assert took < TEN_S
