"""This computer is asked directly; everything else through the proxies that the environment names."""

import importlib.util
import os
from http.server import BaseHTTPRequestHandler

import pytest
import requests
from support.fake_webui import serve_http

from helpers import clients
from helpers.common.addresses import LOCAL_NAMES, is_local, spare_localhost
from helpers.common.errors import KitError, MissingPackageError, ServerError
from helpers.common.http import open_session, send_request

HI = [{"role": "user", "content": "Hi you"}]
ASK = {  # name: (a call to a server at an HTTP address, the line that a proxy gets if the address is REMOTE)
    "raw": (
        lambda url: clients.chat_raw("Hi", url=url, timeout=9),
        "POST http://example.test/api/v1/chat HTTP/1.1",
    ),
    "control": (
        lambda url: clients.make_control("2023", url, timeout=9).describe(),
        "POST http://example.test/api/v1/model HTTP/1.1",
    ),
    "stream": (
        lambda url: list(clients.stream_raw("Hi", url.replace("http", "ws"), timeout=9)),
        "CONNECT example.test:80 HTTP/1.1",
    ),
    "openai": (
        lambda url: clients.ask_openai(clients.make_openai_client(f"{url}/v1", "sk"), HI),
        "POST http://example.test/v1/chat/completions HTTP/1.1",
    ),
    "waiting": (
        lambda url: clients.wait_until_ready(url, timeout_s=9),
        "GET http://example.test/ HTTP/1.1",
    ),
}
REMOTE = "http://example.test"
http_only = pytest.mark.parametrize("proxy", ["http"], indirect=True)
socks_only = pytest.mark.parametrize("proxy", ["socks5"], indirect=True)


@pytest.mark.parametrize(
    ("url", "local"),
    [
        ("http://localhost:5000/v1", True),
        ("http://LocalHost", True),
        ("ws://127.0.0.1:5005", True),
        ("https://127.8.9.1", True),
        ("http://[::1]:5000", True),
        ("http://0.0.0.0:5000", True),
        ("http://user:key@127.0.0.1", True),
        ("http://128.0.0.1", False),
        ("http://localhost.example.test", False),
        ("http://127.0.0.1.example.test", False),
        ("http://example.test/localhost", False),
        ("http://localhost@example.test", False),
        ("http://[::2]", False),
        ("http://[::1", False),
        ("", False),
    ],
)
def test_this_computer_has_these_addresses(url, local):
    assert is_local(url) is local


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost"])
@pytest.mark.parametrize("name", ASK)
def test_server_on_this_computer_is_asked_without_a_proxy(name, host, old, new, proxy):
    urls = {"openai": new, "stream": old.stream_url.replace("ws", "http")}
    ask, _ = ASK[name]
    ask(urls.get(name, old.url).replace("127.0.0.1", host))
    assert proxy == []


def test_control_of_today_and_async_clients_ask_without_a_proxy(new, proxy):
    clients.make_control("today", new, "sk").describe()
    clients.make_async_openai_client(f"{new}/v1", "sk")  # raised an ImportError for socks5://
    assert proxy == []


@http_only
@pytest.mark.parametrize("name", ASK)
def test_remote_server_is_asked_through_the_proxy(name, proxy):
    ask, line = ASK[name]
    if name == "waiting":
        ask(REMOTE)  # any answer ends the wait, that of the proxy too
    else:
        with pytest.raises(ServerError):
            ask(REMOTE)
    assert proxy == [line]


@http_only
@pytest.mark.parametrize("name", ["raw", "openai", "stream"])
def test_remote_server_that_no_proxy_names_is_asked_directly(name, proxy, monkeypatch):
    monkeypatch.setenv("NO_PROXY", "example.test")
    with pytest.raises(KitError):  # the server does not exist
        ASK[name][0](REMOTE)
    assert proxy == []


@socks_only
@pytest.mark.parametrize(("name", "package"), [("raw", "socks"), ("openai", "socksio")])
def test_socks_proxy_without_its_package_is_one_line_with_a_remedy(name, package, proxy):
    if importlib.util.find_spec(package):
        pytest.skip(f"{package} is here")
    with pytest.raises(MissingPackageError, match="socksio"):
        ASK[name][0](REMOTE)


@http_only
def test_each_step_of_a_redirect_keeps_the_rule(proxy):
    targets = {"/here": "/there", "/there": f"{REMOTE}/away"}

    class Redirect(BaseHTTPRequestHandler):
        def do_GET(self):
            self.send_response(302)
            self.send_header("Location", targets[self.path])
            self.end_headers()

        def log_message(self, *_):
            pass

    with serve_http(Redirect) as (url, _), open_session() as session:
        assert session.get(f"{url}/here").status_code == 502  # the proxy's
    assert proxy == [f"GET {REMOTE}/away HTTP/1.1"]


@http_only
def test_plain_requests_of_a_lesson_are_spared_too(old, proxy, monkeypatch):
    monkeypatch.setenv("NO_PROXY", "intranet")
    monkeypatch.setenv("no_proxy", "intranet")
    spare_localhost()
    spare_localhost()  # the names are added once
    assert os.environ["NO_PROXY"].split(",") == ["intranet", *LOCAL_NAMES]
    assert requests.get(f"{old.url}/api/v1/model").ok
    assert proxy == []


def test_environment_without_a_proxy_stays_as_it_is(monkeypatch):
    for name in [name for name in os.environ if name.lower().endswith("_proxy")]:
        monkeypatch.delenv(name)
    spare_localhost()
    assert "NO_PROXY" not in os.environ


def test_request_of_the_common_room_is_direct(old, proxy):
    assert send_request("GET", f"{old.url}/api/v1/model") == {"result": "llama"}
    assert proxy == []
