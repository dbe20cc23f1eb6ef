import contextlib
import http.server
import json
import socket
import subprocess
import sys
import threading

import pytest

from helpers import KitError, clients


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
        threading.Thread(target=server.serve_forever, daemon=True).start()
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
    with serve_reply(200, b"") as (url, _), pytest.raises(KitError, match="no history"):
        clients.chat_raw("Hi", url=url)


def test_refusal_carries_the_servers_words():
    body = json.dumps({"error": {"message": "seed: too large.", "type": "invalid_request_error", "param": "seed", "code": None}}).encode()
    with serve_reply(400, body) as (url, _):
        with pytest.raises(KitError, match="seed: too large"):
            clients.chat_raw("Hi", url=url)
        with pytest.raises(KitError, match="seed: too large"):
            clients.ask_openai(clients.make_openai_client(url + "/v1"), [{"role": "user", "content": "Hi"}])


def test_server_that_is_away_is_named(closed_url):
    with pytest.raises(KitError, match=closed_url):
        clients.chat_raw("Hi", url=closed_url)
    with pytest.raises(KitError, match=closed_url):
        clients.ask_openai(clients.make_openai_client(closed_url + "/v1"), [{"role": "user", "content": "Hi"}])


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
        assert clients.find_port(taken.getsockname()[1]) != taken.getsockname()[1]
