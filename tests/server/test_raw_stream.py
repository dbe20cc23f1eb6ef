import contextlib
import html
import json
import time
from itertools import pairwise

import pytest
from fastapi.testclient import TestClient
from starlette.testclient import WebSocketDenialResponse
from starlette.websockets import WebSocketDisconnect
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
    with (
        TestClient(make_streaming_app(Service(engine=engine), **settings)) as http,
        http.websocket_connect(f"/api/v1/{path}") as socket,
    ):
        yield socket


def ask(socket, **body):
    """The events of one request."""
    socket.send_json(body)
    return read(socket)


def read(socket):
    events = [socket.receive_json()]
    while events[-1]["event"] == "text_stream":
        events.append(socket.receive_json())
    assert [event["message_num"] for event in events] == list(range(len(events)))
    return events


@contextlib.contextmanager
def run_streaming(engine):
    """The streaming port for real; gives its address."""
    with serve_app(make_streaming_app(Service(engine=engine))) as address:
        yield address.replace("http", "ws")


def test_text_comes_in_pieces_after_an_empty_first_one():
    with open_socket(ScriptedEngine([" a", "b", " <c>"])) as socket:
        events = ask(socket, prompt="x")
    assert [event["text"] for event in events[:-1]] == ["", " a", "b", " <c>"]
    assert events[-1] == {"event": "stream_end", "message_num": 4}


def test_chat_comes_as_the_whole_history_growing():
    with open_socket(ScriptedEngine([" <", "i", ">"], pause_s=0.05), "chat-stream") as socket:
        events = ask(socket, user_input="&", history=PAST)
    rows = [(event["history"]["internal"][1], event["history"]["visible"][1]) for event in events[:-1]]
    assert rows[0] == (["&", "<"], ["&amp;", "&lt;"]) and rows[-1] == (["&", "<i>"], ["&amp;", "&lt;i&gt;"])
    assert (
        all(event["history"]["internal"][0] == ["Hi", "Hel"] for event in events[:-1])
        and events[-1]["event"] == "stream_end"
    )


def test_chat_is_lengthened():
    with open_socket(ScriptedEngine(["lo", "!"]), "chat-stream") as socket:
        assert ask(socket, user_input="", history=PAST, _continue=True)[-2]["history"]["internal"] == [
            ["Hi", "Hello!"]
        ]


def test_chat_without_a_question_comes_back_unchanged():
    empty = {"internal": [], "visible": []}
    with open_socket(ScriptedEngine(), "chat-stream") as socket:
        assert ask(socket, user_input="x", history=empty, regenerate=True) == [
            {"event": "text_stream", "message_num": 0, "history": empty},
            {"event": "stream_end", "message_num": 1},
        ]


def test_updates_are_few_and_the_last_one_has_all():
    seconds, pieces = 0.5, 100
    with open_socket(ScriptedEngine(["x"] * pieces, pause_s=seconds / pieces), "chat-stream") as socket:
        began = time.monotonic()
        events = ask(socket, user_input="Hi")
        took = time.monotonic() - began
    assert 3 <= len(events) - 1 <= took * UPDATES_S + 2 < pieces
    assert events[-2]["history"]["internal"][0][1] == "x" * pieces


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
        whole = http.post("/api/v1/chat", json=body).json()
        text = http.post("/api/v1/generate", json={**body, "prompt": "Hi"}).json()["results"][0]["text"]
    with open_socket(engine, "chat-stream") as socket:
        events = ask(socket, **body)
    assert {"history": events[-2]["history"]} == whole["results"][0]
    assert {name: events[-1][name] for name in ("ignored", "prompt_as_built")} == {
        name: whole[name] for name in ("ignored", "prompt_as_built")
    }
    with open_socket(engine) as socket:
        assert "".join(event["text"] for event in ask(socket, **{**body, "prompt": "Hi"})[:-1]) == text


@pytest.mark.parametrize(
    ("path", "sent", "param"),
    [("stream", "{oops", None), ("stream", "[1]", "body"), ("stream", '{"max_new_tokens": 3}', "prompt"), ("chat-stream", "{}", "user_input"),
     ("chat-stream", '{"user_input": "x", "instruction_template": "Nobody"}', "instruction_template"),
     ("stream", '{"prompt": "\\ud800"}', "prompt"), ("stream", '{"prompt": "x", "temperature": NaN}', "temperature")],
)  # fmt: skip
def test_wrong_request_is_an_event_with_the_field_and_the_end_of_the_connection(path, sent, param):
    with open_socket(ScriptedEngine(), path) as socket:
        socket.send_text(sent)
        event = socket.receive_json()
        assert event["event"] == "error" and event["error"]["param"] == param and event["error"]["message"]
        with pytest.raises(WebSocketDisconnect) as closed:
            socket.receive_json()
    assert closed.value.code == 1011 and closed.value.reason and len(closed.value.reason.encode()) <= 123


def test_engine_that_fails_in_mid_answer_is_told():
    engine = ScriptedEngine()
    engine.run = lambda request, emit, job: job.set_exception(ZeroDivisionError())
    with open_socket(engine) as socket:
        events = ask(socket, prompt="x")
        assert events[-1]["event"] == "error" and events[-1]["error"]["type"] == "server_error"


def test_no_model_is_told():
    with open_socket(None) as socket:
        assert "No model is loaded" in ask(socket, prompt="x")[0]["error"]["message"]


def test_socket_asks_for_the_key_when_there_is_one():
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
    assert reply.status_code == 404 and reply.json()["error"]["code"] == "unknown_url"


def test_stop_stream_of_the_blocking_port_ends_what_streams():
    engine, running = ScriptedEngine(["x "] * 1000, pause_s=0.01), RunningRequests()
    with (
        TestClient(make_raw_app(Service(engine=engine), running=running)) as http,
        open_socket(engine, running=running) as socket,
    ):
        socket.send_json({"prompt": "x"})
        while socket.receive_json()["message_num"] < 3:
            pass
        http.post("/api/v1/stop-stream", json={})
        while (event := socket.receive_json())["event"] == "text_stream":
            pass
    assert event["event"] == "stream_end" and event["message_num"] < 900


@pytest.mark.parametrize("path", ["stream", "chat-stream"])
@pytest.mark.parametrize("manner", ["closes", "vanishes", "sends ahead and vanishes"])
def test_client_that_leaves_ends_the_answer_within_a_second(path, manner):
    engine = ScriptedEngine(["x "] * 1000, pause_s=0.01)
    with run_streaming(engine) as url:
        client = connect(f"{url}/api/v1/{path}")
        for _ in range(3 if manner == "sends ahead and vanishes" else 1):
            client.send(json.dumps({"prompt": "x", "user_input": "x"}))
        client.recv()
        client.recv()
        left = time.monotonic()
        client.close() if manner == "closes" else client.socket.close()
        assert engine.ended.wait(5) and time.monotonic() - left < 1 and engine.sent < 200
        time.sleep(0.1)
        assert len(engine.requests) == 1  # what was sent ahead is never begun


def test_clients_of_the_kit_read_both_streams():
    with run_streaming(ScriptedEngine(["<b>", " & ", "so"])) as url:
        assert list(clients.stream_raw("x", url=url)) == ["", "<b>", " & ", "so"]
        *_, last = clients.stream_chat_raw("Hi", url=url)
    assert html.unescape(last["visible"][0][1]) == last["internal"][0][1] == "<b> & so"


def test_server_ends_while_a_client_is_connected():
    with run_streaming(ScriptedEngine()) as url:
        idle = connect(f"{url}/api/v1/stream")
        idle.send(json.dumps({"prompt": "x"}))
        events = [json.loads(idle.recv()) for _ in range(4)]
    assert events[-1]["event"] == "stream_end"


def test_events_come_while_the_answer_is_computed():
    with (
        run_streaming(ScriptedEngine(["x"] * 5, pause_s=0.1)) as url,
        connect(f"{url}/api/v1/stream") as client,
    ):
        client.send(json.dumps({"prompt": "x"}))
        times = [(client.recv(), time.monotonic())[1] for _ in range(6)]
    assert all(after - before > 0.05 for before, after in pairwise(times))
