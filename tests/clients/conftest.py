"""Servers to call: the two stand-ins for the WebUI, and an address where nothing listens."""

import socket

import pytest
from support.fake_webui import run_webui_2023, run_webui_today


@pytest.fixture(scope="module")
def old():
    """The stand-in of 2023: `url`, `stream_url` and `webui`, its state."""
    with run_webui_2023() as running:
        yield running


@pytest.fixture(scope="module")
def new():
    """The address of today's stand-in; its key is "sk"."""
    with run_webui_today("sk") as url:
        yield url


@pytest.fixture
def closed_url():
    """An address where nothing listens."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return f"http://127.0.0.1:{probe.getsockname()[1]}"
