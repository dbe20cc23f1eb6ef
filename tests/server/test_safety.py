"""Who may ask, how much, and what it costs when nobody listens any more: plain HTTP against real servers."""

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
from support.server import make_tiny_service, serve_app
from websockets.sync.client import connect

from helpers import clients
from helpers.generation.engine import LIMIT
from helpers.generation.transformers_engine import ROWS
from helpers.server.apps import make_app
from helpers.server.guards import BODY_LIMIT, HostGate
from helpers.server.openai_api import make_openai_app
from helpers.server.raw_api import make_raw_app

LOCAL_PAGE, FOREIGN_PAGE = "http://localhost:8888", "https://evil.example"
LONG = {
    "messages": [{"role": "user", "content": "Hi"}],
    "temperature": 0,
    "max_tokens": 2000,
    "logit_bias": {"257": -100},
}


@pytest.fixture(scope="module")
def service(tmp_path_factory):
    return make_tiny_service(tmp_path_factory.mktemp("home"))


@pytest.fixture(scope="module")
def url(service):
    app = make_openai_app(service)
    app.add_middleware(HostGate)  # as the server does without --listen
    with serve_app(app) as address:
        yield address


@pytest.fixture(scope="module")
def guarded_url(service):
    with serve_app(make_raw_app(service, "secret")) as address:
        yield address


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
def test_this_computer_by_any_of_its_names_is_answered(url, host):
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
def test_another_host_is_refused(url, host):
    for path in ("/v1/models", "/openapi.json", "/nothing"):
        reply = requests.get(url + path, headers={"Host": host}, timeout=9)
        assert reply.status_code == 400 and "--listen" in reply.json()["error"]["message"]


def test_pages_of_this_computer_may_read_replies_and_others_may_not(url):
    allowed = {
        page: requests.get(url + "/v1/models", headers={"Origin": page}, timeout=9).headers.get(
            "Access-Control-Allow-Origin"
        )
        for page in (LOCAL_PAGE, "https://127.0.0.1", FOREIGN_PAGE, "http://localhost.evil.example", "null")
    }
    assert [page for page, header in allowed.items() if header] == [
        LOCAL_PAGE,
        "https://127.0.0.1",
    ] and allowed[LOCAL_PAGE] == LOCAL_PAGE


@pytest.mark.parametrize(("page", "status"), [(LOCAL_PAGE, 200), (FOREIGN_PAGE, 400)])
def test_a_browser_that_asks_first_is_answered_without_the_key(guarded_url, page, status):
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
def test_without_the_key_nothing_is_loaded_unloaded_or_told(guarded_url, service, header, path, body):
    reply = requests.post(guarded_url + path, json=body, headers=header, timeout=9)
    assert reply.status_code == 401 and reply.headers["WWW-Authenticate"] == "Bearer" and service.engine
    assert (reply.json()["error"]["code"], reply.json()["error"]["type"]) == (
        "invalid_api_key",
        "invalid_request_error",
    )


def test_with_the_key_a_request_is_answered(guarded_url):
    assert requests.get(
        guarded_url + "/api/v1/model", headers={"Authorization": "Bearer secret"}, timeout=9
    ).json() == {"result": "tiny"}


def try_websocket(url, headers=None, origin=None, host=None):
    """ "echoed", or the HTTP status that the websocket was refused with."""
    address = urlsplit(url)
    with (
        socket.create_connection((address.hostname, address.port)) as line,
        contextlib.suppress(websockets.ConnectionClosed),
    ):
        try:
            with connect(
                url.replace(address.netloc, host or address.netloc),
                sock=line,
                additional_headers=headers,
                origin=origin,
            ) as opened:
                opened.send("echoed")
                return opened.recv(timeout=9)
        except websockets.InvalidStatus as refusal:
            return refusal.response.status_code


def test_websockets_ask_for_the_key_the_host_and_the_page_too(socket_url):
    key = {"Authorization": "Bearer secret"}
    assert try_websocket(socket_url, key) == try_websocket(socket_url, key, origin=LOCAL_PAGE) == "echoed"
    assert try_websocket(socket_url) == try_websocket(socket_url, {"Authorization": "Bearer wrong"}) == 401
    assert try_websocket(socket_url, key, host="evil.example") == 400
    assert try_websocket(socket_url, key, origin=FOREIGN_PAGE) == 403


@pytest.mark.parametrize("chunked", [False, True])
def test_a_body_that_is_too_large_is_refused(url, chunked):
    body = json.dumps({**LONG, "messages": [{"role": "user", "content": "x" * BODY_LIMIT}]}).encode()
    sent = iter([body[:1000], body[1000:]]) if chunked else body
    reply = requests.post(
        url + "/v1/chat/completions", data=sent, headers={"Content-Type": "application/json"}, timeout=9
    )
    assert reply.status_code == 413 and str(BODY_LIMIT) in reply.json()["error"]["message"]


def test_a_wrong_method_names_the_right_one(url):
    reply = requests.get(url + "/v1/completions", timeout=9)
    assert (
        reply.status_code == 405
        and reply.headers["Allow"] == "POST"
        and reply.json()["error"]["code"] == "method_not_allowed"
    )


def begin(url, **settings):
    """A connection that has sent a chat request and has read nothing yet."""
    address, body = urlsplit(url), json.dumps({**LONG, **settings}).encode()
    line = socket.create_connection((address.hostname, address.port))
    head = "POST /v1/chat/completions HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\nContent-Length: "
    line.sendall(f"{head}{len(body)}\r\n\r\n".encode() + body)
    return line


def is_busy(url, n):
    """Whether there is no place for n answers; they are not waited for."""
    with requests.post(
        url + "/v1/chat/completions", json={**LONG, "n": n, "stream": True}, stream=True, timeout=9
    ) as reply:
        assert reply.status_code in (200, 429)
        return reply.status_code == 429


@contextlib.contextmanager
def hold(url, n, left=0, streamed=True):
    """A client with n answers that run or wait, which leaves at the end of the block; `left` places are free beside them."""
    for _ in range(20):
        with begin(url, n=n, stream=streamed):
            time.sleep(0.2)
            if is_busy(url, left + 1):  # else it was too early, and may have taken the client's places
                yield
                return
    raise AssertionError("never busy")


def wait_for(condition, timeout_s):
    """Returns as soon as the condition is true."""
    began = time.monotonic()
    while not condition():
        assert time.monotonic() - began < timeout_s
        time.sleep(0.02)


def test_one_answer_too_many_is_told_to_come_back(url):
    assert not is_busy(url, LIMIT)
    with hold(url, LIMIT):
        with pytest.raises(openai.RateLimitError) as caught:
            openai.OpenAI(base_url=url + "/v1", api_key="none", max_retries=0).chat.completions.create(
                model="x", **LONG
            )
        assert int(caught.value.response.headers["Retry-After"]) > 0
        assert (caught.value.code, caught.value.type) == ("rate_limit_exceeded", "requests")


@pytest.mark.parametrize("streamed", [True, False])
def test_a_client_that_leaves_frees_the_places_of_all_its_answers_within_a_second(url, streamed):
    with hold(url, LIMIT, streamed=streamed):
        pass
    wait_for(lambda: not is_busy(url, LIMIT), 1)


@pytest.mark.parametrize("streamed", [True, False])
def test_a_client_that_leaves_while_it_waits_in_line_frees_its_places_within_a_second(url, streamed):
    with hold(url, ROWS, left=LIMIT - ROWS):
        with hold(url, LIMIT - ROWS, streamed=streamed):
            pass
        wait_for(lambda: not is_busy(url, LIMIT - ROWS), 1)


@pytest.mark.parametrize("streamed", [True, False])
def test_clients_that_leave_in_the_first_moment_cost_nothing(url, service, streamed):
    for _ in range(20):
        begin(url, n=8, stream=streamed).close()
    wait_for(lambda: not is_busy(url, LIMIT), 2)
    wait_for(lambda: not service.engine._inside, 2)  # also the computing has ended


@pytest.mark.long
def test_a_server_for_other_machines_answers_to_other_names_and_one_for_this_does_not(home):
    make_tiny_service(home).unload()
    for flags, status in (["--listen", "--no-api-key"], 200), ([], 400):
        with clients.start_server("tiny", extra=[*flags, "--dtype", "float32"]) as server:
            for address in (server.raw_url + "/api/v1/model", server.openai_url + "/models"):
                assert requests.get(address, headers={"Host": "kit.example"}, timeout=9).status_code == status
