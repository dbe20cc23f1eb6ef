"""A server in a process of its own: its command line, the wait for it, and its end."""

import socket
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from http.server import BaseHTTPRequestHandler, HTTPServer

import pytest
from support.tiny import make_tiny_model

from helpers import clients
from helpers.clients.process import RunningServer, describe_taken_ports, list_arguments
from helpers.common.errors import KitError, ServerError, UsageError
from helpers.server.ports import PORTS, find_port


@pytest.fixture
def taken_port():
    """A port that something listens on."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        yield taken.getsockname()[1]


def test_command_line_names_the_apis_and_the_unusual_ports():
    usual = list_arguments("m", PORTS, ["a", "b"], ["--dtype", "float32"])
    assert usual == "--model m --lora a b --api --extensions openai --dtype float32".split()
    moved = list_arguments("m", {"openai": 7001}, [], [])
    assert moved == "--model m --extensions openai --openai-port 7001".split()
    raw = list_arguments("m", {"raw": 7000, "streaming": PORTS["streaming"]}, [], [])
    assert raw == "--model m --api --api-blocking-port 7000".split()


def test_note_names_the_taken_ports_and_those_in_their_place():
    assert describe_taken_ports(PORTS) == ""
    note = describe_taken_ports({**PORTS, "raw": 7000, "openai": 7001})
    assert all(str(port) in note for port in (PORTS["raw"], PORTS["openai"], 7000, 7001))


def test_launch_without_an_api_is_refused():
    with pytest.raises(UsageError):
        clients.launch_server("m", {"streaming": 7005})


def test_launch_on_a_taken_port_is_refused(taken_port):
    with pytest.raises(KitError, match=str(taken_port)):
        clients.launch_server("m", {"openai": taken_port})


def test_taken_port_is_replaced_by_a_free_one(taken_port):
    assert find_port(taken_port) != taken_port


def test_server_that_cannot_start_says_why_and_is_gone(home):
    port = find_port(PORTS["openai"])
    server = clients.launch_server("no-such-model", {"openai": port}, ["shift"])
    assert server.openai_url == f"http://127.0.0.1:{port}/v1"
    assert (server.model, server.loras) == ("no-such-model", ("shift",))
    assert server.models == ("shift", "no-such-model")
    assert [server.choose_model(name) for name in ("shift", "other")] == ["shift", "no-such-model"]
    with pytest.raises(ServerError, match="no-such-model"):
        server.wait_until_ready()
    assert not server.runs_here()
    server.stop()  # a second time does nothing


def test_server_is_stopped_at_the_end_of_its_block(home):
    with clients.launch_server("no-such-model", {"openai": find_port(PORTS["openai"])}) as server:
        pass
    assert not server.runs_here()


def test_waiting_ends_when_the_process_has_died(closed_url, tmp_path):
    with (tmp_path / "log").open("w+") as log:
        dead = subprocess.Popen([sys.executable, "-c", "print('first'); print('out of memory')"], stdout=log)
        with pytest.raises(ServerError, match="out of memory"):
            clients.wait_until_ready(closed_url, dead, timeout_s=500, log=log)


def test_waiting_has_an_end(closed_url):
    with pytest.raises(ServerError, match=closed_url):
        clients.wait_until_ready(closed_url, timeout_s=0.3)


def test_any_answer_ends_the_wait(new):
    clients.wait_until_ready(new)  # its answer is a 401


@pytest.mark.long
def test_another_server_on_the_port_is_not_taken_for_it(home):
    make_tiny_model(home / "models" / "tiny")
    with HTTPServer(("127.0.0.1", 0), BaseHTTPRequestHandler) as other, ThreadPoolExecutor() as pool:
        pool.submit(other.serve_forever)
        try:
            with pytest.raises(ServerError, match="Port"):
                RunningServer("tiny", {"openai": other.server_port}).wait_until_ready()
        finally:
            other.shutdown()
