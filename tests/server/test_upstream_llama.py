"""The server in front of llama.cpp's own: the same answers as its GGUF file gives in this process."""

import pytest
import requests
from support.gguf import make_tiny_gguf
from support.server import serve_app
from support.tiny import make_tiny_model

from helpers.generation.llama_engine import LlamaEngine
from helpers.generation.upstream_engine import UpstreamEngine
from helpers.generation.upstream_http import Upstream
from helpers.server.openai_api import make_openai_app
from helpers.server.raw_api import make_raw_app
from helpers.server.service import Service
from helpers.weights.folders import ModelFolder

GREEDY = {"do_sample": False, "max_new_tokens": 12}
HISTORY = {"internal": [["Yes?", "Yes"]], "visible": [["Yes?", "Yes"]]}
CHAT = {"user_input": "Hi", "history": HISTORY, "mode": "instruct", **GREEDY}
RAW = {
    "generate": ("generate", {"prompt": "Hello", **GREEDY}),
    "mirostat": ("generate", {"prompt": "Hello", "seed": 5, "mirostat_mode": 2, "max_new_tokens": 8}),
    "typical_p": ("generate", {"prompt": "Hello", "seed": 5, "typical_p": 0.3, "max_new_tokens": 8}),
    "grammar": ("generate", {"prompt": "Hello", **GREEDY, "grammar_string": 'root ::= "ab" [0-9]'}),
    "chat": ("chat", {**CHAT, "mode": "chat"}),
    "instruct": ("chat", CHAT),
    "chat-instruct": ("chat", {**CHAT, "mode": "chat-instruct"}),
    "continued": ("chat", {**CHAT, "_continue": True}),
}


@pytest.fixture(scope="module")
def engines(tmp_path_factory):
    """An engine on a GGUF file, and one that asks the HTTP server which that one runs."""
    pytest.importorskip("xllamacpp", reason="xllamacpp is not installed: pip install -e '.[llamacpp]'")
    home = tmp_path_factory.mktemp("home")
    make_tiny_gguf(home / "tiny-GGUF", make_tiny_model(home / "tiny"))
    direct = LlamaEngine(ModelFolder(home / "tiny-GGUF"))
    server = direct.server
    key = server._headers["Authorization"].removeprefix("Bearer ")
    front = UpstreamEngine(Upstream(server._server.listening_address, key))
    # The one that is asked first reads the prompt, the others find it in llama.cpp's cache. In a random model
    # that decides between tokens that are equally likely, so the first answer does not count.
    yield direct, direct, front
    front.close()
    direct.close()


@pytest.mark.parametrize("case", RAW)
def test_raw_answer_is_the_same_as_directly(engines, case):
    path, body = RAW[case]
    replies = []
    for engine in engines:
        with serve_app(make_raw_app(Service(engine=engine))) as url:
            replies.append(requests.post(f"{url}/api/v1/{path}", json=body, timeout=60).json())
    assert replies[1] == replies[2]


@pytest.mark.parametrize(
    "fields",
    [{}, {"logprobs": True, "top_logprobs": 2}, {"n": 2}],
)
def test_openai_style_answer_is_the_same_as_directly(engines, fields):
    body = {"messages": [{"role": "user", "content": "Hi"}], "temperature": 0, "max_tokens": 12, **fields}
    replies = []
    for engine in engines:
        with serve_app(make_openai_app(Service(engine=engine))) as url:
            replies.append(requests.post(f"{url}/v1/chat/completions", json=body, timeout=60).json())
    assert replies[1]["choices"] == replies[2]["choices"]
    assert replies[1]["usage"] == replies[2]["usage"]


def test_schema_is_followed(engines):
    form = {"type": "json_schema", "json_schema": {"name": "a", "schema": {"enum": ["yes", "no"]}}}
    body = {"messages": [{"role": "user", "content": "Hi"}], "response_format": form}
    with serve_app(make_openai_app(Service(engine=engines[2]))) as url:
        reply = requests.post(f"{url}/v1/chat/completions", json=body, timeout=60)
    assert reply.json()["choices"][0]["message"]["content"] in ('"yes"', '"no"')


def test_context_and_tokens_are_those_of_llama_cpp(engines):
    direct, _, front = engines
    assert (front.kind.title, front.context) == ("llama.cpp", direct.context)
    assert front.tokenize("Grüße") == direct.tokenize("Grüße")


def test_form_that_llama_cpp_does_not_take_is_refused_by_its_name(engines):
    body = {"prompt": "a", "structured_outputs": {"regex": "[a-z]+"}}
    with serve_app(make_openai_app(Service(engine=engines[2]))) as url:
        reply = requests.post(f"{url}/v1/completions", json=body, timeout=60)
    assert (reply.status_code, reply.json()["error"]["param"]) == (400, "structure")
