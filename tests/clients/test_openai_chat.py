"""Calls through the official OpenAI client, and how its errors are explained."""

import asyncio
import json
from http.server import BaseHTTPRequestHandler

import pytest
from support.fake_webui import serve_http, serve_reply, write_event

from helpers import clients
from helpers.clients.remedies import SERVER_REMEDIES
from helpers.common.errors import ServerError

HI = [{"role": "user", "content": "Hi you"}]
NO_CONTENT = [{"role": "user"}]


def collect_stream(client, messages):
    return list(clients.stream_openai(client, messages))


def ask_async(client, messages):
    return asyncio.run(clients.ask_openai_async(client, messages))


WAYS = {  # every way to ask over the OpenAI API: (what makes its client, the call)
    "plain": (clients.make_openai_client, clients.ask_openai),
    "stream": (clients.make_openai_client, collect_stream),
    "async": (clients.make_async_openai_client, ask_async),
}
every_way = pytest.mark.parametrize(("make_client", "ask"), WAYS.values(), ids=WAYS)


def test_same_calls_work_with_the_webui_of_today(new):
    client = clients.make_openai_client(new + "/v1", "sk")
    assert clients.ask_openai(client, HI) == "Hi you"
    assert list(clients.stream_openai(client, HI, stream_options={"include_usage": True})) == ["Hi", "you"]


def test_many_async_calls_get_the_answers_of_their_own_questions(new):
    async def ask_many():
        async with clients.make_async_openai_client(new + "/v1", "sk") as client:
            questions = [[{"role": "user", "content": str(number)}] for number in range(9)]
            return await asyncio.gather(*(clients.ask_openai_async(client, asked) for asked in questions))

    assert asyncio.run(ask_many()) == [str(number) for number in range(9)]


@every_way
def test_refusals_read_the_same_in_every_way_to_ask(make_client, ask, new):
    with pytest.raises(ServerError, match="401") as caught:
        ask(make_client(new + "/v1", "wrong"), HI)
    assert "Unauthorized" in caught.value.problem and caught.value.remedy == SERVER_REMEDIES[401]
    with pytest.raises(ServerError, match="404") as caught:
        ask(make_client(new, "sk"), HI)
    assert caught.value.remedy == SERVER_REMEDIES[404]


@every_way
def test_server_that_is_away_is_named_in_every_way_to_ask(make_client, ask, closed_url):
    with pytest.raises(ServerError, match=closed_url):
        ask(make_client(closed_url + "/v1"), HI)


@every_way
@pytest.mark.parametrize("reply", [b'{"hello": 1}', b"[]"])
def test_other_programs_at_the_address_are_recognised(make_client, ask, reply):
    with serve_reply(200, reply) as (url, _), pytest.raises(ServerError, match=url):
        ask(make_client(url + "/v1"), HI)


@every_way
def test_refusal_carries_the_servers_words(make_client, ask):
    error = {"message": "seed: too large.", "type": "invalid_request_error", "param": "seed", "code": None}
    body = json.dumps({"error": error}).encode()
    with serve_reply(400, body) as (url, _), pytest.raises(ServerError, match="seed: too large."):
        ask(make_client(url + "/v1"), HI)


class ClosesAfterError(BaseHTTPRequestHandler):
    """As today's WebUI: an error 500 on a connection that seems to stay, and no reply to the next request."""

    protocol_version = "HTTP/1.1"
    used = False

    def do_POST(self):
        self.rfile.read(int(self.headers["Content-Length"]))
        if self.used:
            self.close_connection = True
            return
        self.used = True
        self.send_response(500)
        self.send_header("Content-Length", "0")
        self.end_headers()

    def log_message(self, *_):
        pass


@pytest.mark.parametrize("ask", [clients.ask_openai, collect_stream], ids=["plain", "stream"])
def test_request_after_an_error_of_todays_webui_is_answered(ask):
    with serve_http(ClosesAfterError) as (url, _):
        client = clients.make_openai_client(url + "/v1")
        for _ in range(3):
            with pytest.raises(ServerError, match="500"):
                ask(client, HI)


def test_stream_of_2023_is_read():
    deltas = [
        ({"role": "assistant", "content": ""}, None),
        ({"content": "Hi"}, None),
        ({"content": ""}, "stop"),
    ]
    events = ""
    for delta, end in deltas:
        choice = {"index": 0, "finish_reason": end, "message": delta, "delta": delta}
        chunk = {"object": "chat.completions.chunk", "choices": [choice]}
        events += f"data: {json.dumps(chunk)}\r\n\r\n"
    events += "data: [DONE]\r\n\r\n"
    with serve_reply(200, events.encode()) as (url, _):
        assert list(clients.stream_openai(clients.make_openai_client(url + "/v1"), HI)) == ["Hi"]


def test_stream_that_ends_before_the_answer_is_an_error(new):
    client = clients.make_openai_client(new + "/v1", "sk")
    with pytest.raises(ServerError, match=new):
        list(clients.stream_openai(client, NO_CONTENT))


class BreaksOff(BaseHTTPRequestHandler):
    """As today's WebUI without a model: the first event of a stream, and then nothing more."""

    protocol_version = "HTTP/1.1"

    def do_POST(self):
        self.rfile.read(int(self.headers["Content-Length"]))
        self.send_response(200)
        self.send_header("Content-Type", "text/event-stream")
        self.send_header("Transfer-Encoding", "chunked")
        self.end_headers()
        delta = {"role": "assistant", "content": ""}
        event = write_event(choices=[{"index": 0, "finish_reason": None, "delta": delta}]).encode()
        self.wfile.write(b"%x\r\n%s\r\n" % (len(event), event))
        self.close_connection = True

    def log_message(self, *_):
        pass


def test_stream_that_breaks_off_asks_for_a_model():
    with serve_http(BreaksOff) as (url, _):
        client = clients.make_openai_client(url + "/v1")
        with pytest.raises(ServerError, match="ended the stream") as caught:
            list(clients.stream_openai(client, HI))
    assert "model" in caught.value.remedy


def test_second_response_inside_a_stream_of_2023_is_an_error():
    error = '{"error": {"message": "messages is required", "code": 400}}'
    second = f"HTTP/1.0 400 Bad Request\r\nContent-Type: application/json\r\n\r\n{error}"
    with serve_reply(200, second.encode()) as (url, _), pytest.raises(ServerError, match=url):
        list(clients.stream_openai(clients.make_openai_client(url + "/v1"), HI))


def test_error_inside_a_stream_keeps_the_servers_words():
    event = b'data: {"error": {"message": "out of memory"}}\n\n'
    with serve_reply(200, event) as (url, _), pytest.raises(ServerError, match="out of memory"):
        list(clients.stream_openai(clients.make_openai_client(url + "/v1"), HI))
