"""What the tests of this room share: a home with a LoRA, and a port that is taken."""

import socket

import openai
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


@pytest.fixture(scope="module")
def clients(tmp_path_factory):
    """A client of each engine, which have the same weights."""
    from support.gguf import make_tiny_gguf
    from support.server import serve_app
    from support.tiny import make_tiny_model

    from helpers.server.openai_api import make_openai_app
    from helpers.server.service import ModelChoice, Service

    pytest.importorskip("xllamacpp", reason="xllamacpp is not installed: pip install -e '.[llamacpp]'")
    home = tmp_path_factory.mktemp("home")
    folder = make_tiny_model(home / "models" / "tiny")
    make_tiny_gguf(home / "models" / "tiny-GGUF", folder)
    services = [Service(home / "models", home / "loras") for _ in range(2)]
    services[0].load(ModelChoice("tiny", dtype="float32"))
    services[1].load(ModelChoice("tiny-GGUF"))
    with serve_app(make_openai_app(services[0])) as one, serve_app(make_openai_app(services[1])) as other:
        yield [openai.OpenAI(base_url=f"{url}/v1", api_key="none", max_retries=0) for url in (one, other)]
    for service in services:
        service.unload()
