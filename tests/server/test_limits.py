"""What one client may take from the others: connections, time, depth, names, numbers."""

import contextlib
import json
import os
import socket
import subprocess
import sys
import threading
import time
from types import SimpleNamespace
from urllib.parse import urlsplit

import pytest
import requests
import websockets
from support.scripted_engine import ScriptedEngine
from support.server import serve_app
from websockets.sync.client import connect

from helpers.common.errors import UsageError
from helpers.server import connections, request_bodies
from helpers.server.connections import SPARE_CONNECTIONS, Connections, Place, measure_room
from helpers.server.fields import MAX_COUNTED
from helpers.server.openai_api import make_openai_app
from helpers.server.openai_messages import MAX_MESSAGES
from helpers.server.ports import find_port
from helpers.server.raw_answers import RunningRequests
from helpers.server.raw_api import make_raw_app
from helpers.server.raw_prompts import MAX_PROMPT
from helpers.server.raw_stream import make_streaming_app
from helpers.server.request_bodies import MAX_DEPTH
from helpers.server.service import MAX_LORAS, ModelChoice, Service
from helpers.server.threads import THREADS

ASK = {"prompt": "x", "max_tokens": 3}
FORMS = ("text/plain", "multipart/form-data; boundary=x", "application/x-www-form-urlencoded", "", None)


@pytest.fixture(scope="module")
def ports():
    """The addresses of the three ports, over a scripted engine."""
    service = Service(engine=ScriptedEngine())
    running = RunningRequests()
    with (
        serve_app(make_raw_app(service, running=running)) as raw,
        serve_app(make_streaming_app(service, running=running)) as streaming,
        serve_app(make_openai_app(service)) as openai,
    ):
        yield SimpleNamespace(raw=raw, streaming=streaming.replace("http", "ws"), openai=openai)


def open_line(url, source="127.0.0.1"):
    address = urlsplit(url)
    return socket.create_connection((address.hostname, address.port), 20, (source, 0))


def read_all(line):
    """What comes until the server closes the connection."""
    received = b""
    with contextlib.suppress(ConnectionResetError):
        while part := line.recv(65536):
            received += part
    return received


def measure(action):
    started = time.monotonic()
    action()
    return time.monotonic() - started


# What a page of elsewhere can send


POSTS = {
    "raw": {f"/api/v1/{name}" for name in ("stop-stream", "generate", "chat", "model", "token-count")},
    "openai": {"/v1/chat/completions", "/v1/completions", "/v1/responses", "/tokenize"},
}


@pytest.mark.parametrize("kind", FORMS)
@pytest.mark.parametrize(
    ("port", "path"), [(port, path) for port, paths in POSTS.items() for path in sorted(paths)]
)
def test_no_route_takes_a_body_that_any_page_can_send(ports, kind, port, path):
    body = json.dumps({"action": "unload", "prompt": "x", "user_input": "x", "messages": []}).encode()
    headers = {} if kind is None else {"Content-Type": kind}
    reply = requests.post(getattr(ports, port) + path, data=body, headers=headers, timeout=9)
    assert (reply.status_code, reply.json()["error"]["code"]) == (415, "not_json")


def test_every_post_of_the_two_apis_is_in_the_list_above(ports):
    for port, listed in POSTS.items():
        paths = requests.get(getattr(ports, port) + "/openapi.json", timeout=9).json()["paths"]
        assert {path for path, methods in paths.items() if "post" in methods} == listed


@pytest.mark.parametrize("method", ["POST", "PUT", "DELETE", "TRACE"])
def test_wrong_method_is_refused_as_such(ports, method):
    assert requests.request(method, ports.raw + "/health", timeout=9).status_code == 405


@pytest.mark.parametrize("page", ["https://evil.example", "null"])
def test_body_of_a_page_of_elsewhere_is_refused_though_it_is_json(ports, page):
    reply = requests.post(ports.raw + "/api/v1/stop-stream", json={}, headers={"Origin": page}, timeout=9)
    assert (reply.status_code, reply.json()["error"]["code"]) == (403, "foreign_origin")


@pytest.mark.parametrize(
    "kind", ["application/json", "Application/JSON; charset=utf-8", "application/x+json"]
)
def test_json_is_taken_by_all_its_names(ports, kind):
    reply = requests.post(
        ports.openai + "/v1/completions", data=json.dumps(ASK), headers={"Content-Type": kind}, timeout=9
    )
    assert reply.status_code == 200


# Depth, names, numbers


def nest(depth):
    return "[" * depth + "]" * depth


@pytest.mark.parametrize("depth", [MAX_DEPTH, 900, 100_000])
def test_deep_json_is_refused_over_http_and_websocket(ports, depth):
    body = f'{{"prompt": "x", "more": {nest(depth)}}}'
    reply = requests.post(
        ports.raw + "/api/v1/generate", data=body, headers={"Content-Type": "application/json"}, timeout=9
    )
    assert (reply.status_code, reply.json()["error"]["code"]) == (400, "json_invalid")
    with connect(ports.streaming + "/api/v1/stream") as opened:
        opened.send(body)
        assert json.loads(opened.recv(9))["error"]["code"] == "json_invalid"
        with pytest.raises(websockets.ConnectionClosedError) as closed:
            opened.recv(9)
        assert closed.value.rcvd.code == 1011


def test_brackets_in_texts_and_side_by_side_have_no_depth(ports):
    body = {"prompt": '[{"\\' * 500, "more": [[], {}] * 500, "edge": json.loads(nest(MAX_DEPTH - 1))}
    reply = requests.post(ports.raw + "/api/v1/generate", json=body, timeout=9)
    assert reply.status_code == 200


@pytest.mark.parametrize("kind", ["prompt", "seed"])
def test_number_of_many_digits_is_a_400(ports, kind):
    body = f'{{"prompt": "x", "{kind}": {"9" * 5000}}}'.encode()
    reply = requests.post(
        ports.raw + "/api/v1/generate", data=body, headers={"Content-Type": "application/json"}, timeout=9
    )
    assert reply.status_code == 400


@pytest.mark.parametrize("bans", ["9" * 5000, "5," * 5000 + "5", "5,,6"])
def test_token_bans_that_cannot_be_are_a_400_that_names_them(ports, bans):
    body = {"prompt": "x", "custom_token_bans": bans}
    reply = requests.post(ports.raw + "/api/v1/generate", json=body, timeout=9)
    assert (reply.status_code, reply.json()["error"]["param"]) == (400, "custom_token_bans")


@pytest.mark.parametrize(
    "name", ["a\0b", "x" * 256, "é" * 200, "x/" * 5000, "a\nb", "a/" + "x" * 300 + ".gguf"]
)
def test_model_name_that_no_folder_has_is_a_400(ports, name):
    reply = requests.post(ports.raw + "/api/v1/model", json={"action": "load", "model_name": name}, timeout=9)
    assert (reply.status_code, reply.json()["error"]["param"]) == (400, "model_name")


@pytest.mark.parametrize(
    "loras", [[f"l{n}" for n in range(3000)], ["x\0"], ["x" * 300], [1], {"a": 1}, "x\0"]
)
def test_list_of_loras_that_cannot_be_is_a_400_at_once(ports, loras):
    body = {"action": "load", "model_name": "tiny", "args": {"lora": loras}}
    reply = requests.post(ports.raw + "/api/v1/model", json=body, timeout=9)
    assert (reply.status_code, reply.json()["error"]["param"]) == (400, "args.lora")


@pytest.mark.parametrize("loras", [tuple(f"l{n}" for n in range(MAX_LORAS + 1)), ("shift", "shift")])
def test_service_refuses_too_many_loras_and_the_same_one_twice(server_home, loras):
    service = Service(server_home / "models", server_home / "loras")
    with pytest.raises(UsageError, match=r"too many|twice"):
        service.load(ModelChoice("tiny", loras))


class SlowService(Service):
    """Loads until it is told to end."""

    def load(self, choice):
        self.begun = True
        time.sleep(1)
        raise UsageError("Not here.", "None.")


def test_loads_do_not_queue():
    service = SlowService(engine=ScriptedEngine())
    load = {"action": "load", "model_name": "x"}
    with serve_app(make_raw_app(service)) as url:
        first = threading.Thread(target=requests.post, args=(url + "/api/v1/model",), kwargs={"json": load})
        first.start()
        while not hasattr(service, "begun"):
            time.sleep(0.01)
        second = requests.post(url + "/api/v1/model", json=load, timeout=9)
        assert (second.status_code, second.json()["error"]["code"]) == (409, "model_is_changing")
        assert requests.post(url + "/api/v1/generate", json={"prompt": "x"}, timeout=9).status_code == 200
        first.join()


# Time


@pytest.fixture
def hasty(monkeypatch):
    """All times are half a second."""
    for module, name in (
        (connections, "HEAD_S"),
        (connections, "SPARE_S"),
        (connections, "WRITE_S"),
        (request_bodies, "BODY_S"),
    ):
        monkeypatch.setattr(module, name, 0.5)
    monkeypatch.setattr("helpers.server.raw_stream.IDLE_S", 0.5)


HEAD = b"POST /v1/completions HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"


@pytest.mark.parametrize("sent", [b"", b"GET / HT", HEAD], ids=["nothing", "a line", "a head"])
def test_connection_without_a_whole_head_is_closed(ports, hasty, sent):
    with open_line(ports.openai) as line:
        line.sendall(sent)
        assert measure(lambda: read_all(line)) < 3


def test_head_that_comes_byte_by_byte_is_not_waited_for(ports, hasty):
    with open_line(ports.openai) as line, pytest.raises(OSError):  # noqa: PT011, a reset or a broken pipe
        for byte in HEAD * 10:
            line.sendall(bytes([byte]))
            time.sleep(0.05)


def test_second_head_has_a_time_too(ports, hasty):
    with open_line(ports.openai) as line:
        line.sendall(b"GET /health HTTP/1.1\r\nHost: localhost\r\n\r\n")
        assert b"200 OK" in line.recv(4096)
        line.sendall(b"GET /hea")
        assert measure(lambda: read_all(line)) < 3


def test_body_that_does_not_come_is_a_408(ports, hasty):
    with open_line(ports.openai) as line:
        line.sendall(HEAD + b"Content-Length: 100\r\n\r\n{")
        reply = read_all(line)
    assert reply.startswith(b"HTTP/1.1 408")
    assert b"too_slow" in reply


def test_client_that_takes_nothing_is_cut_off(hasty):
    engine = ScriptedEngine(["x" * 100_000] * 1000)
    with serve_app(make_openai_app(Service(engine=engine))) as url, open_line(url) as line:
        body = json.dumps({**ASK, "stream": True}).encode()
        line.sendall(HEAD + b"Content-Length: %d\r\n\r\n" % len(body) + body)
        assert engine.ended.wait(20)
        time.sleep(2)  # it is cut off while it takes nothing
        assert len(read_all(line)) < 50_000_000


def test_websocket_without_a_request_is_closed_normally(ports, hasty):
    with connect(ports.streaming + "/api/v1/stream") as opened:
        with pytest.raises(websockets.ConnectionClosedOK) as closed:
            opened.recv(9)
        assert "No request" in closed.value.rcvd.reason


UPGRADE = (
    b"Host: localhost\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Version: 13\r\n"
    b"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n"
)


@pytest.mark.parametrize(
    ("line", "more"),
    [
        (b"POST /api/v1/stream HTTP/1.1", b"Content-Length: 3\r\n"),
        (b"GET /api/v1/stream HTTP/1.1", b"Content-Length: 3\r\n"),
        (b"GET /api/v1/stream HTTP/1.1", b"X: y\r\n" * 200),
        (b"GET /api/v1/stream HTTP/1.1", b"X: " + b"y" * 9000 + b"\r\n"),
    ],
    ids=["post", "body", "many headers", "long header"],
)
def test_websocket_whose_handshake_cannot_be_is_a_400_and_frees_its_place(line, more):
    places = Connections(16)
    with serve_app(make_streaming_app(Service(engine=ScriptedEngine()), "sesame"), places) as url:
        with open_line(url) as opened:
            opened.settimeout(9)
            opened.sendall(line + b"\r\n" + UPGRADE + more + b"\r\n")
            assert read_all(opened).startswith(b"HTTP/1.1 400")
        wait_until(lambda: not places._sockets)


def wait_until(condition):
    deadline = time.monotonic() + 9
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.02)


# Connections


def test_places_are_for_many_clients_and_then_for_health_checks():
    places = Connections(most=6)
    got = [places.enter(client) for client in ("a", "a", "a", "a", "b", "b", "b", "c")]
    regular, spare = Place.REGULAR, Place.SPARE
    assert got == [regular, regular, regular, spare, regular, regular, regular, spare]
    for _ in range(SPARE_CONNECTIONS - 2):
        assert places.enter("d") is spare
    assert places.enter("d") is Place.NONE
    places.leave("a", regular)
    assert places.enter("a") is regular


def test_ended_connections_give_their_places_back():
    service = Service(engine=ScriptedEngine())
    with serve_app(make_streaming_app(service), Connections(8)) as url:
        for _ in range(3):
            for _ in range(4):
                with connect(url.replace("http", "ws") + "/api/v1/stream"):
                    pass
                open_line(url).close()
            lines = [open_line(url) for _ in range(50)]
            for line in lines:
                line.close()
            time.sleep(0.3)
        with connect(url.replace("http", "ws") + "/api/v1/stream") as opened:
            opened.send('{"prompt": "x"}')
            assert json.loads(opened.recv(9))["event"] == "text_stream"


FLOODED = """
import resource, sys
resource.setrlimit(resource.RLIMIT_NOFILE, (512, 512))
from helpers.common.command import run_command
from helpers.server.__main__ import main
sys.exit(run_command(main))
"""


@pytest.mark.long
@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="only Linux has all of 127.0.0.0/8")
def test_700_idle_sockets_do_not_stop_a_server_that_may_open_512_files(at_home):
    port = find_port(5001)
    arguments = ["--model", "tiny", "--extensions", "openai", "--openai-port", str(port)]
    arguments += ["--listen", "--no-api-key", "--dtype", "float32"]
    server = subprocess.Popen([sys.executable, "-c", FLOODED, *arguments], stderr=subprocess.PIPE)
    url = f"http://127.0.0.1:{port}"
    with server, contextlib.ExitStack() as held:
        try:
            wait_for(url)
            for number in range(700):
                with contextlib.suppress(OSError):
                    held.enter_context(open_line(url, f"127.0.0.{2 + number % 3}"))
            asked = time.monotonic()
            assert find_health(url) == 200
            refused = requests.post(url + "/v1/completions", json=ASK, timeout=20)
            assert refused.status_code in (200, 503)
            assert time.monotonic() - asked < 20  # other tests may run beside it
            wait_for_room(url)  # the idle ones are closed after ten seconds
        finally:
            server.terminate()
        assert b"Too many open files" not in server.stderr.read()


def wait_for_room(url):
    """Asks until there is an answer; AssertionError after a minute."""
    deadline = time.monotonic() + 60
    while requests.post(url + "/v1/completions", json=ASK, timeout=20).status_code != 200:
        assert time.monotonic() < deadline
        time.sleep(1)


def wait_for(url):
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        with contextlib.suppress(requests.ConnectionError):
            return requests.get(url + "/health", timeout=9)
        time.sleep(0.2)
    raise AssertionError("the server does not start")


def find_health(url):
    """The status of the first health check that gets through; a watcher asks more than once."""
    for _ in range(20):
        with contextlib.suppress(requests.RequestException):
            return requests.get(url + "/health", timeout=2).status_code
        time.sleep(0.2)
    return None


@pytest.fixture
def full():
    """The address of a server, guarded by a key, whose 4 connections are taken."""
    with serve_app(make_openai_app(Service(engine=ScriptedEngine()), "secret"), Connections(8)) as url:
        with contextlib.ExitStack() as held:
            for _ in range(4):
                held.enter_context(open_line(url))
            time.sleep(0.2)
            yield url


def test_full_server_answers_a_health_check_and_refuses_the_rest_with_503(full):
    assert requests.get(full + "/health", timeout=9).json() == {"status": "ok"}
    key = {"Authorization": "Bearer secret"}
    refused = requests.get(full + "/v1/models", headers=key, timeout=9)
    assert (refused.status_code, refused.json()["error"]["code"]) == (503, "too_many_connections")
    assert (refused.headers["Connection"], int(refused.headers["Retry-After"]) > 0) == ("close", True)


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="only Linux has all of 127.0.0.0/8")
def test_client_that_has_all_its_connections_leaves_room_for_another(full):
    with open_line(full, "127.0.0.2") as line:
        line.sendall(b"GET /v1/models HTTP/1.0\r\nHost: x\r\nAuthorization: bearer secret\r\n\r\n")
        assert read_all(line).startswith(b"HTTP/1.1 200")


@pytest.mark.skipif(os.name == "nt", reason="Windows has no limit of open files")
def test_room_follows_the_limit_of_open_files():
    import resource

    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    try:
        resource.setrlimit(resource.RLIMIT_NOFILE, (256, before[1]))
        assert measure_room() == 96
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, before)


# What a request may cost


def post_json(url, path, content):
    return requests.post(url + path, data=content, headers={"Content-Type": "application/json"}, timeout=60)


ESCAPED_QUOTES = b'{"prompt":"' + b'\\"' * 500_000


@pytest.mark.parametrize(
    "content", [ESCAPED_QUOTES, b'"' * 1_000_000, b"[]" * 500_000, b"\\" * 1_000_000, b"1 " * 500_000]
)
def test_json_is_checked_in_linear_time(content):
    assert request_bodies.decode_json(content) == content.decode()  # quadratic: more than an hour


def test_unterminated_string_over_a_websocket_is_an_event(ports):
    with connect(ports.streaming + "/api/v1/stream") as opened:
        opened.send(ESCAPED_QUOTES.decode())
        assert json.loads(opened.recv(20))["error"]["code"] == "json_invalid"


def hide_depth(depth):
    """Brackets that bytes do not show: 0x2201 has the byte of a quote."""
    return f'{{"x": ["\u2201", {nest(depth)}, "\u2201"], "prompt": "a"}}'.encode("utf-16-le")


@pytest.mark.parametrize(
    ("content", "word"),
    [
        (hide_depth(900), "UTF-8"),
        ('{"prompt": "x"}'.encode("utf-16"), "UTF-8"),
        ('{"prompt": "x"}'.encode("utf-32-le"), "UTF-8"),
        (b'{"prompt": "\xff"}', "UTF-8"),
        (b'{"prompt": "x", "seed": ' + b"9" * 5000 + b"}", "digits"),
    ],
)
def test_json_that_is_not_read_says_why_over_http_and_websocket(ports, content, word, caplog):
    reply = post_json(ports.raw, "/api/v1/generate", content)
    assert (reply.status_code, reply.json()["error"]["code"]) == (400, "json_invalid")
    assert word in reply.json()["error"]["message"]
    with connect(ports.streaming + "/api/v1/stream") as opened:
        opened.send(content)
        assert word in json.loads(opened.recv(9))["error"]["message"]
    assert not caplog.records


def test_text_frame_that_is_not_utf8_leaves_no_traceback_in_the_log(ports, caplog):
    with connect(ports.streaming + "/api/v1/stream") as opened:
        opened.send(b'{"prompt": "\xff"}', text=True)
        assert "UTF-8" in json.loads(opened.recv(9))["error"]["message"]
    assert not caplog.records


def test_refused_websocket_leaves_nothing_in_the_log(caplog):
    with serve_app(make_streaming_app(Service(engine=ScriptedEngine()), "sesame")) as url:
        with pytest.raises(websockets.InvalidStatus):
            connect(url.replace("http", "ws") + "/api/v1/stream")
    assert not caplog.records


def test_body_in_too_many_chunks_is_not_read(ports):
    head = HEAD + b"Transfer-Encoding: chunked\r\n\r\n"
    with open_line(ports.openai) as line:
        line.sendall(head + b"1\r\n \r\n" * (connections.MAX_CHUNKS + 1))
        assert read_all(line).startswith(b"HTTP/1.1 400")
    body = json.dumps(ASK).encode().ljust(connections.MAX_CHUNKS - 1)
    with open_line(ports.openai) as line:
        chunks = [b"1\r\n" + bytes([byte]) + b"\r\n" for byte in body]
        line.sendall(
            head.replace(b"\r\n\r\n", b"\r\nConnection: close\r\n\r\n") + b"".join(chunks) + b"0\r\n\r\n"
        )
        assert read_all(line).startswith(b"HTTP/1.1 200")


def test_websockets_of_one_client_leave_room_for_its_other_requests():
    service = Service(engine=ScriptedEngine())
    places = Connections(16)
    with contextlib.ExitStack() as held:
        streaming = held.enter_context(serve_app(make_streaming_app(service), places)).replace("http", "ws")
        openai = held.enter_context(serve_app(make_openai_app(service), places))
        for _ in range(4):
            held.enter_context(connect(streaming + "/api/v1/stream"))
        with pytest.raises(websockets.InvalidStatus) as refused:
            connect(streaming + "/api/v1/stream")
        assert refused.value.response.status_code == 503
        assert requests.post(openai + "/v1/completions", json=ASK, timeout=9).status_code == 200
    assert places._clients.total() == places._sockets.total() == 0


@pytest.mark.parametrize(
    "fields",
    [
        {"mode": "chat-instruct", "context": "c" * 300_000, "chat_instruct_command": "<|prompt|>" * 2000},
        {"name1": "n" * 200, "context": "{{user}}" * 100_000},
        {
            "history": {"internal": [["a", "b"]] * 9, "visible": []},
            "context": "{{char}}" * 100_000,
            "name2": "n" * 99,
        },
    ],
)
def test_placeholders_that_multiply_a_prompt_are_a_400_that_says_the_limit(ports, fields):
    reply = requests.post(ports.raw + "/api/v1/chat", json={"user_input": "x", **fields}, timeout=60)
    assert reply.status_code == 400
    assert str(MAX_PROMPT) in reply.json()["error"]["message"]


@pytest.mark.parametrize("field", ["name1", "name2", "your_name", "name1_instruct", "turn_template"])
def test_field_that_a_prompt_repeats_has_a_length(ports, field):
    body = {"user_input": "x", field: "n" * 2000}
    reply = requests.post(ports.raw + "/api/v1/chat", json=body, timeout=60)
    assert (reply.status_code, reply.json()["error"]["param"]) == (400, field)


def test_messages_and_counted_texts_have_a_limit(ports):
    body = {"messages": [{"role": "user", "content": ""}] * (MAX_MESSAGES + 1)}
    reply = requests.post(ports.openai + "/v1/chat/completions", json=body, timeout=60)
    assert (reply.status_code, reply.json()["error"]["param"]) == (400, "messages")
    reply = requests.post(
        ports.raw + "/api/v1/token-count", json={"prompt": "a" * (MAX_COUNTED + 1)}, timeout=60
    )
    assert (reply.status_code, reply.json()["error"]["param"]) == (400, "prompt")


@pytest.mark.parametrize(
    "body",
    [
        {**ASK, "max_tokens": int("9" * 900)},
        {**ASK, "logit_bias": {"a" * 100_000: 1}},
        {**ASK, "x" * 100_000: 1},
    ],
)
def test_refusal_quotes_no_more_than_a_few_words(ports, body):
    reply = requests.post(ports.openai + "/v1/completions", json=body, timeout=9)
    assert reply.status_code == 400
    assert len(reply.content) < 1500


class SlowToTokenize(ScriptedEngine):
    """Its tokenizer waits until the test lets it go on."""

    def __init__(self):
        super().__init__()
        self.may_go_on = threading.Event()
        self.tokenized = []

    def check(self, request):
        self.tokenized.append(request.prompt)
        self.may_go_on.wait(30)
        return super().check(request)


def test_prompts_that_are_tokenized_hold_up_nobody_and_those_of_clients_that_left_never_are():
    engine = SlowToTokenize()
    body = json.dumps(ASK).encode()
    with serve_app(make_openai_app(Service(engine=engine))) as url:
        lines = [open_line(url) for _ in range(THREADS + 5)]
        for line in lines:
            line.sendall(HEAD + b"Content-Length: %d\r\n\r\n" % len(body) + body)
        while len(engine.tokenized) < THREADS:
            time.sleep(0.01)
        assert requests.get(url + "/health", timeout=9).status_code == 200
        for line in lines:
            line.close()
        time.sleep(0.5)
        engine.may_go_on.set()
        assert requests.post(url + "/v1/completions", json=ASK, timeout=9).status_code == 200
    assert len(engine.tokenized) == THREADS + 1


def test_prompt_of_many_answers_is_tokenized_once(ports):
    engine = SlowToTokenize()
    engine.may_go_on.set()
    with serve_app(make_openai_app(Service(engine=engine))) as url:
        asked = {**ASK, "prompt": ["x", "y"], "n": 5}
        assert len(requests.post(url + "/v1/completions", json=asked, timeout=9).json()["choices"]) == 10
    assert engine.tokenized == ["x", "y"]


class Endless(ScriptedEngine):
    """Answers never."""

    def run(self, request, emit, job):
        request.cancelled.wait(30)


def test_request_that_the_ending_server_cuts_off_is_a_503_without_a_traceback(monkeypatch, caplog):
    monkeypatch.setattr("helpers.server.serving.CUT_S", 0.2)
    engine = Endless()
    replies = []
    with serve_app(make_openai_app(Service(engine=engine))) as url:
        asking = threading.Thread(
            target=lambda: replies.append(requests.post(url + "/v1/completions", json=ASK, timeout=20))
        )
        asking.start()
        while not engine.requests:
            time.sleep(0.01)
    asking.join()
    assert replies[0].status_code == 503
    assert not [record for record in caplog.records if record.exc_info]
