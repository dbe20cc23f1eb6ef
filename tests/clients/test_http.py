"""How a request that fails is explained: each failure has a class and a remedy of its own."""

import contextlib
import socket
import threading

import pytest
from support.fake_webui import serve_reply

from helpers.common.errors import ServerError, UsageError
from helpers.common.http import REMEDIES, read_reason, send_request

CUT_REPLY = b"HTTP/1.1 200 OK\r\nContent-Length: 99\r\n\r\n{"


@contextlib.contextmanager
def send_bytes(reply: bytes, hold: bool):
    """A server that replies with these bytes to one request and hangs up, with `hold` only at the end."""
    over = threading.Event()
    with socket.create_server(("127.0.0.1", 0)) as server:

        def answer():
            connection, _ = server.accept()
            with connection:
                connection.recv(9999)
                connection.sendall(reply)
                if hold:
                    over.wait(60)

        threading.Thread(target=answer, daemon=True).start()
        yield f"http://127.0.0.1:{server.getsockname()[1]}"
        over.set()


@pytest.mark.parametrize(
    ("reply", "hold", "remedy"),
    [
        (b"", False, "closed"),
        (CUT_REPLY, False, "closed"),
        (b"", True, "timeout"),
        (CUT_REPLY, True, "timeout"),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n", False, "not JSON"),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nHi!!", False, "not JSON"),
    ],
    ids=["nothing", "half a reply", "silence", "half a reply, then silence", "an empty body", "a text"],
)
def test_reply_that_is_not_one_has_its_own_remedy(reply, hold, remedy):
    with send_bytes(reply, hold) as url, pytest.raises(ServerError, match=url) as caught:
        send_request("GET", url, timeout=0.5)
    assert caught.value.remedy == REMEDIES[remedy]


def test_address_where_nothing_listens_is_unreachable(closed_url):
    with pytest.raises(ServerError, match=closed_url) as caught:
        send_request("GET", closed_url)
    assert caught.value.remedy == REMEDIES["unreachable"]


@pytest.mark.parametrize("url", ["127.0.0.1:5000", "ws://127.0.0.1:5000", "http://"])
def test_address_that_cannot_be_right_is_a_usage_error(url):
    with pytest.raises(UsageError, match=url):
        send_request("GET", url)


def test_body_that_is_not_json_is_a_usage_error(closed_url):
    with pytest.raises(UsageError, match=closed_url):
        send_request("POST", closed_url, {"temperature": float("nan")})


def test_client_replaces_remedies_by_its_own():
    own = {**REMEDIES, 404: "Ask the porter."}
    with serve_reply(404, b"") as (url, _):
        with pytest.raises(ServerError) as caught:
            send_request("POST", url, {}, remedies=own)
        assert caught.value.remedy == own[404]
        with pytest.raises(ServerError) as caught:
            send_request("POST", url, {})
        assert caught.value.remedy == REMEDIES[404]


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ('{"error": {"message": "seed: too large."}}', "seed: too large."),
        ('{"detail": "Unauthorized"}', "Unauthorized"),
        ('{"detail": [{"loc": ["body"]}]}', "[{'loc': ['body']}]"),
        ('{"hello": 1}', '{"hello": 1}'),
        ("[1]", "[1]"),
        ("Internal Server Error", "Internal Server Error"),
        ("  <html>Forbidden</html>", ""),
        ('{"detail": "a\\n  b\\u001b[31m"}', "a b\\x1b[31m"),
        ("", ""),
    ],
)
def test_reason_of_a_refusal_is_found_in_its_body(text, reason):
    assert read_reason(text) == reason
