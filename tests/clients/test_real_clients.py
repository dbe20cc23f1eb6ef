"""Other people's clients do their work with the real server: chats, streams, tools, objects.

What a client does is in tests/clients/real/use_CLIENT.py, or in its folder npm. A model of 135 million
parameters says little that is true, so nothing is asked of what it says.
"""

import pytest
from support.real_clients import REAL, CannotInstall, find_node_folder, find_python, use

from helpers import clients
from helpers.server.ports import find_port

pytestmark = [pytest.mark.slow, pytest.mark.real, pytest.mark.timeout(3600)]

PYTHON_CLIENTS = ("openai", "langchain", "pydantic_ai", "instructor", "openai_agents", "autogen", "llm")
NODE_CLIENTS = ("openai", "ai_sdk")
APART = ("instructor",)  # takes no openai after 3.3


@pytest.fixture(scope="module", params=["transformers", "llama.cpp"])
def server(request, real_model_name):
    """The real server with each engine, in a process of its own."""
    name = real_model_name
    if request.param == "llama.cpp":
        pytest.importorskip("xllamacpp", reason="xllamacpp is not installed: pip install -e '.[llamacpp]'")
        name += "-GGUF"
    with clients.launch_server(name, {"openai": find_port(0)}) as running:
        running.wait_until_ready()
        yield running


@pytest.mark.parametrize("client", PYTHON_CLIENTS)
def test_python_client_does_its_work(client, server):
    pins = f"requirements-{client}.txt" if client in APART else "requirements.txt"
    try:
        python = find_python(REAL / pins)
    except CannotInstall as reason:
        pytest.skip(str(reason))
    use([python, REAL / f"use_{client}.py", server.openai_url, server.model])


@pytest.mark.parametrize("client", NODE_CLIENTS)
def test_node_client_does_its_work(client, server):
    try:
        folder = find_node_folder()
    except CannotInstall as reason:
        pytest.skip(str(reason))
    use(["node", folder / f"use_{client}.mjs", server.openai_url, server.model])
