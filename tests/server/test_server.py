import json
import os
import socket
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor

import openai
import psutil
import pytest
import requests
from fastapi.testclient import TestClient
from peft import LoraConfig, get_peft_model
from support.tiny import make_tiny_adapter, make_tiny_model

from helpers import KitError, clients
from helpers.common.command import run_command
from helpers.generation.request import GenerationRequest
from helpers.generation.transformers_engine import ROWS, TransformersEngine
from helpers.loading.model import load_model
from helpers.server.__main__ import main
from helpers.server.openai_api import make_openai_app
from helpers.server.openai_bodies import ChatCompletionBody
from helpers.server.ports import PORTS, open_port
from helpers.server.service import Choice, Service

ANY_PORTS = ["--api-blocking-port", "0", "--api-streaming-port", "0"]


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    """The real server process, on a tiny model with one adapter; its usual port was taken, and it ends well."""
    home = tmp_path_factory.mktemp("home")
    make_tiny_adapter(home / "loras" / "shift", make_tiny_model(home / "models" / "tiny"))
    with pytest.MonkeyPatch.context() as patch, socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        patch.setenv("OPEN_LLM_KIT_HOME", str(home))
        patch.setitem(PORTS, "raw", taken.getsockname()[1])
        running = clients.start_server("tiny", loras=["shift"], extra=["--dtype", "float32"])
        running.home, running.taken = home, PORTS["raw"]
    with running:
        yield running
    assert running.process.poll() == 0


def post(server, path, **body):
    return requests.post(server.raw_url + path, json=body, timeout=60)


def test_raw_chat_adds_a_row_to_both_histories(server):
    history = {"internal": [["Reply with Yes", "Yes"]], "visible": [["Reply with Yes", "<b>Yes</b>"]]}
    result = clients.chat_raw("1 < 2 & 'so'", history, url=server.raw_url, max_new_tokens=8, do_sample=False)
    assert result["internal"][0] == ["Reply with Yes", "Yes"] and result["visible"][0] == [
        "Reply with Yes",
        "<b>Yes</b>",
    ]
    assert (
        result["internal"][1][0] == "1 < 2 & 'so'"
        and result["visible"][1][0] == "1 &lt; 2 &amp; &#x27;so&#x27;"
    )
    assert clients.last_reply(result) == result["internal"][1][1]


def test_raw_chat_regenerates_and_continues_the_last_reply(server):
    ask = {"max_new_tokens": 6, "do_sample": False, "url": server.raw_url}
    first = clients.chat_raw("Hi", **ask)
    assert clients.chat_raw("ignored", first, regenerate=True, **ask) == first
    longer = clients.chat_raw("ignored", first, _continue=True, **ask)
    assert len(longer["internal"]) == 1 and longer["internal"][0][1].startswith(first["internal"][0][1])
    assert clients.chat_raw("x", {"internal": [], "visible": []}, regenerate=True, **ask) == {
        "internal": [],
        "visible": [],
    }


def test_context_instruct_is_part_of_the_prompt(server):
    ask = {"max_new_tokens": 16, "do_sample": False, "url": server.raw_url}
    assert clients.chat_raw("Hi", context_instruct="Be brief.", **ask) != clients.chat_raw(
        "Hi", context_instruct="Shout!", **ask
    )


def test_what_is_not_honoured_is_reported(server):
    reply = post(
        server,
        "/api/v1/chat",
        user_input="Hi",
        max_new_tokens=1,
        mirostat_mode=2,
        tfs=1,
        nonsense=1,
        mode="instruct",
    ).json()
    assert reply["ignored"] == ["mirostat_mode", "nonsense"]


def test_older_names_and_null_are_not_reported_as_ignored(server):
    body = {
        "user_input": "Hi",
        "max_length": 1,
        "presence_pen": 0,
        "max_context_length": 2048,
        "preset": None,
    }
    assert "ignored" not in post(server, "/api/v1/chat", **body).json()


@pytest.mark.parametrize(
    "setting",
    [
        {"temperature": 1e-42},
        {"temperature": 1e-4},
        {"repetition_penalty": 0.01},
        {"repetition_penalty": 100},
    ],
)
def test_extreme_sampling_values_are_answered(server, setting):
    assert post(server, "/api/v1/generate", prompt="Hi", max_new_tokens=3, **setting).status_code == 200


def test_visible_question_stays_as_it_was_when_its_answer_is_made_anew(server):
    history = {"internal": [["1 < 2", "a"]], "visible": [["<b>as shown</b>", "a"]]}
    asked = clients.chat_raw(
        "", history, url=server.raw_url, regenerate=True, max_new_tokens=8, do_sample=False
    )
    assert (
        asked["visible"][0][0] == "<b>as shown</b>" and asked["internal"][0][1].strip()
    )  # a row without a reply loses its question, as then


def test_raw_generate_model_and_token_count(server):
    assert post(server, "/api/v1/generate", prompt="Hi", max_new_tokens=2, do_sample=False).json()["results"][
        0
    ].keys() == {"text"}
    assert post(server, "/api/v1/token-count", prompt="four").json() == {"results": [{"tokens": 4}]}
    assert requests.get(server.raw_url + "/api/v1/model", timeout=9).json() == {"result": "tiny"}


def test_raw_chat_streams_on_a_port_of_its_own(server):
    ask = {"max_new_tokens": 8, "do_sample": False}
    *_, last = clients.stream_chat_raw("Hi", url=server.streaming_url, **ask)
    assert last == clients.chat_raw("Hi", url=server.raw_url, **ask)


@pytest.mark.parametrize(
    ("body", "status", "param"),
    [
        (b"{broken", 400, None),
        (b"", 400, "body"),
        (b"[1]", 400, "body"),
        (b"{}", 400, "user_input"),
        (b'{"user_input": 5}', 400, "user_input"),
        (b'{"user_input": null}', 400, "user_input"),
        (b'{"user_input": "a", "max_new_tokens": "many"}', 400, "max_new_tokens"),
        (b'{"user_input": "a", "history": {"internal": [["one"]]}}', 400, "history.internal.0.1"),
        (b'{"user_input": "\xff"}', 400, None),
        (b'{"user_input": "\\ud800"}', 400, "user_input"),
        (b'{"user_input": "a", "seed": 1180591620717411303424}', 400, "seed"),
        (b'{"user_input": "a", "repetition_penalty": Infinity}', 400, "repetition_penalty"),
    ],
)
def test_wrong_raw_request_names_the_field(server, body, status, param):
    reply = requests.post(
        server.raw_url + "/api/v1/chat", data=body, headers={"Content-Type": "application/json"}, timeout=9
    )
    assert reply.status_code == status and reply.json()["error"]["param"] == param
    assert set(reply.json()["error"]) == {"message", "type", "param", "code"}


def test_unknown_path_is_a_404_of_the_same_shape(server):
    reply = requests.post(server.raw_url + "/api/v1/nothing", json={}, timeout=9)
    assert reply.status_code == 404 and reply.json()["error"]["code"] == "unknown_url"


def complete(server, **settings):
    client = clients.make_openai_client(server.openai_url)
    body = {"model": "x", "messages": [{"role": "user", "content": "Hi"}], "temperature": 0, "max_tokens": 12}
    return client.chat.completions.create(**{**body, **settings})


def test_openai_client_lists_the_base_and_its_adapter(server):
    assert [model.id for model in clients.make_openai_client(server.openai_url).models.list()] == [
        "tiny",
        "shift",
    ]


def test_model_name_picks_base_adapter_or_default(server):
    base, adapted, default = (complete(server, model=name) for name in ("tiny", "shift", "x"))
    assert (base.model, adapted.model, default.model) == ("tiny", "shift", "shift")
    assert (
        base.choices[0].message.content
        != adapted.choices[0].message.content
        == default.choices[0].message.content
    )


def test_stream_gives_the_same_text_in_pieces(server):
    chunks = list(complete(server, stream=True, stream_options={"include_usage": True}))
    whole = complete(server)
    assert (
        "".join(chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices)
        == whole.choices[0].message.content
    )
    assert (
        chunks[-2].choices[0].finish_reason == whole.choices[0].finish_reason
        and chunks[-1].usage == whole.usage
    )


def test_stream_ends_with_done(server):
    body = {"model": "x", "messages": [{"role": "user", "content": "Hi"}], "max_tokens": 2, "stream": True}
    lines = [
        line
        for line in requests.post(
            server.openai_url + "/chat/completions", json=body, timeout=30
        ).text.splitlines()
        if line
    ]
    assert lines[-1] == "data: [DONE]" and all(
        json.loads(line[6:])["object"] == "chat.completion.chunk" for line in lines[:-1]
    )


@pytest.mark.parametrize(
    ("settings", "param"),
    [({"n": 65}, "n"), ({"tools": [{"type": "function"}]}, "tools"), ({"messages": []}, "messages"), ({"top_logprobs": 2}, "top_logprobs"),
     ({"messages": [{"role": "robot", "content": "x"}]}, "messages.0.role"), ({"temperature": -1}, "temperature"),
     ({"seed": 2**70, "stream": True}, "seed"), ({"messages": [{"role": "user", "content": [{"type": "image_url"}]}]}, "messages.0.content")],
)  # fmt: skip
def test_what_cannot_be_done_is_a_400_that_names_it(server, settings, param):
    with pytest.raises(openai.BadRequestError) as caught:
        complete(server, **settings)
    assert caught.value.body["param"] == param


def test_too_long_a_prompt_is_refused_also_when_streaming(server):
    with pytest.raises(openai.BadRequestError, match="tokens"):
        complete(server, messages=[{"role": "user", "content": "x" * 3000}], stream=True)


@pytest.mark.parametrize("streamed", [True, False])
def test_client_that_leaves_frees_the_server(server, streamed):
    complete(server, max_tokens=1)  # warm
    body = json.dumps(
        {
            "messages": [{"role": "user", "content": "Hi"}],
            "temperature": 0,
            "max_tokens": 2000,
            "stream": streamed,
        }
    ).encode()
    with socket.create_connection(
        server.openai_url.removeprefix("http://").removesuffix("/v1").split(":")
    ) as client:
        head = "POST /v1/chat/completions HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\nContent-Length: "
        client.sendall(f"{head}{len(body)}\r\n\r\n".encode() + body)
        time.sleep(0.3)
    began = time.monotonic()
    complete(server, max_tokens=1)
    assert time.monotonic() - began < 1  # all 2000 tokens take some seconds


def test_curl_without_the_json_header_is_told_so(server):
    form = {"Content-Type": "application/x-www-form-urlencoded"}  # what curl -d sends
    reply = requests.post(
        server.raw_url + "/api/v1/chat", data='{"user_input": "Hi"}', headers=form, timeout=9
    )
    assert reply.status_code == 400 and "application/json" in reply.json()["error"]["message"]


def test_strict_server_refuses_an_unknown_model(tiny):
    with TestClient(make_openai_app(Service(engine=TransformersEngine(tiny)), strict_model=True)) as http:
        body = {"model": "x", "messages": [{"role": "user", "content": "Hi"}], "max_tokens": 1}
        reply = http.post("/v1/chat/completions", json=body)
        assert reply.status_code == 404 and reply.json()["error"]["code"] == "model_not_found"
        assert http.post("/v1/chat/completions", json={**body, "model": "tiny"}).status_code == 200


def test_model_says_how_it_is_sampled_unless_the_request_does(tiny):
    tiny.model.generation_config.temperature, tiny.model.generation_config.top_p = 0.2, 0.9
    engine = TransformersEngine(tiny)
    body = {"messages": [{"role": "user", "content": "Hi"}]}

    def settings(**sent):
        request = ChatCompletionBody(**body, **sent).build_requests(engine, None)[0]
        return request.temperature, request.top_p

    assert (
        settings() == (0.2, 0.9)
        and settings(temperature=1.5) == (1.5, 1.0)
        and settings(top_p=0.5) == (0.2, 0.5)
    )


def test_stream_that_fails_says_so(tiny):
    engine = TransformersEngine(tiny)
    engine.loaded.model.forward = lambda *_, **__: 1 / 0
    with TestClient(make_openai_app(Service(engine=engine))) as http:
        body = {"messages": [{"role": "user", "content": "Hi"}], "stream": True}
        events = [line for line in http.post("/v1/chat/completions", json=body).text.splitlines() if line]
    assert json.loads(events[-2][6:])["error"]["type"] == "server_error" and events[-1] == "data: [DONE]"


def run_server(server, monkeypatch, *arguments):
    monkeypatch.setenv("OPEN_LLM_KIT_HOME", str(server.home))
    return run_command(main, list(arguments))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--model", "nothing", "--api", *ANY_PORTS], "No model 'nothing'"),
        (["--model", "tiny", "--lora", "nothing", "--api", *ANY_PORTS], "No LoRA 'nothing'"),
        (["--model", "tiny"], "No API was asked for"),
        (["--model", "tiny", "--api", "--listen"], "--api-key"),
    ],
)
def test_wrong_command_line_ends_with_one_line_and_code_2(server, monkeypatch, capsys, arguments, message):
    assert run_server(server, monkeypatch, *arguments) == 2
    error = capsys.readouterr().err
    assert message in error and len(error.splitlines()) == 1


def test_port_in_use_is_named_with_the_way_out(server, monkeypatch, capsys):
    taken = open_port("127.0.0.1", 0, "--openai-port")  # as a server that is still loading its model holds it
    port = taken.getsockname()[1]
    assert (
        run_server(
            server, monkeypatch, "--model", "tiny", "--extensions", "openai", "--openai-port", str(port)
        )
        == 2
    )
    taken.close()
    error = capsys.readouterr().err
    assert f"Port {port}" in error and "--openai-port" in error and len(error.splitlines()) == 1


def test_server_that_does_not_start_says_why(server, monkeypatch):
    monkeypatch.setenv("OPEN_LLM_KIT_HOME", str(server.home))
    with pytest.raises(KitError, match="No model 'nothing'"):
        clients.start_server("nothing")


@pytest.mark.long
def test_guarded_server_asks_for_its_key_and_a_signal_ends_it_in_the_middle_of_answers(server, monkeypatch):
    monkeypatch.setenv("OPEN_LLM_KIT_HOME", str(server.home))
    with clients.start_server("tiny", extra=["--api-key", "secret", "--dtype", "float32"]) as guarded:
        with pytest.raises(openai.AuthenticationError):
            complete(guarded)
        assert requests.get(guarded.raw_url + "/openapi.json", timeout=9).status_code == 401
        body = {"messages": [{"role": "user", "content": "Hi"}], "max_tokens": 2000, "temperature": 0}
        request = {
            "url": guarded.openai_url + "/chat/completions",
            "headers": {"Authorization": "Bearer secret"},
            "timeout": 60,
        }
        with ThreadPoolExecutor(
            ROWS + 2
        ) as pool:  # enough of both kinds that the grace period ends before they do
            replies = [
                pool.submit(requests.post, json={**body, "stream": bool(i % 2)}, **request)
                for i in range(ROWS)
            ]
            time.sleep(1)
            replies += [pool.submit(requests.post, json=body, **request) for _ in range(2)]
            time.sleep(0.5)
            guarded.process.terminate()
            assert guarded.process.wait(9) == 0
            assert {reply.result().status_code for reply in replies} == {
                200,
                503,
            }  # cut short, and never begun
        guarded.log.seek(0)
        assert "Traceback" not in guarded.log.read()


@pytest.mark.long
def test_server_goes_when_the_program_that_started_it_is_killed(server):
    code = (
        "import os; from helpers import clients\n"
        "s = clients.start_server('tiny', extra=['--dtype', 'float32']); print(s.process.pid, flush=True); os._exit(9)"
    )
    environment = {**os.environ, "OPEN_LLM_KIT_HOME": str(server.home)}
    pid = int(
        subprocess.run(
            [sys.executable, "-c", code], capture_output=True, text=True, env=environment, timeout=120
        ).stdout
    )
    try:
        psutil.Process(pid).wait(15)
    except psutil.NoSuchProcess:
        pass
    assert not psutil.pid_exists(pid)


def test_server_says_when_a_usual_port_was_taken_and_outlives_an_interrupt_of_the_cell(server):
    assert str(server.taken) in server.note and server.raw_url.rsplit(":")[-1] in server.command
    if os.name != "nt":  # Jupyter interrupts the kernel's whole process group
        assert os.getpgid(server.process.pid) != os.getpgid(0)


@pytest.mark.real
def test_the_two_examples_of_2023_run_on_the_real_model(real_model_name):
    history = {"internal": [["Reply with Yes", "Yes"]], "visible": [["Reply with Yes", "Yes"]]}
    with clients.start_server(real_model_name) as server:
        body = {
            **clients.DEFAULT_CHAT_PARAMS,
            "user_input": "What color is the sky?",
            "history": history,
            "max_new_tokens": 24,
        }
        response = requests.post(f"{server.raw_url}/api/v1/chat", json=body, timeout=120)
        assert response.json()["results"][0]["history"]["visible"][-1][1]
        client = openai.OpenAI(base_url=server.openai_url, api_key="none")
        reply = client.chat.completions.create(
            model="x",
            messages=[
                {"role": "system", "content": "You are a helpful assistant."},
                {"role": "user", "content": "Reply with Yes"},
                {"role": "assistant", "content": "Yes"},
                {"role": "user", "content": "What color is the sky?"},
            ],
            max_tokens=24,
        )
        assert reply.choices[0].message.content.strip() and reply.model == real_model_name


@pytest.mark.real
def test_unloaded_model_gives_its_memory_back(real_model_name, tmp_path):
    config = LoraConfig(r=2, target_modules=["q_proj"], task_type="CAUSAL_LM")
    get_peft_model(load_model(real_model_name, dtype="float32").model, config).save_pretrained(
        tmp_path / "small"
    )
    service, choice, loaded, unloaded = (
        Service(lora_dir=tmp_path),
        Choice(real_model_name, ("small",), dtype="float32"),
        [],
        [],
    )
    for _ in range(3):
        service.load(choice).generate(GenerationRequest(prompt="Hello", max_new_tokens=2))
        loaded.append(psutil.Process().memory_info().rss / 1e6)
        service.unload()
        unloaded.append(psutil.Process().memory_info().rss / 1e6)
    assert loaded[-1] - unloaded[-1] > 400 and unloaded[-1] - unloaded[0] < 100  # the weights are 540 MB
