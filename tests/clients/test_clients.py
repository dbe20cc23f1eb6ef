import asyncio
import contextlib
import http.server
import json
import socket
import subprocess
import sys
import threading

import pytest
from support.fake_webui import run_webui_2023, run_webui_today
from websockets.sync.server import serve

from helpers import KitError, clients, server


@contextlib.contextmanager
def serve_reply(status, body):
    """A server that answers every request with the same bytes; gives its address and the list of bodies it got."""
    received = []

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_POST(self):
            received.append(json.loads(self.rfile.read(int(self.headers["Content-Length"]))))
            self.send_response(status)
            self.send_header("Content-Type", "application/json")
            self.end_headers()
            self.wfile.write(body)

        do_GET = do_POST

        def log_message(self, *_):
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}", received
        server.shutdown()


@pytest.fixture
def closed_url():
    """An address where nothing listens."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return f"http://127.0.0.1:{probe.getsockname()[1]}"


def test_raw_call_sends_the_defaults_with_what_was_changed():
    history = {"internal": [["a", "b"]], "visible": [["a", "&lt;b&gt;"]]}
    reply = json.dumps({"results": [{"history": history}]}).encode()
    with serve_reply(200, reply) as (url, received):
        assert clients.chat_raw("Hi", url=url, seed=7) == history
    assert received == [{**clients.DEFAULT_CHAT_PARAMS, "user_input": "Hi", "seed": 7}]
    assert clients.last_reply(history) == "<b>"


def test_empty_reply_of_the_2023_server_is_explained():
    with (
        serve_reply(200, b"") as (url, _),
        pytest.raises(KitError, match="is empty. The WebUI of 2023 answers so"),
    ):
        clients.chat_raw("Hi", url=url)


def test_refusal_carries_the_servers_words():
    body = json.dumps(
        {
            "error": {
                "message": "seed: too large.",
                "type": "invalid_request_error",
                "param": "seed",
                "code": None,
            }
        }
    ).encode()
    with serve_reply(400, body) as (url, _):
        with pytest.raises(KitError, match="seed: too large"):
            clients.chat_raw("Hi", url=url)
        with pytest.raises(KitError, match="seed: too large"):
            clients.ask_openai(clients.make_openai_client(url + "/v1"), [{"role": "user", "content": "Hi"}])


@pytest.fixture(scope="module")
def old():
    """The stand-in of 2023: (address of the raw API, address of its websockets, its state)."""
    with run_webui_2023() as running_webui:
        yield running_webui


@pytest.fixture(scope="module")
def new():
    """The address of today's stand-in."""
    with run_webui_today("sk") as url:
        yield url


HI = [{"role": "user", "content": "Hi you"}]
NO_CONTENT = [{"role": "user"}]


def test_same_call_and_stream_run_against_the_webui_of_2023(old):
    url, stream_url, _ = old
    first = clients.chat_raw("<b>", url=url)
    assert clients.last_reply(first) == "<b>!"
    second = clients.chat_raw("Hi", first, url=url)
    assert second["internal"] == [["<b>", "<b>!"], ["Hi", "Hi!"]]
    assert list(clients.stream_raw("Hi you there", url=stream_url)) == ["", "Hi", "you", "there"]
    histories = list(clients.stream_chat_raw("Hi", first, url=stream_url))
    assert [history["internal"][-1][1] for history in histories] == ["H", "Hi", "Hi!"] and histories[
        -1
    ] == second


def test_same_calls_run_against_the_webui_of_today(new):
    client = clients.make_openai_client(new + "/v1", "sk")
    assert clients.ask_openai(client, HI) == "Hi you"
    assert list(clients.stream_openai(client, HI, stream_options={"include_usage": True})) == ["Hi", "you"]


def test_async_calls_are_on_their_way_together(new):
    async def ask_many():
        async with clients.make_async_openai_client(new + "/v1", "sk") as client:
            return await asyncio.gather(
                *(clients.ask_openai_async(client, [{"role": "user", "content": str(i)}]) for i in range(9))
            )

    assert asyncio.run(ask_many()) == [str(i) for i in range(9)]


def ask_async(client, messages):
    return asyncio.run(clients.ask_openai_async(client, messages))


WAYS = {  # every way to ask over the OpenAI API: the client it takes, the call
    "plain": (clients.make_openai_client, clients.ask_openai),
    "stream": (
        clients.make_openai_client,
        lambda client, messages: list(clients.stream_openai(client, messages)),
    ),
    "async": (clients.make_async_openai_client, ask_async),
}


@pytest.mark.parametrize("way", WAYS)
def test_refusals_read_the_same_in_every_way_to_ask(way, new, closed_url):
    make_client, ask = WAYS[way]
    with pytest.raises(KitError, match=r"Unauthorized \(status 401\) Give the server's key"):
        ask(make_client(new + "/v1", "wrong"), HI)
    with pytest.raises(KitError, match=r"Not Found \(status 404\) Look at the address"):
        ask(make_client(new, "sk"), HI)
    with pytest.raises(KitError, match=f"No server answers at {closed_url}"):
        ask(make_client(closed_url + "/v1"), HI)


def test_stream_of_2023_is_read(new):
    chunks = [
        {
            "object": "chat.completions.chunk",
            "choices": [{"index": 0, "finish_reason": end, "message": delta, "delta": delta}],
        }
        for delta, end in (
            ({"role": "assistant", "content": ""}, None),
            ({"content": "Hi"}, None),
            ({"content": ""}, "stop"),
        )
    ]
    events = "".join(f"data: {json.dumps(chunk)}\r\n\r\n" for chunk in chunks) + "data: [DONE]\r\n\r\n"
    with serve_reply(200, events.encode()) as (url, _):
        assert list(clients.stream_openai(clients.make_openai_client(url + "/v1"), HI)) == ["Hi"]


def test_stream_that_ends_before_the_answer_is_an_error(new):
    second_reply = b'HTTP/1.0 400 Bad Request\r\nContent-Type: application/json\r\n\r\n{"error": {"message": "messages is required", "code": 400}}'
    with serve_reply(200, second_reply) as (url, _), pytest.raises(KitError, match="before the answer's end"):
        list(clients.stream_openai(clients.make_openai_client(url + "/v1"), HI))
    with pytest.raises(KitError, match="before the answer's end"):
        list(clients.stream_openai(clients.make_openai_client(new + "/v1", "sk"), NO_CONTENT))


def test_error_inside_a_stream_keeps_the_servers_words():
    with (
        serve_reply(200, b'data: {"error": {"message": "out of memory"}}\n\n') as (url, _),
        pytest.raises(KitError, match="out of memory"),
    ):
        list(clients.stream_openai(clients.make_openai_client(url + "/v1"), HI))


def test_server_without_a_model_is_told_from_an_answer(old):
    url, stream_url, webui = old
    webui.model = None
    try:
        with pytest.raises(KitError, match="It has no model"):
            clients.chat_raw("Hi", url=url)
        with pytest.raises(KitError, match="It has no model"):
            list(clients.stream_chat_raw("Hi", url=stream_url))
        assert clients.chat_raw("", url=url, regenerate=True)["internal"] == []  # there was nothing to answer
    finally:
        webui.model = "llama"


def test_connection_that_closes_without_a_word_is_explained():
    with socket.create_server(("127.0.0.1", 0)) as server:

        def hang_up():
            connection, _ = server.accept()
            connection.recv(9999)
            connection.close()

        threading.Thread(target=hang_up, daemon=True).start()
        with pytest.raises(KitError, match="closed the connection without a reply"):
            clients.chat_raw("Hi", url=f"http://127.0.0.1:{server.getsockname()[1]}")


def test_raw_call_to_todays_webui_says_that_its_raw_api_is_gone(new):
    with pytest.raises(KitError, match="404.*no raw API"):
        clients.chat_raw("Hi", url=new, api_key="sk")


def test_other_programs_behind_the_address_are_told_from_a_raw_api(old):
    with serve_reply(200, b'{"hello": 1}') as (url, _), pytest.raises(KitError, match="no history"):
        clients.chat_raw("Hi", url=url)
    with (
        serve_reply(403, b"<html>Forbidden</html>") as (url, _),
        pytest.raises(KitError, match=r"request: Forbidden \(status 403\).*AirPlay"),
    ):
        clients.chat_raw("Hi", url=url)
    with pytest.raises(KitError, match="Check the address"):
        clients.chat_raw("Hi", url="127.0.0.1:5000")
    for address in (old[0].replace("http", "ws"), old[0]):
        with pytest.raises(KitError, match="no stream of the raw API .* Give the streaming port's address"):
            list(clients.stream_raw("Hi", url=address))


def test_key_is_sent_as_a_bearer_token(new):
    with pytest.raises(KitError, match="404"):  # past the 401
        clients.chat_raw("Hi", url=new, api_key="sk")
    keys = []

    def check_key(connection, request):
        keys.append(request.headers.get("Authorization"))
        return None if keys[-1] == "Bearer k" else connection.respond(401, '{"detail": "Unauthorized"}')

    def end_stream(connection):
        connection.recv()
        connection.send('{"event": "stream_end"}')

    with serve(end_stream, "127.0.0.1", 0, process_request=check_key) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        url = f"ws://127.0.0.1:{server.socket.getsockname()[1]}"
        assert list(clients.stream_raw("Hi", url=url, api_key="k")) == []
        with pytest.raises(KitError, match="Give the server's key"):
            list(clients.stream_raw("Hi", url=url))
        server.shutdown()
    assert keys == ["Bearer k", None]


@pytest.mark.parametrize(
    ("params", "pieces"),
    [({"prompt": 5}, 0), ({"prompt": "a b", "stopping_strings": ["crash"]}, 3)],
    ids=["a wrong field", "a failure on the way"],
)
def test_raw_stream_that_is_closed_before_its_end_is_an_error(old, params, pieces):
    got = []
    with pytest.raises(KitError, match="before the answer's end .code 1011"):
        got.extend(piece for piece in clients.stream_raw(url=old[1], **params))
    assert len(got) == pieces
    with pytest.raises(KitError, match="before the answer's end .code 1000"):
        list(clients.stream_raw("Hi", url=old[1] + "/wrong"))


def test_error_event_of_the_kits_server_keeps_its_words():
    def refuse(connection):
        connection.recv()
        connection.send(
            '{"event": "error", "message_num": 0, "error": {"message": "seed: too large.", "param": "seed"}}'
        )

    with serve(refuse, "127.0.0.1", 0) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        with pytest.raises(KitError, match="refused the request: seed: too large. Mend"):
            list(clients.stream_raw("Hi", url=f"ws://127.0.0.1:{server.socket.getsockname()[1]}"))
        server.shutdown()


def test_raw_stream_that_stalls_ends_after_the_timeout():
    with serve(lambda connection: connection.recv() and connection.recv(), "127.0.0.1", 0) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        with pytest.raises(KitError, match="No reply from .* in 0.1 s"):
            list(
                clients.stream_raw("Hi", url=f"ws://127.0.0.1:{server.socket.getsockname()[1]}", timeout=0.1)
            )
        server.shutdown()


def test_reader_who_stops_closes_the_raw_stream(old):
    stream = clients.stream_raw("one two three", url=old[1])
    assert [next(stream), next(stream)] == ["", "one"]
    stream.close()
    assert list(clients.stream_raw("one", url=old[1])) == ["", "one"]


def test_server_that_is_away_is_named(closed_url):
    with pytest.raises(KitError, match=closed_url):
        clients.chat_raw("Hi", url=closed_url)
    with pytest.raises(KitError, match="No server answers at ws:"):
        list(clients.stream_raw("Hi", url=closed_url.replace("http", "ws")))


def test_waiting_ends_at_once_when_the_process_has_died(closed_url, tmp_path):
    with (tmp_path / "log").open("w+") as log:
        dead = subprocess.Popen([sys.executable, "-c", "print('first'); print('out of memory')"], stdout=log)
        with pytest.raises(KitError, match="out of memory"):
            clients.wait_until_ready(closed_url, dead, timeout_s=60, log=log)


def test_waiting_has_an_end(closed_url):
    with pytest.raises(KitError, match="No answer"):
        clients.wait_until_ready(closed_url, timeout_s=0.3)


def test_taken_port_is_replaced_by_a_free_one():
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        assert server.find_port(taken.getsockname()[1]) != taken.getsockname()[1]
