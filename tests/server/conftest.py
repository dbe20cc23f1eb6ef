"""What the tests of this room share: a home with a LoRA, and a port that is taken."""

import socket

import pytest


@pytest.fixture(scope="module")
def server_home(tmp_path_factory):
    """A home with a tiny model and one adapter."""
    from support.tiny import make_tiny_adapter, make_tiny_model

    home = tmp_path_factory.mktemp("home")
    make_tiny_adapter(home / "loras" / "shift", make_tiny_model(home / "models" / "tiny"))
    return home


@pytest.fixture(scope="module")
def taken_port():
    """A port that is in use when the server starts."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        yield taken.getsockname()[1]


@pytest.fixture
def at_home(server_home, monkeypatch):
    """Commands in this process use `server_home`."""
    monkeypatch.setenv("OPEN_LLM_KIT_HOME", str(server_home))
