"""Who may ask, how much, and that answers end if nobody listens any more: plain HTTP against real servers."""

import contextlib
import json
import socket
import time
from urllib.parse import urlsplit

import openai
import pytest
import requests
import websockets
from fastapi import WebSocket
from support.scripted_engine import ScriptedEngine
from support.server import make_tiny_service, serve_app
from websockets.sync.client import connect

from helpers import clients
from helpers.generation.engine import MAX_REQUESTS
from helpers.generation.transformers_engine import MAX_BATCH, TransformersEngine
from helpers.server.apps import make_app
from helpers.server.guards import HostGate
from helpers.server.openai_api import make_openai_app
from helpers.server.raw_api import make_raw_app
from helpers.server.request_bodies import BODY_LIMIT
from helpers.server.service import Service

LOCAL_PAGE = "http://localhost:8888"
FOREIGN_PAGE = "https://evil.example"
KEY = {"Authorization": "Bearer secret"}


@pytest.fixture(scope="module")
def url():
    app = make_openai_app(Service(engine=ScriptedEngine()))
    app.add_middleware(HostGate)  # as the server does without --listen
    with serve_app(app) as address:
        yield address


@pytest.fixture(scope="module")
def guarded_service():
    return Service(engine=ScriptedEngine())


@pytest.fixture(scope="module")
def guarded_url(guarded_service):
    with serve_app(make_raw_app(guarded_service, "secret")) as address:
        yield address


@pytest.fixture(scope="module")
def open_url():
    """A path of a server that answers other machines (--listen) without a key."""
    with serve_app(make_raw_app(Service(engine=ScriptedEngine()))) as address:
        yield address + "/api/v1/stop-stream"


@pytest.fixture(scope="module")
def socket_url():
    app = make_app("echo", "secret")
    app.add_middleware(HostGate)

    @app.websocket("/echo")
    async def echo(websocket: WebSocket):
        await websocket.accept()
        await websocket.send_text(await websocket.receive_text())

    with serve_app(app) as address:
        yield address.replace("http", "ws") + "/echo"


@pytest.mark.parametrize("host", ["localhost", "LOCALHOST:5001", "127.0.0.1:80", "[::1]:5001"])
def test_this_computer_is_answered_by_any_of_its_names(url, host):
    assert requests.get(url + "/v1/models", headers={"Host": host}, timeout=9).status_code == 200


@pytest.mark.parametrize(
    "host",
    [
        "evil.example",
        "evil.example:5001",
        "localhost.evil.example",
        "127.0.0.1.evil.example",
        "192.168.1.5",
        "a@localhost",
    ],
)
@pytest.mark.parametrize("path", ["/v1/models", "/openapi.json", "/nothing"])
def test_another_host_is_refused(url, host, path):
    reply = requests.get(url + path, headers={"Host": host}, timeout=9)
    assert reply.status_code == 400
    assert "--listen" in reply.json()["error"]["message"]


@pytest.mark.parametrize(
    ("page", "allowed"),
    [
        (LOCAL_PAGE, LOCAL_PAGE),
        ("https://127.0.0.1", "https://127.0.0.1"),
        (FOREIGN_PAGE, None),
        ("http://localhost.evil.example", None),
        ("null", None),
    ],
)
def test_only_pages_of_this_computer_may_read_replies(url, page, allowed):
    reply = requests.get(url + "/v1/models", headers={"Origin": page}, timeout=9)
    assert reply.headers.get("Access-Control-Allow-Origin") == allowed


@pytest.mark.parametrize(("page", "status"), [(LOCAL_PAGE, 200), (FOREIGN_PAGE, 400)])
def test_preflight_of_a_browser_is_answered_without_the_key(guarded_url, page, status):
    asked = {
        "Origin": page,
        "Access-Control-Request-Method": "POST",
        "Access-Control-Request-Headers": "authorization,content-type",
    }
    assert requests.options(guarded_url + "/api/v1/chat", headers=asked, timeout=9).status_code == status


@pytest.mark.parametrize(
    "header",
    [
        {},
        {"Authorization": "Bearer wrong"},
        {"Authorization": "secret"},
        {"Authorization": "Bearer s\xe9cret"},
    ],
)
@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("/api/v1/model", {"action": "unload"}),
        ("/api/v1/model", {"action": "load", "model_name": "x"}),
        ("/api/v1/chat", {}),
        ("/nothing", {}),
    ],
)
def test_nothing_is_done_or_revealed_without_the_key(guarded_url, guarded_service, header, path, body):
    reply = requests.post(guarded_url + path, json=body, headers=header, timeout=9)
    error = reply.json()["error"]
    assert (reply.status_code, reply.headers["WWW-Authenticate"]) == (401, "Bearer")
    assert (error["code"], error["type"]) == ("invalid_api_key", "invalid_request_error")
    assert guarded_service.engine is not None


def test_request_with_the_key_is_answered(guarded_url):
    reply = requests.get(guarded_url + "/api/v1/model", headers=KEY, timeout=9)
    assert reply.json() == {"result": "scripted"}


def try_websocket(url, headers=None, origin=None, host=None):
    """What a websocket that echoes says to "echo", or the HTTP status that it is refused with."""
    address = urlsplit(url)
    named_url = url.replace(address.netloc, host or address.netloc)
    with socket.create_connection((address.hostname, address.port)) as line:
        try:
            opening = connect(named_url, sock=line, additional_headers=headers, origin=origin)
        except websockets.InvalidStatus as refusal:
            return refusal.response.status_code
        with contextlib.suppress(websockets.ConnectionClosed), opening as opened:
            opened.send("echo")
            return opened.recv(timeout=9)


def test_websockets_ask_for_key_host_and_page_too(socket_url):
    assert try_websocket(socket_url, KEY) == "echo"
    assert try_websocket(socket_url, KEY, origin=LOCAL_PAGE) == "echo"
    assert try_websocket(socket_url) == 401
    assert try_websocket(socket_url, {"Authorization": "Bearer wrong"}) == 401
    assert try_websocket(socket_url, KEY, host="evil.example") == 400
    assert try_websocket(socket_url, KEY, origin=FOREIGN_PAGE) == 403


PAGE_ABROAD = "http://kit.example:5001"  # that this server sent, if its host is called so


@pytest.mark.parametrize(
    ("page", "host", "status"),
    [
        (PAGE_ABROAD, "kit.example:5001", 200),
        ("https://KIT.example", "kit.example", 200),  # behind a proxy with TLS
        (PAGE_ABROAD, "kit.example:5000", 403),
        (PAGE_ABROAD, "kit.example", 403),
        ("http://kit.example:5001.evil.example", "kit.example:5001", 403),
        ("http://kitxexample", "kit.example", 403),
        ("http://", "", 403),
        ("null", "null", 403),
    ],
)
def test_page_that_the_server_sent_may_ask_where_there_is_a_key(guarded_url, page, host, status):
    named = {"Origin": page, "Host": host}
    path = "/api/v1/stop-stream"
    assert (
        requests.post(guarded_url + path, json={}, headers={**named, **KEY}, timeout=9).status_code == status
    )
    assert requests.post(guarded_url + path, json={}, headers=named, timeout=9).status_code in (401, 403)


def test_page_that_names_the_host_may_not_ask_without_a_key(open_url):
    named = {"Origin": PAGE_ABROAD, "Host": "kit.example:5001"}
    assert requests.post(open_url, json={}, headers=named, timeout=9).status_code == 403


@pytest.mark.parametrize("chunked", [False, True])
def test_body_that_is_too_large_is_refused(url, chunked):
    body = json.dumps({"prompt": "x" * BODY_LIMIT}).encode()
    sent = iter([body[:1000], body[1000:]]) if chunked else body
    json_header = {"Content-Type": "application/json"}
    reply = requests.post(url + "/v1/completions", data=sent, headers=json_header, timeout=9)
    assert reply.status_code == 413
    assert str(BODY_LIMIT) in reply.json()["error"]["message"]


def test_refusal_of_a_wrong_method_names_the_right_one(url):
    reply = requests.get(url + "/v1/completions", timeout=9)
    assert (reply.status_code, reply.headers["Allow"]) == (405, "POST")
    assert reply.json()["error"]["code"] == "method_not_allowed"


class EndlessEngine(ScriptedEngine):
    """Answers until it is cancelled, and remembers its jobs."""

    def __init__(self):
        super().__init__(["x "] * 1_000_000, pause_s=0.05)
        self.jobs = []

    def submit(self, request, prompt, emit):
        self.jobs.append(super().submit(request, prompt, emit))
        return self.jobs[-1]


class WatchedEngine(TransformersEngine):
    """Remembers its jobs."""

    def __init__(self, loaded):
        super().__init__(loaded)
        self.jobs = []

    def submit(self, request, prompt, emit):
        self.jobs.append(super().submit(request, prompt, emit))
        return self.jobs[-1]


LONG = {"prompt": "Hi", "temperature": 0, "max_tokens": 2000}


def begin(url, **settings):
    """A connection that has sent a request for long answers and has read nothing yet."""
    address = urlsplit(url)
    body = json.dumps({**LONG, **settings}).encode()
    head = (
        "POST /v1/completions HTTP/1.1\r\n"
        "Host: localhost\r\n"
        "Content-Type: application/json\r\n"
        f"Content-Length: {len(body)}\r\n\r\n"
    )
    line = socket.create_connection((address.hostname, address.port))
    line.sendall(head.encode() + body)
    return line


def wait_for(condition):
    """Returns as soon as the condition is true; fails if it never is."""
    deadline = time.monotonic() + 120
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.02)


def has_room(url, n):
    """Whether n more answers are accepted; they are not waited for."""
    body = {**LONG, "n": n, "stream": True}
    with requests.post(url + "/v1/completions", json=body, stream=True, timeout=9) as reply:
        assert reply.status_code in (200, 429)
        return reply.status_code == 200


@pytest.fixture
def endless():
    """(the address of a server whose answers never end, its engine)."""
    engine = EndlessEngine()
    with serve_app(make_openai_app(Service(engine=engine))) as address:
        yield address, engine


def test_request_to_a_full_queue_is_asked_to_come_back(endless):
    url, engine = endless
    client = openai.OpenAI(base_url=url + "/v1", api_key="none", max_retries=0)
    with begin(url, n=MAX_REQUESTS, stream=True):
        wait_for(lambda: len(engine.jobs) == MAX_REQUESTS)
        with pytest.raises(openai.RateLimitError) as caught:
            client.completions.create(model="x", **LONG)
    assert int(caught.value.response.headers["Retry-After"]) > 0
    assert (caught.value.code, caught.value.type) == ("rate_limit_exceeded", "requests")


@pytest.mark.parametrize("streamed", [True, False])
def test_client_that_leaves_ends_all_its_answers(endless, streamed):
    url, engine = endless
    with begin(url, n=MAX_REQUESTS, stream=streamed):
        wait_for(lambda: len(engine.jobs) == MAX_REQUESTS)
        assert not has_room(url, 1)
    wait_for(lambda: has_room(url, MAX_REQUESTS))
    wait_for(lambda: all(job.done() for job in engine.jobs))


@pytest.mark.parametrize("streamed", [True, False])
def test_clients_that_leave_at_once_cost_nothing(endless, streamed):
    url, engine = endless
    for _ in range(20):
        begin(url, n=8, stream=streamed).close()
    wait_for(lambda: has_room(url, MAX_REQUESTS))
    wait_for(lambda: all(job.done() for job in engine.jobs))


@pytest.mark.parametrize("streamed", [True, False])
def test_client_that_leaves_while_it_waits_in_line_frees_its_places(tiny, streamed):
    engine = WatchedEngine(tiny)
    no_end = {"257": -100}  # the end-of-text token
    with serve_app(make_openai_app(Service(engine=engine))) as url:
        with begin(url, n=MAX_BATCH, stream=streamed, logit_bias=no_end):
            wait_for(lambda: len(engine.jobs) == MAX_BATCH)
            with begin(url, n=MAX_REQUESTS - MAX_BATCH, stream=streamed):
                wait_for(lambda: len(engine.jobs) == MAX_REQUESTS)
                assert not has_room(url, 1)
            wait_for(lambda: has_room(url, MAX_REQUESTS - MAX_BATCH))
            assert not any(job.done() for job in engine.jobs[:MAX_BATCH])
        wait_for(lambda: all(job.done() for job in engine.jobs))
    assert all(job.result().completion_tokens < LONG["max_tokens"] for job in engine.jobs)
    engine.close()


@pytest.mark.long
@pytest.mark.parametrize(("flags", "status"), [(["--listen", "--no-api-key"], 200), ([], 400)])
def test_only_a_server_for_other_machines_answers_to_other_names(home, flags, status):
    make_tiny_service(home).unload()
    with clients.start_server("tiny", extra=[*flags, "--dtype", "float32"]) as server:
        for address in (server.raw_url + "/api/v1/model", server.openai_url + "/models"):
            reply = requests.get(address, headers={"Host": "kit.example"}, timeout=9)
            assert reply.status_code == status
