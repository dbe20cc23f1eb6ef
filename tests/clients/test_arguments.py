"""What clients are given and cannot use: a UsageError that names it, before anything is sent."""

import pytest

from helpers import clients
from helpers.common.errors import UsageError
from helpers.common.http import send_request

HI = [{"role": "user", "content": "Hi"}]
HALF = "\ud800"
URL = "http://127.0.0.1:1"  # nothing listens there: a ServerError would say that something was sent


def ask(messages=HI, **params):
    return clients.ask_openai(clients.make_openai_client(URL), messages, **params)


@pytest.mark.parametrize("timeout", [0, -1, "a", float("nan"), float("inf"), None, True])
def test_timeout_is_a_time(timeout):
    calls = (
        lambda: send_request("GET", URL, timeout=timeout),
        lambda: clients.chat_raw("x", url=URL, timeout=timeout),
        lambda: list(clients.stream_raw("x", url="ws://127.0.0.1:1", timeout=timeout)),
        lambda: clients.wait_until_ready(URL, timeout_s=timeout),
    )
    for call in calls:
        with pytest.raises(UsageError, match="timeout"):
            call()


@pytest.mark.parametrize(
    "url", ["", "x", "http://", "ftp://x", "localhost:5001", "http://user:secret@127.0.0.1:1"]
)
def test_address_is_one_and_has_no_password_that_errors_would_show(url):
    for call in (
        lambda: clients.make_openai_client(url),
        lambda: clients.make_async_openai_client(url),
        lambda: clients.wait_until_ready(url),
        lambda: clients.chat_raw("x", url=url),
        lambda: list(clients.stream_raw("x", url=url)),
    ):
        with pytest.raises(UsageError, match="address") as caught:
            call()
        assert "secret" not in str(caught.value)


@pytest.mark.parametrize("name", ["SSL_CERT_FILE", "REQUESTS_CA_BUNDLE"])
def test_variable_that_names_no_certificates_is_named(monkeypatch, tmp_path, name):
    monkeypatch.setenv(name, str(tmp_path / "nothing.pem"))
    with pytest.raises(UsageError, match=name):
        if name == "SSL_CERT_FILE":
            clients.make_openai_client("https://example.invalid/v1")
        else:
            clients.chat_raw("x", url="https://127.0.0.1:1")


def test_variable_that_no_header_can_hold_is_named(monkeypatch):
    monkeypatch.setenv("OPENAI_PROJECT_ID", "ü")
    with pytest.raises(UsageError, match="OPENAI_PROJECT_ID"):
        clients.make_openai_client(URL)


@pytest.mark.parametrize("timeout", [0, -1, "a", float("nan")])
def test_timeout_of_the_openai_client_is_a_time(timeout):
    with pytest.raises(UsageError, match="timeout"):
        ask(timeout=timeout)


@pytest.mark.parametrize("key", ["ключ", "a\nb", 5, "", None])
def test_key_can_be_sent(key):
    for make in (clients.make_openai_client, clients.make_async_openai_client):
        with pytest.raises(UsageError, match="api_key"):
            make(URL, key)


@pytest.mark.parametrize("key", ["ключ", "a\nb", 5])
def test_key_of_the_raw_api_can_be_sent_and_is_not_repeated(key):
    with pytest.raises(UsageError, match="api_key") as caught:
        clients.chat_raw("x", url=URL, api_key=key)
    assert "ключ" not in str(caught.value)


@pytest.mark.parametrize("url", [None, 5, "http://[bad", "http://127.0.0.1:99999"])
def test_address_can_be_one(url):
    for call in (lambda: clients.chat_raw("x", url=url), lambda: clients.make_openai_client(url)):
        with pytest.raises(UsageError):
            call()


@pytest.mark.parametrize(
    "params", [{"temperature": float("nan")}, {"x": HALF}, {"x": object()}, {"history": 5}]
)
def test_values_of_the_raw_api_can_be_sent(params):
    with pytest.raises(UsageError):
        clients.chat_raw("x", url=URL, **params)
    with pytest.raises(UsageError):
        list(clients.stream_chat_raw("x", url="ws://127.0.0.1:1", **params))


@pytest.mark.parametrize(
    "params", [{"temperature": float("nan")}, {"stop": HALF}, {"foo": 1}, {"stop": object()}]
)
def test_values_of_the_openai_client_can_be_sent(params):
    with pytest.raises(UsageError):
        ask(**params)


@pytest.mark.parametrize(
    "messages", [None, 5, "x", [{"role": "user", "content": HALF}], [{"role": object()}]]
)
def test_messages_can_be_sent(messages):
    with pytest.raises(UsageError):
        ask(messages)


@pytest.mark.parametrize("ports", [{"openai": 99999}, {"openai": "a"}, {"openai": 45872, "foo": 1}, 5, {}])
def test_ports_of_a_server_can_be_ports(ports):
    with pytest.raises(UsageError):
        clients.launch_server("x", ports)


@pytest.mark.parametrize("history", [{}, {"internal": [], "visible": []}, 5, {"visible": 3}])
def test_history_without_a_reply_is_named(history):
    with pytest.raises(UsageError, match="history"):
        clients.last_reply(history)
