"""Servers that are slow, endless or send nonsense: each call ends in time, with a ServerError."""

import asyncio
import gzip
import time

import pytest
from support.fake_webui import serve_websockets
from support.rude import EVENTS, OK, serve_bytes

from helpers import clients
from helpers.common import bounded
from helpers.common.errors import ServerError
from helpers.common.http import send_request

HI = [{"role": "user", "content": "Hi"}]
NUMBER = b"9" * 5000
DEEP = b"[" * 100_000


def send(url, timeout=5.0):
    return send_request("GET", url, timeout=timeout)


def chat(url, timeout=5.0):
    return clients.last_reply(clients.chat_raw("Hi", url=url, timeout=timeout))


def ask(url, timeout=5.0):
    return clients.ask_openai(clients.make_openai_client(url + "/v1"), HI, timeout=timeout)


def ask_async(url, timeout=5.0):
    return asyncio.run(clients.ask_openai_async(clients.make_async_openai_client(url), HI, timeout=timeout))


def stream(url, timeout=5.0):
    return "".join(clients.stream_openai(clients.make_openai_client(url + "/v1"), HI, timeout=timeout))


WHOLE = (send, chat, ask, ask_async)


@pytest.mark.parametrize("call", [*WHOLE, stream])
@pytest.mark.parametrize("begin", [b"HTTP/1.1 200 OK\r\nX: ", OK, EVENTS], ids=["header", "body", "events"])
def test_reply_that_comes_byte_by_byte_ends_with_the_timeout(call, begin):
    start = time.monotonic()
    with serve_bytes(begin, forever=b" ", pause=0.05) as url, pytest.raises(ServerError, match="No reply"):
        call(url, timeout=0.3)
    assert time.monotonic() - start < 3


@pytest.mark.parametrize("call", [*WHOLE, stream])
def test_reply_without_an_end_is_given_up_at_a_size(call, monkeypatch):
    monkeypatch.setattr(bounded, "LARGEST_REPLY", 200_000)
    monkeypatch.setattr(bounded, "LARGEST_PIECE", 200_000)
    with serve_bytes(EVENTS, forever=b"x" * 10_000) as url, pytest.raises(ServerError, match="larger"):
        call(url)


@pytest.mark.parametrize("call", [*WHOLE, stream])
def test_reply_that_unpacks_to_more_than_its_limit_is_given_up(call, monkeypatch):
    monkeypatch.setattr(bounded, "LARGEST_REPLY", 200_000)
    body = gzip.compress(b'{"choices": [{"message": {"content": "%s"}}]}' % (b"a" * 400_000))
    head = OK.replace(b"\r\n\r\n", b"\r\nContent-Encoding: gzip\r\n\r\n")
    with serve_bytes(head, body) as url, pytest.raises(ServerError, match="larger"):
        call(url)


@pytest.mark.parametrize("call", [ask, ask_async, stream])
def test_half_of_a_character_in_an_answer_does_not_reach_the_program(call):
    choice = b'{"choices": [{"%s": {"content": "a\\ud800b"}, "finish_reason": "stop"}]}'
    begin, end = (EVENTS + b"data: ", b"\n\n") if call is stream else (OK, b"")
    with serve_bytes(begin, choice % (b"delta" if call is stream else b"message"), end) as url:
        assert call(url) == "a\ufffdb"


def test_half_of_a_character_in_a_reply_of_the_raw_api_does_not_reach_the_program():
    history = b'{"internal": [["Hi", "\\ud83d"]], "visible": [["Hi", "\\ud83d\\ude00\\ud83d"]]}'
    with serve_bytes(OK, b'{"results": [{"history": %s}]}' % history) as url:
        assert chat(url) == "\U0001f600\ufffd"


@pytest.mark.parametrize("place", [b"file:///etc/passwd", b"http://a:99999999/", b"http://[::1"])
def test_redirect_to_what_is_no_address_is_the_server_s_fault(place):
    reply = b"HTTP/1.1 307 x\r\nLocation: %s\r\nContent-Length: 0\r\n\r\n" % place
    with serve_bytes(reply) as url, pytest.raises(ServerError, match=f"{url}.* redirects"):
        send(url)


def test_stream_may_take_longer_than_its_timeout_for_a_piece():
    piece = b'data: {"choices": [{"delta": {"content": "a"}}]}\n\n'
    with serve_bytes(EVENTS, forever=piece, pause=0.05) as url:
        pieces = clients.stream_openai(clients.make_openai_client(url), HI, timeout=0.2)
        assert [next(pieces) for _ in range(8)] == ["a"] * 8


EMPTY = [
    b": ping\n",
    b"\n",
    b'data: {"choices": []}\n\n',
    b'data: {"choices": [{"delta": {"content": ""}}]}\n\n',
]


@pytest.mark.parametrize("line", EMPTY)
def test_lines_that_carry_no_text_do_not_extend_the_wait(line):
    start = time.monotonic()
    with serve_bytes(EVENTS, forever=line, pause=0.02) as url, pytest.raises(ServerError, match="in time"):
        stream(url, timeout=0.3)
    assert time.monotonic() - start < 3


def test_event_of_endless_lines_is_given_up_at_a_size(monkeypatch):
    monkeypatch.setattr(bounded, "LARGEST_PIECE", 200_000)
    with serve_bytes(EVENTS, forever=b"data: x\n" * 1000) as url, pytest.raises(ServerError, match="larger"):
        stream(url)


def test_program_that_takes_its_time_between_pieces_does_not_use_up_the_wait():
    piece = b'data: {"choices": [{"delta": {"content": "a"}}]}\n\n'
    with serve_bytes(EVENTS, forever=piece, pause=0.05) as url:
        pieces = clients.stream_openai(clients.make_openai_client(url), HI, timeout=0.2)
        for _ in range(2):
            assert next(pieces) == "a"
            time.sleep(0.4)
        assert next(pieces) == "a"


@pytest.mark.parametrize("begin", [b"HTTP/1.1 200 OK\r\nX: ", b""])
def test_waiting_for_a_server_ends_before_a_slow_one_has_answered(begin):
    with serve_bytes(begin, forever=b"x", pause=0.05) as url, pytest.raises(ServerError, match="No answer"):
        clients.wait_until_ready(url, timeout_s=0.4)


def test_server_that_has_begun_to_answer_is_ready():
    with serve_bytes(OK, forever=b"x", pause=0.05) as url:
        clients.wait_until_ready(url, timeout_s=0.4)


NONSENSE = [
    b"", b"hello", b"\xff\xfe\xfa", b"null", b"5", b'"x"', b"[]", b"{}", DEEP, b'{"choices": %s}' % NUMBER,
    *(
        b'{"choices": %s}' % choices
        for choices in (
            b'"abc"', b"5", b'{"a": 1}', b"[null]", b"[5]", b'["x"]', b"[{}]", b'[{"message": null}]',
            b'[{"message": "hi"}]', b'[{"message": {"content": [1]}}]', b"[[]]",
        )
    ),
]  # fmt: skip


@pytest.mark.parametrize("body", NONSENSE, ids=lambda body: body[:40].decode(errors="replace"))
@pytest.mark.parametrize("call", [ask, ask_async])
def test_nonsense_instead_of_an_answer_is_a_server_error(call, body):
    with serve_bytes(OK, body) as url, pytest.raises(ServerError, match=url):
        call(url)


EVENT_NONSENSE = [
    b"null", b"5", b"{bad", b"[1]", b"\xff", b'{"choices": "abc"}', b'{"choices": [null]}',
    b'{"choices": [5]}',
    b'{"choices": [{"delta": null}]}', b'{"choices": [{}]}', b'{"choices": [{"delta": {"content": 5}}]}',
    b'{"choices": [{"delta": "x"}]}', b'{"error": "x"}', b"[DONE]", DEEP, b'{"choices": %s}' % NUMBER,
]  # fmt: skip


@pytest.mark.parametrize("event", EVENT_NONSENSE, ids=lambda event: event[:40].decode(errors="replace"))
def test_nonsense_in_a_stream_is_a_server_error(event):
    with serve_bytes(EVENTS, b"data: " + event + b"\n\n") as url, pytest.raises(ServerError, match=url):
        stream(url)


HISTORIES = [
    b"null", b"5", b'{"results": 5}', b'{"results": {"a": 1}}', b'{"results": [null]}', b'{"history": 5}',
    b'{"history": {"internal": "abc"}}', b'{"history": {"internal": [["a", "b"]]}}',
    b'{"history": {"internal": [["a"]], "visible": [[]]}}',
    b'{"history": {"internal": [[1, 2]], "visible": [[1, 2]]}}', DEEP, b'{"history": %s}' % NUMBER,
]  # fmt: skip


@pytest.mark.parametrize("body", HISTORIES, ids=lambda body: body[:40].decode(errors="replace"))
def test_nonsense_instead_of_a_history_is_a_server_error(body):
    with serve_bytes(OK, body) as url, pytest.raises(ServerError):
        chat(url)


@pytest.mark.parametrize("body", [b"null", b"5", b'"x"', b"[]", b"{}", b'{"result": "x"}',
    b'{"model_names": 5, "lora_names": "abc", "model_name": [1]}', b'{"error": 5}'])  # fmt: skip
@pytest.mark.parametrize("era", ["2023", "today"])
@pytest.mark.parametrize("method", ["list_models", "describe"])
def test_nonsense_instead_of_what_is_loaded_is_a_server_error(method, era, body):
    with serve_bytes(OK, body) as url, pytest.raises(ServerError):
        getattr(clients.make_control(era, url), method)()


@pytest.mark.parametrize("message", ['{"event": "text_stream"}', '{"event": "text_stream", "text": 5}', "[]",
    "5", '{"event": "error"}', '{"event": 5}', b"\xff", "[" * 100_000])  # fmt: skip
def test_nonsense_over_a_websocket_is_a_server_error(message):
    def answer(connection):
        connection.recv()
        connection.send(message)

    with serve_websockets(answer) as url:
        for call in (clients.stream_raw, clients.stream_chat_raw):
            with pytest.raises(ServerError):
                list(call("Hi", url=url, timeout=5))


@pytest.mark.parametrize("call", [send, chat, ask, stream])
def test_redirection_to_no_address_is_a_server_error(call):
    head = b"HTTP/1.1 302 Found\r\nLocation: http://[bad\r\nContent-Length: 0\r\n\r\n"
    with serve_bytes(head) as url:
        with pytest.raises(ServerError):
            call(url)
        clients.wait_until_ready(url, timeout_s=1)
