"""The raw API's websockets, in memory and over real connections."""

import contextlib
import html
import itertools
import json
import threading
from types import SimpleNamespace

import pytest
from fastapi import WebSocketDisconnect
from fastapi.testclient import TestClient
from starlette.testclient import WebSocketDenialResponse
from support.scripted_engine import ScriptedEngine
from support.server import serve_app
from websockets.sync.client import connect

from helpers import clients
from helpers.generation.transformers_engine import TransformersEngine
from helpers.server.raw_answers import RunningRequests
from helpers.server.raw_api import make_raw_app
from helpers.server.raw_stream import UPDATES_S, make_streaming_app
from helpers.server.service import Service

PAST = {"internal": [["Hi", "Hel"]], "visible": [["Hi", "Hel"]]}


@contextlib.contextmanager
def open_socket(engine, path="stream", **settings):
    app = make_streaming_app(Service(engine=engine), **settings)
    with TestClient(app) as http, http.websocket_connect(f"/api/v1/{path}") as socket:
        yield socket


def ask(socket, **body):
    """The events of one request."""
    socket.send_json(body)
    return read(socket)


def read(socket):
    """The events up to the one that ends an answer; they are numbered."""
    events = [socket.receive_json()]
    while events[-1]["event"] == "text_stream":
        events.append(socket.receive_json())
    assert [event["message_num"] for event in events] == list(range(len(events)))
    return events


@contextlib.contextmanager
def run_streaming(engine):
    """The address of a streaming port with real connections."""
    with serve_app(make_streaming_app(Service(engine=engine))) as address:
        yield address.replace("http", "ws")


def test_text_comes_in_pieces_after_an_empty_first_one():
    with open_socket(ScriptedEngine([" a", "b", " <c>"])) as socket:
        events = ask(socket, prompt="x")
    assert [event["text"] for event in events[:-1]] == ["", " a", "b", " <c>"]
    assert events[-1] == {"event": "stream_end", "message_num": 4}


def test_chat_comes_as_a_growing_history():
    with open_socket(ScriptedEngine([" <", "i", ">"], pause_s=0.05), "chat-stream") as socket:
        *updates, end = ask(socket, user_input="&", history=PAST)
    histories = [update["history"] for update in updates]
    assert (histories[0]["internal"][1], histories[0]["visible"][1]) == (["&", "<"], ["&amp;", "&lt;"])
    last = histories[-1]
    assert (last["internal"][1], last["visible"][1]) == (["&", "<i>"], ["&amp;", "&lt;i&gt;"])
    assert all(history["internal"][0] == ["Hi", "Hel"] for history in histories)
    assert end["event"] == "stream_end"


def test_reply_is_lengthened():
    with open_socket(ScriptedEngine(["lo", "!"]), "chat-stream") as socket:
        events = ask(socket, user_input="", history=PAST, _continue=True)
    assert events[-2]["history"]["internal"] == [["Hi", "Hello!"]]


def test_chat_without_a_question_comes_back_unchanged():
    empty = {"internal": [], "visible": []}
    with open_socket(ScriptedEngine(), "chat-stream") as socket:
        assert ask(socket, user_input="x", history=empty, regenerate=True) == [
            {"event": "text_stream", "message_num": 0, "history": empty},
            {"event": "stream_end", "message_num": 1},
        ]


def test_updates_are_few_and_the_last_one_has_everything(monkeypatch):
    ticks = itertools.count()
    clock = SimpleNamespace(monotonic=lambda: next(ticks) / (4 * UPDATES_S))  # looked at once a piece
    monkeypatch.setattr("helpers.server.raw_stream.time", clock)
    pieces = 100
    with open_socket(ScriptedEngine(["x"] * pieces), "chat-stream") as socket:
        *updates, _ = ask(socket, user_input="Hi")
    assert 3 <= len(updates) < pieces / 2
    assert updates[-1]["history"]["internal"][0][1] == "x" * pieces


def test_requests_follow_one_another_on_a_connection():
    with open_socket(ScriptedEngine(["a", "b"])) as socket:
        first = ask(socket, prompt="x")
        assert ask(socket, prompt="y") == first
        for prompt in "zvw":  # sent ahead
            socket.send_text(json.dumps({"prompt": prompt}))
        assert [read(socket) for _ in range(3)] == [first] * 3
        socket.send_bytes(json.dumps({"prompt": "as bytes"}).encode())
        assert read(socket) == first


def test_stream_and_whole_answer_have_the_same_text(tiny):
    engine = TransformersEngine(tiny)
    body = {"user_input": "Hi", "do_sample": False, "max_new_tokens": 24, "debug_prompt": True, "nonsense": 1}
    with TestClient(make_raw_app(Service(engine=engine))) as http:
        chatted = http.post("/api/v1/chat", json=body).json()
        generated = http.post("/api/v1/generate", json={**body, "prompt": "Hi"}).json()
    with open_socket(engine, "chat-stream") as socket:
        *updates, end = ask(socket, **body)
    assert {"history": updates[-1]["history"]} == chatted["results"][0]
    assert end["ignored"] == chatted["ignored"]
    assert end["prompt_as_built"] == chatted["prompt_as_built"]
    with open_socket(engine) as socket:
        *pieces, _ = ask(socket, **{**body, "prompt": "Hi"})
    assert "".join(piece["text"] for piece in pieces) == generated["results"][0]["text"]


UNKNOWN_TEMPLATE = '{"user_input": "x", "instruction_template": "Nobody"}'


@pytest.mark.parametrize(
    ("path", "sent", "param"),
    [
        ("stream", "{oops", None),
        ("stream", "[1]", "body"),
        ("stream", '{"max_new_tokens": 3}', "prompt"),
        ("stream", '{"prompt": "\\ud800"}', "prompt"),
        ("stream", '{"prompt": "x", "temperature": NaN}', "temperature"),
        ("chat-stream", "{}", "user_input"),
        ("chat-stream", UNKNOWN_TEMPLATE, "instruction_template"),
    ],
)
def test_wrong_request_is_an_error_event_and_ends_the_connection(path, sent, param):
    with open_socket(ScriptedEngine(), path) as socket:
        socket.send_text(sent)
        event = socket.receive_json()
        with pytest.raises(WebSocketDisconnect) as closed:
            socket.receive_json()
    assert (event["event"], event["error"]["param"]) == ("error", param)
    assert event["error"]["message"]
    assert closed.value.code == 1011
    assert 0 < len(closed.value.reason.encode()) <= 123


def test_error_event_is_numbered_from_its_own_request():
    with open_socket(ScriptedEngine()) as socket:
        ask(socket, prompt="x")
        assert [event["event"] for event in ask(socket)] == ["error"]


class FailingEngine(ScriptedEngine):
    """Fails instead of answering."""

    def run(self, request, emit, job):
        job.set_exception(ZeroDivisionError())


def test_engine_that_fails_is_an_error_event():
    with open_socket(FailingEngine()) as socket:
        *_, last = ask(socket, prompt="x")
    assert (last["event"], last["error"]["type"]) == ("error", "server_error")


def test_missing_model_is_an_error_event():
    with open_socket(None) as socket:
        (event,) = ask(socket, prompt="x")
    assert (event["event"], event["error"]["type"]) == ("error", "server_error")
    assert event["error"]["message"]


def test_socket_asks_for_the_key_if_there_is_one():
    with pytest.raises(WebSocketDenialResponse) as refused, open_socket(ScriptedEngine(), api_key="secret"):
        pass
    assert refused.value.status_code == 401


def test_unknown_path_closes_normally():
    with open_socket(ScriptedEngine(), "nope") as socket, pytest.raises(WebSocketDisconnect) as closed:
        socket.receive_json()
    assert closed.value.code == 1000


def test_plain_http_on_the_streaming_port_is_a_404_of_the_usual_shape():
    with TestClient(make_streaming_app(Service(engine=ScriptedEngine()))) as http:
        reply = http.post("/api/v1/chat", json={"user_input": "x"})
    assert (reply.status_code, reply.json()["error"]["code"]) == (404, "unknown_url")


def test_stop_stream_on_the_blocking_port_ends_what_streams():
    engine = ScriptedEngine(["x "] * 1000, pause_s=0.01)
    running = RunningRequests()
    app = make_raw_app(Service(engine=engine), running=running)
    with TestClient(app) as http, open_socket(engine, running=running) as socket:
        socket.send_json({"prompt": "x"})
        while socket.receive_json()["message_num"] < 3:
            pass
        http.post("/api/v1/stop-stream", json={})
        event = socket.receive_json()
        while event["event"] == "text_stream":
            event = socket.receive_json()
    assert event["event"] == "stream_end"
    assert event["message_num"] < 1000


@pytest.mark.parametrize("path", ["stream", "chat-stream"])
@pytest.mark.parametrize("manner", ["closes", "vanishes", "sends ahead and vanishes"])
def test_client_that_leaves_ends_its_answer_and_begins_no_other(path, manner):
    engine = ScriptedEngine(["x "] * 100_000, pause_s=0.01)  # would take a quarter of an hour
    with run_streaming(engine) as url:
        client = connect(f"{url}/api/v1/{path}")
        for _ in range(3 if manner == "sends ahead and vanishes" else 1):
            client.send(json.dumps({"prompt": "x", "user_input": "x"}))
        client.recv()
        client.recv()
        if manner == "closes":
            client.close()
        else:
            client.socket.close()
        assert engine.ended.wait(60)
    assert engine.sent < 100_000
    assert len(engine.requests) == 1


def test_clients_of_the_kit_read_both_streams():
    with run_streaming(ScriptedEngine(["<b>", " & ", "so"])) as url:
        assert list(clients.stream_raw("x", url=url)) == ["", "<b>", " & ", "so"]
        *_, last = clients.stream_chat_raw("Hi", url=url)
    assert html.unescape(last["visible"][0][1]) == last["internal"][0][1] == "<b> & so"


def test_answer_without_a_word_is_not_taken_for_a_missing_model():
    with run_streaming(ScriptedEngine([])) as url:
        assert list(clients.stream_raw("x", url=url)) == ["", ""]


def test_server_ends_while_a_client_is_connected():
    with run_streaming(ScriptedEngine()) as url:
        idle = connect(f"{url}/api/v1/stream")
        idle.send(json.dumps({"prompt": "x"}))
        events = [json.loads(idle.recv()) for _ in range(4)]
    assert events[-1]["event"] == "stream_end"


def test_events_come_while_the_answer_is_computed():
    wanted = threading.Semaphore(0)

    def make_pieces():
        for number in range(5):
            assert wanted.acquire(timeout=60)
            yield str(number)

    with run_streaming(ScriptedEngine(make_pieces())) as url, connect(f"{url}/api/v1/stream") as client:
        client.send(json.dumps({"prompt": "x"}))
        assert json.loads(client.recv())["text"] == ""
        for number in range(5):  # the next piece is computed only when the one before has come
            wanted.release()
            assert json.loads(client.recv(timeout=60))["text"] == str(number)
