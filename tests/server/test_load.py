"""Mixed requests from 16 clients, with ones among them that leave, are slow or are rude.

Every answer is the one that a client alone gets, no reply is a 5xx, and memory stays.
"""

import contextlib
import json
import random
import socket
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from types import SimpleNamespace
from urllib.parse import urlsplit

import psutil
import pytest
import requests
from support.server import make_tiny_service
from websockets.sync.client import connect

from helpers import clients

CLIENTS = 16
PROMPTS = ["Hi", "What color is the sky?", "1 < 2 & 'so'", "naïve 東京 🙂"]
WRONG = [
    ("openai", "/completions", {"prompt": "x", "max_tokens": -1}),
    ("openai", "/chat/completions", {"messages": []}),
    ("openai", "/nothing", {}),
    ("raw", "/api/v1/chat", {}),
    ("raw", "/api/v1/model", {"action": "load", "model_name": "a\0b"}),
    ("raw", "/api/v1/generate", {"prompt": "x", "custom_token_bans": "9" * 5000}),
]


@pytest.fixture
def server(home):
    """The real server process with two LoRAs."""
    make_tiny_service(home).unload()
    with clients.start_server("tiny", loras=["shift", "twist"], extra=["--dtype", "float32"]) as running:
        yield running


def send(server, kind, path, body):
    url = server.openai_url if kind == "openai" else server.raw_url
    return requests.post(url + path, json=body, timeout=300)


def complete(server, model, prompt):
    reply = send(
        server,
        "openai",
        "/completions",
        {"model": model, "prompt": prompt, "max_tokens": 12, "temperature": 0},
    )
    return reply.status_code, reply.json()["choices"][0]["text"]


def stream(server, model, prompt):
    body = {"model": model, "prompt": prompt, "max_tokens": 12, "temperature": 0, "stream": True}
    reply = send(server, "openai", "/completions", body)
    *events, last = [line.removeprefix("data: ") for line in reply.text.splitlines() if line]
    assert last == "[DONE]"
    return reply.status_code, "".join(json.loads(event)["choices"][0]["text"] for event in events)


def generate(server, _, prompt):
    reply = send(
        server, "raw", "/api/v1/generate", {"prompt": prompt, "max_new_tokens": 12, "do_sample": False}
    )
    return reply.status_code, reply.json()["results"][0]["text"]


def generate_streamed(server, _, prompt):
    pieces = clients.stream_raw(prompt, url=server.streaming_url, max_new_tokens=12, do_sample=False)
    return 200, "".join(pieces)


# Those that behave badly. Each returns a status; whom nobody answered, 0.


def leave(server, drawn):
    """Asks for a long answer and goes away."""
    body = {"prompt": "x", "max_tokens": 1500, "stream": drawn.random() < 0.5}
    with contextlib.suppress(requests.RequestException):
        requests.post(server.openai_url + "/completions", json=body, timeout=(5, 0.3), stream=True).close()
    return 0


def leave_socket(server, drawn):
    with connect(server.streaming_url + "/api/v1/stream") as opened:
        opened.send(json.dumps({"prompt": "x", "max_new_tokens": 1500}))
        opened.recv(60)
    return 0


def send_slowly(server, drawn):
    """Needs half a second for its body, and gets an answer."""
    body = json.dumps({"prompt": "Hi", "max_tokens": 2}).encode()
    address = urlsplit(server.openai_url)
    with socket.create_connection((address.hostname, address.port), 60) as line:
        head = f"POST /v1/completions HTTP/1.0\r\nHost: localhost\r\nContent-Length: {len(body)}\r\n"
        line.sendall(head.encode() + b"Content-Type: application/json\r\n\r\n")
        for start in range(0, len(body), 8):
            line.sendall(body[start : start + 8])
            time.sleep(0.1)
        return int(line.recv(4096).split()[1])


def talk_nonsense(server, drawn):
    """Sends what is not HTTP, or half of it."""
    address = urlsplit(server.openai_url)
    with socket.create_connection((address.hostname, address.port), 60) as line:
        line.sendall(drawn.choice([b"\x00" * 500, b"GET /v1/models HT", b"POST / HTTP/1.1\r\nHost: x\r\n"]))
    return 0


def ask_wrongly(server, drawn):
    return send(server, *drawn.choice(WRONG)).status_code


RUDE = [leave, leave_socket, send_slowly, talk_nonsense, ask_wrongly]
POLITE = [complete, stream, generate, generate_streamed]


def draw_calls(server, alone, count):
    """`count` calls: seven in ten are polite; each returns a status and whether its answer is right."""
    drawn = random.Random(0)

    def ask(kind, key, call):
        status, text = call()
        return kind, status, text == alone[key]

    def disturb(action, seed):
        return action.__name__, action(server, random.Random(seed)), True

    calls = []
    for number in range(count):
        if drawn.random() < 0.7:
            key = drawn.choice(list(alone))
            action, model, prompt = key
            calls.append(partial(ask, action.__name__, key, partial(action, server, model, prompt)))
        else:
            calls.append(partial(disturb, drawn.choice(RUDE), number))
    return calls


def bear(server, count):
    """(how many replies had each status, wrong answers, growth of memory as a share)."""
    alone = {
        (action, model, prompt): action(server, model, prompt)[1]
        for action in POLITE
        for model in (("tiny", "shift", "twist") if action in (complete, stream) else ("",))
        for prompt in PROMPTS
    }
    process = psutil.Process(server.process.pid)
    with ThreadPoolExecutor(CLIENTS) as pool:
        list(pool.map(lambda call: call(), draw_calls(server, alone, 6 * CLIENTS)))  # full batches
        before = process.memory_info().rss
        results = list(pool.map(lambda call: call(), draw_calls(server, alone, count)))
    growth = process.memory_info().rss / before - 1
    statuses = Counter((kind, status) for kind, status, _ in results)
    return SimpleNamespace(
        statuses=statuses, wrong=[kind for kind, _, right in results if not right], growth=growth
    )


@pytest.mark.parametrize(
    "count", [pytest.param(200, marks=pytest.mark.long), pytest.param(2000, marks=pytest.mark.slow)]
)
@pytest.mark.timeout(3600)
def test_load_with_rude_clients_gives_no_wrong_answer_no_5xx_and_memory_stays(server, count):
    borne = bear(server, count)
    print(count, dict(borne.statuses), f"growth {borne.growth:.2%}")
    assert borne.wrong == []
    assert [status for _, status in borne.statuses if status >= 500] == []
    assert {status for kind, status in borne.statuses if kind in ("complete", "stream", "send_slowly")} == {
        200
    }
    assert borne.growth < 0.05
    assert requests.get(server.openai_url.removesuffix("/v1") + "/health", timeout=9).status_code == 200
    server.log.seek(0)
    assert "Traceback" not in server.log.read()
