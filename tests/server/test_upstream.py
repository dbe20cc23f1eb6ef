"""The server in front of another one: the same answers as from that one, and its faults explained."""

import json
import os
import re
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor

import openai
import pytest
import requests
from support.rude import EVENTS, OK, serve_bytes, serve_connections
from support.scripted_engine import ScriptedEngine
from support.server import make_tiny_service, serve_app
from websockets.sync.client import connect

from helpers import clients
from helpers.common.errors import KitError, NotFoundError, UsageError
from helpers.generation.request import GenerationRequest
from helpers.generation.upstream_answer import UpstreamAnswer, read_tokens
from helpers.generation.upstream_engine import UpstreamEngine
from helpers.generation.upstream_errors import KEY_VARIABLE, UpstreamAway, UpstreamFailed
from helpers.generation.upstream_http import Upstream
from helpers.server.__main__ import parse_arguments
from helpers.server.openai_api import make_openai_app
from helpers.server.raw_api import make_raw_app
from helpers.server.raw_stream import make_streaming_app
from helpers.server.service import ModelChoice, Service

HI = [{"role": "user", "content": "Hi"}]
GREEDY = {"do_sample": False, "max_new_tokens": 12, "repetition_penalty": 1.0}
CHAT = {
    "user_input": "Hi",
    "history": {"internal": [["Yes?", "Yes"]], "visible": [["Yes?", "Yes"]]},
    **GREEDY,
}
LONG = {**GREEDY, "max_new_tokens": 60}
RAW = {
    "generate": ("generate", {"prompt": "Hello", **GREEDY}),
    "with a penalty": ("generate", {"prompt": "Hello", **GREEDY, "repetition_penalty": 1.3}),
    "sampled": ("generate", {"prompt": "Hello", "seed": 7, "max_new_tokens": 12, "top_k": 5}),
    "without BOS": ("generate", {"prompt": "Hello", **GREEDY, "add_bos_token": False}),
    "stop": ("generate", {"prompt": "Hello", **LONG, "stopping_strings": list("aeiou")}),
    "banned": ("generate", {"prompt": "Hello", **GREEDY, "custom_token_bans": "1,2,3,4,5"}),
    "grammar": ("generate", {"prompt": "Hello", **GREEDY, "grammar_string": 'root ::= "ab" [0-9]+'}),
    "too long": ("generate", {"prompt": "Hello " * 60, **GREEDY, "truncation_length": 100}),
    "chat": ("chat", CHAT),
    "instruct": ("chat", {**CHAT, "mode": "instruct", "context_instruct": "Be brief."}),
    "a template by name": ("chat", {**CHAT, "mode": "instruct", "instruction_template": "Vicuna-v1.1"}),
    "chat-instruct": ("chat", {**CHAT, "mode": "chat-instruct"}),
    "continued": ("chat", {**CHAT, "mode": "instruct", "_continue": True}),
    "auto": ("generate", {"prompt": "Hello", **GREEDY, "auto_max_new_tokens": True, "truncation_length": 40}),
    "old exchanges dropped": (
        "chat",
        {**CHAT, "mode": "instruct", "truncation_length": 200, "history": {
            "internal": [["Yes?", "Yes " * 10]] * 9, "visible": [["Yes?", "Yes " * 10]] * 9}},
    ),
}  # fmt: skip
WEIGHT = {"type": "object", "properties": {"kg": {"enum": [1, 20, 300]}}, "required": ["kg"]}
TOOL = {"type": "function", "function": {"name": "weigh", "parameters": WEIGHT}}
NAMED = {"type": "function", "function": {"name": "weigh"}}
CALL = {"id": "call_1", "type": "function", "function": {"name": "weigh", "arguments": '{"kg": 20}'}}
CALLED = {"role": "assistant", "content": None, "tool_calls": [CALL]}
RESULT = {"role": "tool", "tool_call_id": "call_1", "content": "heavy"}
OPENAI = {
    "plain": {},
    "stream": {"stream": True, "stream_options": {"include_usage": True}},
    "n": {"n": 3, "temperature": 1, "seed": 4},
    "stops": {"stop": ["a", "e"], "max_tokens": 60},
    "continued": {
        "messages": [*HI, {"role": "assistant", "content": "Hel"}],
        "extra_body": {"continue_final_message": True},
    },
    "log-probabilities": {"logprobs": True, "top_logprobs": 3},
    "log-probabilities without rivals": {"logprobs": True},
    "schema": {"extra_body": {"structured_outputs": {"choice": ["yes", "no"]}}},
    "schema and tools": {
        "tools": [TOOL], "response_format": {"type": "json_object"}, "tool_choice": "auto", "max_tokens": 200,
    },
    "a tool": {"tools": [TOOL], "tool_choice": "required", "max_tokens": 200},
    "a tool, streamed": {"tools": [TOOL], "tool_choice": NAMED, "max_tokens": 200, "stream": True},
    "a result": {"tools": [TOOL], "messages": [*HI, CALLED, RESULT], "max_tokens": 5},
    "the model's advice": {"temperature": None, "extra_body": {"top_k": 1}},
    "the other LoRA": {"model": "twist"},
    "the base": {"model": "tiny"},
    "no limit": {"max_tokens": None, "extra_body": {"structured_outputs": {"regex": "[a-z]{30}"}}},
}  # fmt: skip


@pytest.fixture(scope="module")
def direct(tmp_path_factory):
    """A service with a model and two LoRAs."""
    service = make_tiny_service(tmp_path_factory.mktemp("home"))
    yield service
    service.unload()


@pytest.fixture(scope="module")
def upstream(direct):
    """The address of its OpenAI-style API."""
    with serve_app(make_openai_app(direct)) as url:
        yield url


@pytest.fixture(scope="module")
def front(upstream):
    """A service in front of that address."""
    service = Service(upstream=Upstream(f"{upstream}/v1"))
    service.load(ModelChoice("", ("shift",)))
    yield service
    service.unload()


@pytest.fixture(scope="module")
def apis(direct, front):
    """((raw, streaming and OpenAI-style address of the one), the same of the one in front of it)."""
    both = []
    services = [serve_app(make(each)) for each in (direct, front) for make in MAKERS]
    urls = [service.__enter__() for service in services]
    both = (urls[:3], urls[3:])
    yield both
    for service in services:
        service.__exit__(None, None, None)


MAKERS = (make_raw_app, make_streaming_app, make_openai_app)


def serve_front(url, **settings):
    """An OpenAI-style API in front of this upstream."""
    engine = UpstreamEngine(Upstream(url, **settings))
    return serve_app(make_openai_app(Service(engine=engine)))


def ask(url, **fields):
    """The reply of /v1/chat/completions."""
    body = {"messages": HI, "temperature": 0, "max_tokens": 12, **fields}
    return requests.post(f"{url}/v1/chat/completions", json=body, timeout=60)


# The same answers


@pytest.mark.parametrize("case", RAW)
def test_raw_answer_is_the_same_as_directly(apis, case):
    path, body = RAW[case]
    replies = [requests.post(f"{raw}/api/v1/{path}", json=body, timeout=60) for raw, *_ in apis]
    assert replies[0].status_code == replies[1].status_code == 200
    assert replies[1].json() == replies[0].json()


@pytest.mark.parametrize("path", ["stream", "chat-stream"])
def test_websocket_s_answer_is_the_same_as_directly(apis, path):
    body = {"prompt": "Hello", **GREEDY} if path == "stream" else {**CHAT, "mode": "instruct"}
    ends = []
    for _, streaming, _ in apis:
        with connect(f"{streaming.replace('http', 'ws')}/api/v1/{path}", proxy=None) as socket:
            socket.send(json.dumps(body))
            events = [json.loads(socket.recv(60))]
            while events[-1]["event"] == "text_stream":
                events.append(json.loads(socket.recv(60)))
        ends.append(
            "".join(event["text"] for event in events[:-1]) if path == "stream" else events[-2]["history"]
        )
    assert ends[0] == ends[1] and ends[0]


def list_calls(message):
    """(name, arguments) of a message's calls; their ids are drawn at random."""
    return [(call.function.name, call.function.arguments) for call in message.tool_calls or []]


def describe(reply):
    """What must be the same in two replies."""
    if isinstance(reply, openai.Stream):
        chunks = list(reply)
        deltas = [choice.delta for chunk in chunks for choice in chunk.choices]
        text = "".join(delta.content or "" for delta in deltas)
        calls = [call.function for delta in deltas for call in delta.tool_calls or []]
        arguments = "".join(call.arguments for call in calls)
        names = [call.name for call in calls if call.name]
        return text, names, arguments, chunks[-1].usage and chunks[-1].usage.to_dict()
    probabilities = [choice.logprobs and choice.logprobs.to_dict() for choice in reply.choices]
    return reply.model, reply.usage.to_dict(), [
        (choice.message.content, choice.finish_reason, list_calls(choice.message)) for choice in reply.choices
    ], probabilities  # fmt: skip


@pytest.mark.parametrize("case", OPENAI)
def test_openai_style_answer_is_the_same_as_directly(apis, case):
    request = {"model": "x", "messages": HI, "temperature": 0, "max_tokens": 12, **OPENAI[case]}
    described = []
    for *_, url in apis:
        client = openai.OpenAI(base_url=f"{url}/v1", api_key="none", max_retries=0)
        described.append(describe(client.chat.completions.create(**request)))
    assert described[0] == described[1]


def test_completion_and_its_log_probabilities_are_the_same_as_directly(apis):
    body = {"prompt": ["Hello", "Grüße, 世界"], "max_tokens": 8, "temperature": 0, "logprobs": 2}
    replies = []
    for *_, url in apis:
        reply = requests.post(f"{url}/v1/completions", json=body, timeout=60)
        # Rounded: the two prompts are not always computed in the same steps.
        replies.append(json.loads(reply.text, parse_float=lambda number: round(float(number), 3)))
    assert replies[0]["choices"] == replies[1]["choices"]
    assert replies[0]["usage"] == replies[1]["usage"]


def test_what_no_upstream_is_asked_for_is_refused_with_a_remedy_for_it(apis):
    *_, front = apis[1]
    refused = requests.post(f"{front}/v1/completions", json={"prompt": "Hi", "prompt_logprobs": 1})
    assert refused.status_code == 400
    assert "prompt_logprobs: omit it" in refused.json()["error"]["message"]


def test_tokens_are_counted_by_the_upstream(apis):
    for body in ({"prompt": "Grüße"}, {"messages": HI}):
        replies = [requests.post(f"{url}/tokenize", json=body, timeout=60).json() for *_, url in apis]
        assert replies[0] == replies[1]
    counts = [
        requests.post(f"{raw}/api/v1/token-count", json={"prompt": "Hi"}, timeout=60).json()
        for raw, *_ in apis
    ]
    assert counts[0] == counts[1]


def test_models_of_the_upstream_are_listed_and_chosen(apis):
    lists = [requests.get(f"{url}/v1/models", timeout=60).json()["data"] for *_, url in apis]
    assert (
        [card["id"] for card in lists[1]] == [card["id"] for card in lists[0]] == ["tiny", "shift", "twist"]
    )
    assert [card["parent"] for card in lists[1]] == [None, "tiny", "tiny"]
    assert {card["max_model_len"] for card in lists[1]} == {2048}
    raw = f"{apis[1][0]}/api/v1/model"
    info = requests.post(raw, json={"action": "info"}, timeout=60).json()["result"]
    assert (info["model_name"], info["lora_names"]) == ("tiny", ["shift", "twist"])
    assert requests.post(raw, json={"action": "list"}, timeout=60).json()["result"][1:] == [
        "tiny",
        "shift",
        "twist",
    ]


def test_model_that_the_upstream_lacks_leaves_the_one_before(apis, front):
    before = front.engine
    body = {"action": "load", "model_name": "none", "args": {"lora": []}}
    reply = requests.post(f"{apis[1][0]}/api/v1/model", json=body, timeout=60)
    assert (reply.status_code, reply.json()["error"]["param"]) == (400, "model_name")
    assert front.engine is before


def test_without_a_named_lora_the_base_answers(upstream):
    engine = UpstreamEngine(Upstream(upstream))
    assert (engine.name, engine.adapters, engine.default_adapter) == ("tiny", ["shift", "twist"], None)
    engine.close()


@pytest.mark.parametrize("names", [{"model": "none"}, {"loras": ["none"]}])
def test_name_that_the_upstream_does_not_list_is_refused(upstream, names):
    with pytest.raises(NotFoundError, match="tiny, shift, twist"):
        UpstreamEngine(Upstream(upstream), **names)


@pytest.mark.parametrize("url", ["127.0.0.1:8000", "ftp://host/v1", "http://", "http://me:secret@host/v1"])
def test_address_that_cannot_be_one_is_refused(url):
    with pytest.raises(UsageError) as refused:
        UpstreamEngine(Upstream(url))
    assert "secret" not in str(refused.value)


# Who leaves


def serve_slow(pieces=200, pause_s=0.05):
    """(the engine, a context with the address) of an upstream that writes for ten seconds."""
    engine = ScriptedEngine(["word "] * pieces, pause_s)
    return engine, serve_app(make_openai_app(Service(engine=engine)))


def complete(url, **fields):
    """The reply of /v1/completions."""
    body = {"prompt": "a", "max_tokens": 300, **fields}
    return requests.post(f"{url}/v1/completions", json=body, timeout=60, stream=bool(fields.get("stream")))


def test_client_that_leaves_a_stream_ends_the_upstream_s_answer():
    engine, serving = serve_slow()
    with serving as url, serve_front(url) as front:
        with complete(front, stream=True) as reply:
            next(reply.iter_content(1))
        assert engine.ended.wait(5)
    assert engine.sent < 100


def test_client_that_leaves_a_whole_answer_ends_the_upstream_s():
    engine, serving = serve_slow()
    with serving as url, serve_front(url) as front:
        with pytest.raises(requests.Timeout):
            requests.post(f"{front}/v1/completions", json={"prompt": "a", "max_tokens": 300}, timeout=1)
        assert engine.ended.wait(5)
    assert engine.sent < 100


def test_stop_string_ends_the_upstream_s_answer():
    engine, serving = serve_slow()
    with serving as url, serve_front(url) as front:
        stops = [*(f"none {number}" for number in range(8)), "word word"]  # the upstream takes the first four
        assert complete(front, stop=stops).json()["choices"][0]["text"] == ""
        assert engine.ended.wait(5)


def test_closed_engine_ends_the_upstream_s_answer():
    engine, serving = serve_slow()
    with serving as url:
        front = UpstreamEngine(Upstream(url))
        job = front.start(GenerationRequest(prompt="a", max_new_tokens=300), lambda _: None)
        while not engine.sent:
            time.sleep(0.01)
        front.close()
        assert job.result(5).finish_reason == "length"
        assert engine.ended.wait(5)


def test_many_clients_are_answered_at_once():
    engine, serving = serve_slow(pieces=5)
    with serving as url, serve_front(url) as front, ThreadPoolExecutor(24) as threads:
        replies = threads.map(lambda _: complete(front).json()["choices"][0]["text"], range(24))
        assert set(replies) == {"word " * 5}


# Faults of the upstream

CHUNKED = EVENTS.replace(b"Connection: close", b"Transfer-Encoding: chunked")
MODELS = b'{"data": [{"id": "m"}]}'


def receive(connection):
    """(the first line of a request, its body)."""
    head, _, body = connection.recv(65536).partition(b"\r\n\r\n")
    length = re.search(rb"content-length: (\d+)", head, re.IGNORECASE)
    while length and len(body) < int(length[1]):
        body += connection.recv(65536)
    return head.split(b"\r\n")[0], body


def serve_fault(*parts, forever=b"", pause=0.0, head=EVENTS):
    """An upstream that lists one model and answers requests with these bytes."""

    def answer(connection):
        asked, _ = receive(connection)
        if b"/v1/models" in asked:
            connection.sendall(OK + MODELS)
        elif b"/completions" in asked:
            connection.sendall(head + b"".join(parts))
            while forever:
                connection.sendall(forever)
                time.sleep(pause)
        else:
            connection.sendall(b"HTTP/1.1 404 Not Found\r\nConnection: close\r\n\r\n")

    return serve_connections(answer)


def refuse(status, error):
    """The head and the body of a refusal."""
    body = json.dumps(error).encode()
    return b"HTTP/1.1 %d Refused\r\nContent-Length: %d\r\nConnection: close\r\n\r\n%s" % (
        status,
        len(body),
        body,
    )


def say(text, reason=None):
    """An event."""
    choice = {"index": 0, "delta": {"content": text}, "finish_reason": reason}
    return b"data: " + json.dumps({"choices": [choice]}).encode() + b"\n\n"


REFUSED = {"message": "unknown field: top_k", "param": "top_k", "code": "odd"}
MOVED = b"HTTP/1.1 302 Found\r\nLocation: http://other\r\nConnection: close\r\n\r\n"
LOST = b'data: {"error": {"message": "lost", "code": 500}}\n\n'
FAULTS = {
    "wrong key": (dict(head=refuse(401, {"error": {"message": "no key"}})), 502, "--upstream-key"),
    "its request": (dict(head=refuse(400, {"error": REFUSED})), 400, "unknown field: top_k"),
    "plain words": (dict(head=refuse(422, {"detail": "no min_p here"})), 400, "no min_p here"),
    "too many": (dict(head=refuse(429, {"error": {"message": "slow down"}})), 429, "slow down"),
    "its failure": (dict(head=refuse(500, {"error": {"message": "CUDA"}})), 502, "CUDA"),
    "no such path": (dict(head=refuse(404, {"detail": "Not Found"})), 502, "--upstream"),
    "elsewhere": (dict(head=MOVED), 502, "302"),
    "not a stream": (dict(head=OK + b'{"choices": []}'), 502, "application/json"),
    "not JSON": (dict(head=EVENTS + b"data: {\n\n"), 502, "not JSON"),
    "another form": (dict(head=EVENTS + b'data: {"choices": 5}\n\n'), 502, "choices is 5"),
    "an error as event": (dict(head=EVENTS + LOST), 502, "lost"),
    "broken off": (dict(head=EVENTS + say("a")), 502, "before the end"),
    "nothing": (dict(head=b""), 502, "closed the connection"),
    "one line without end": (dict(head=CHUNKED, forever=b"100000\r\n%s\r\n" % (b"x" * 2**20)), 502, "larger"),
    "one line without end or chunks": (dict(forever=b"x" * 2**20), 502, "larger"),
    "lines and colours": (dict(head=refuse(500, {"detail": "a\n b\x1b[31m"})), 502, r"a b\x1b[31m"),
    "late": (dict(forever=b": still here\n\n", pause=0.05), 504, "no text for 0.5 s"),
}  # fmt: skip


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("fault", FAULTS)
def test_fault_of_the_upstream_is_one_error_with_a_status(fault, stream):
    how, status, said = FAULTS[fault]
    with serve_fault(**how) as url, serve_front(url, wait_s=0.5 if fault == "late" else 30) as front:
        reply = ask(front, stream=stream)
        if fault == "broken off" and stream:  # the answer has begun
            error = json.loads(reply.text.split("data: ")[-2])["error"]
        else:
            assert reply.status_code == status
            error = reply.json()["error"]
    assert said in error["message"]


def test_refusal_of_the_upstream_names_the_field():
    how, *_ = FAULTS["its request"]
    with serve_fault(**how) as url, serve_front(url) as front:
        error = ask(front, top_k=5).json()["error"]
    assert (error["param"], error["code"]) == ("top_k", "odd")


@pytest.mark.parametrize(
    "token",
    [
        {"token": "a", "logprob": -1, "bytes": 300_000_000},  # a number, of which `bytes` makes as many zeros
        {"token": "a", "logprob": -1, "bytes": 10**30},
        {"token": "a", "logprob": 10**400, "bytes": [97]},
        {"token": "a", "logprob": float("nan"), "bytes": [97]},
        {"token": "a", "logprob": "-1", "bytes": [97]},
    ],
)
def test_log_probabilities_that_are_none_are_refused(token):
    with pytest.raises(UpstreamFailed, match="log-probabilities"):
        list(read_tokens({"content": [{**token, "top_logprobs": []}]}, 1))


def test_infinite_log_probability_becomes_a_number_of_json():
    entry = {"token": "a", "logprob": float("-inf"), "bytes": None, "top_logprobs": []}
    [token] = read_tokens({"content": [entry]}, 1)
    assert (token.data, token.logprob) == (b"a", -9999.0)


def test_half_characters_of_an_upstream_are_replaced():
    pieces = []
    answer = UpstreamAnswer(GenerationRequest(max_new_tokens=9), pieces.append)
    call = {"index": 0, "function": {"name": "f\ud800", "arguments": "{}"}}
    answer.take(
        {"choices": [{"delta": {"content": "a\ud800b", "tool_calls": [call]}, "finish_reason": "stop"}]}
    )
    answer.finish()
    text = "".join(piece.text for piece in pieces)
    assert text.startswith("a\ufffdb") and "f\ufffd" in text


def test_answer_without_end_is_cut():
    with serve_fault(forever=say("word " * 1000)) as url, serve_front(url) as front:
        reply = ask(front).json()["choices"][0]
    assert reply["finish_reason"] == "length"
    assert len(reply["message"]["content"]) < 10_000


def test_stream_that_stays_open_after_the_answer_does_not_hold_it_up():
    with (
        serve_fault(say("Hello", "stop"), b"data: [DONE]\n\n", forever=b": more\n\n") as url,
        serve_front(url) as front,
    ):
        assert ask(front).json()["choices"][0]["message"]["content"] == "Hello"


def test_upstream_that_has_gone_is_a_503():
    with serve_fault() as url:
        engine = UpstreamEngine(Upstream(url))
    with serve_app(make_openai_app(Service(engine=engine))) as front:
        reply = ask(front)
    assert (reply.status_code, reply.headers["Retry-After"]) == (503, "2")


@pytest.mark.parametrize(
    ("parts", "error"),
    [
        ((b"HTTP/1.1 401 No\r\nContent-Length: 0\r\nConnection: close\r\n\r\n",), UpstreamFailed),
        ((OK, b"<html>"), UpstreamFailed),
        ((OK, b'{"models": []}'), UpstreamFailed),
        ((OK, b'{"data": []}'), NotFoundError),
    ],
)
def test_upstream_that_is_none_is_refused_at_the_start(parts, error):
    with serve_bytes(*parts) as url, pytest.raises(error):
        UpstreamEngine(Upstream(url))


def test_upstream_out_of_reach_is_refused_at_the_start():
    with pytest.raises(UpstreamAway, match="--upstream"):
        UpstreamEngine(Upstream("http://127.0.0.1:9"))


def test_unknown_upstream_s_tokens_are_estimated_and_said_to_be():
    with serve_fault() as url:
        service = Service(engine=UpstreamEngine(Upstream(url)))
        with serve_app(make_raw_app(service)) as raw, serve_app(make_openai_app(service)) as front:
            reply = requests.post(f"{raw}/api/v1/token-count", json={"prompt": "Hello you"}, timeout=60)
            assert reply.json() == {"results": [{"tokens": 4, "estimated": True}]}
            assert requests.post(f"{front}/tokenize", json={"prompt": "a"}, timeout=60).status_code == 400


def test_the_key_of_the_upstream_is_sent(direct):
    with serve_app(make_openai_app(direct, "secret")) as url:
        with pytest.raises(KitError, match="--upstream-key"):
            UpstreamEngine(Upstream(url, "wrong"))
        with serve_front(url, api_key="secret") as front:
            assert ask(front).status_code == 200


def test_fields_that_only_the_upstream_knows_reach_it():
    got = []

    def answer(connection):
        asked, body = receive(connection)
        if b"/chat/completions" in asked:
            got.append(json.loads(body))
            connection.sendall(EVENTS + say("Hi", "stop"))
        else:
            connection.sendall(OK + MODELS)

    with serve_connections(answer) as url, serve_front(url) as front:
        thinking = {"chat_template_kwargs": {"enable_thinking": False}, "reasoning_effort": "low"}
        assert ask(front, **thinking, safe_mode=1).status_code == 200
        assert got[0]["safe_mode"] == 1
        assert thinking.items() <= got[0].items()
        assert "top_k" not in got[0]  # nobody asked for it, and the upstream may not know it
        assert ask(front, tools=[{"type": "function"}]).status_code == 400


# The command


def test_server_in_front_of_another_one_needs_no_torch(upstream):
    code = """
import sys
from helpers.server.__main__ import ModelChoice, Service, Upstream, make_apps, parse_arguments
options = parse_arguments(["--upstream", sys.argv[1], "--api", "--extensions", "openai"])
service = Service(upstream=Upstream(options.upstream))
service.load(ModelChoice(options.model or ""))
make_apps(options, service)
print("torch" in sys.modules, service.engine.name)
"""
    command = [sys.executable, "-c", code, upstream]
    said = subprocess.run(command, capture_output=True, text=True, timeout=60, check=True).stdout
    assert said.split() == ["False", "tiny"]


def test_key_of_the_upstream_is_from_the_command_line_or_a_file_or_the_environment(tmp_path, monkeypatch):
    front = ["--upstream", "http://host", "--api"]
    (tmp_path / "key").write_text("of-file\n")
    monkeypatch.setenv(KEY_VARIABLE, "of-environment")
    assert parse_arguments([*front, "--upstream-key", "of-line"]).upstream_key == "of-line"
    assert parse_arguments([*front, "--upstream-key-file", str(tmp_path / "key")]).upstream_key == "of-file"
    monkeypatch.setenv(KEY_VARIABLE, "of-environment")
    assert parse_arguments(front).upstream_key == "of-environment"
    assert KEY_VARIABLE not in os.environ
    monkeypatch.setenv(KEY_VARIABLE, "of-environment")
    assert parse_arguments(["--model", "m", "--api"]).model == "m"


@pytest.mark.parametrize(
    "arguments",
    [
        ["--api"],
        ["--model", "m", "--api", "--upstream-key", "k"],
        ["--upstream", "http://host"],
        ["--upstream"],
    ],
)
def test_command_without_a_model_or_an_upstream_or_an_api_is_refused(arguments):
    with pytest.raises(UsageError):
        parse_arguments(arguments)


@pytest.mark.parametrize(
    "setting", [{"dtype": "float32"}, {"loader": "transformers"}, {"chat_template": "chatml"}]
)
def test_upstream_takes_no_settings_of_a_load(upstream, setting):
    with pytest.raises(UsageError, match="upstream"):
        Service(upstream=Upstream(upstream)).load(ModelChoice("tiny", **setting))


@pytest.mark.long
def test_server_in_front_of_another_one_as_a_process(upstream):
    with clients.start_server("tiny", ["shift"], ["--upstream", upstream]) as server:
        client = clients.make_openai_client(server.openai_url)
        answers = [
            clients.ask_openai(client, HI, name, temperature=0, max_tokens=8) for name in ("x", "tiny")
        ]
        assert answers == [
            ask(upstream, model=name, max_tokens=8).json()["choices"][0]["message"]["content"]
            for name in ("shift", "tiny")
        ]
        history = clients.chat_raw(
            "Hi", url=server.raw_url, mode="instruct", **{**GREEDY, "max_new_tokens": 8}
        )
        assert clients.last_reply(history).strip() == answers[0].strip()
        *_, streamed = clients.stream_chat_raw(
            "Hi", url=server.streaming_url, mode="instruct", **{**GREEDY, "max_new_tokens": 8}
        )
        assert streamed == history
