"""The server: its errors, its ports, its command line, and how it ends."""

import asyncio
import json
import time
from concurrent.futures import ThreadPoolExecutor

import psutil
import pytest
import requests
from fastapi.testclient import TestClient
from peft import LoraConfig, get_peft_model
from support.scripted_engine import ScriptedEngine

from helpers.common.command import run_command
from helpers.common.errors import KitError, NotFoundError, ResourceError, UsageError
from helpers.generation.engine import EngineBusy, EngineStopping
from helpers.generation.prompts import PromptTooLong, UnknownToken
from helpers.generation.request import GenerationRequest
from helpers.generation.transformers_engine import TransformersEngine
from helpers.loading.model import load_model
from helpers.server.__main__ import main, parse_arguments
from helpers.server.apps import name_field
from helpers.server.errors import ApiError, as_api_error, log_unforeseen
from helpers.server.openai_api import make_openai_app
from helpers.server.openai_bodies import ChatCompletionBody
from helpers.server.ports import FLAGS, PORTS, find_port, find_ports, open_port, refuse_taken_port
from helpers.server.service import ModelChoice, NoModel, Service
from helpers.server.serving import ServerGroup
from helpers.server.threads import explain_leaving

ANY_PORTS = ["--api-blocking-port", "0", "--api-streaming-port", "0"]
HI = {"model": "x", "messages": [{"role": "user", "content": "Hi"}], "temperature": 0}


# The OpenAI-style API


def test_strict_server_refuses_an_unknown_model(tiny):
    app = make_openai_app(Service(engine=TransformersEngine(tiny)), strict_model=True)
    with TestClient(app) as http:
        body = {**HI, "max_tokens": 1}
        reply = http.post("/v1/chat/completions", json=body)
        assert (reply.status_code, reply.json()["error"]["code"]) == (404, "model_not_found")
        assert http.post("/v1/chat/completions", json={**body, "model": "tiny"}).status_code == 200


@pytest.mark.parametrize(
    ("sent", "expected"),
    [({}, (0.2, 0.9)), ({"temperature": 1.5}, (1.5, 1.0)), ({"top_p": 0.5}, (0.2, 0.5))],
)
def test_models_own_advice_is_the_default_of_temperature_and_top_p(tiny, sent, expected):
    tiny.model.generation_config.temperature = 0.2
    tiny.model.generation_config.top_p = 0.9
    body = ChatCompletionBody.model_validate({"messages": HI["messages"], **sent})
    (request,) = body.build_requests(TransformersEngine(tiny), None)
    assert (request.temperature, request.top_p) == expected


def test_stream_that_fails_ends_with_an_error_and_done(tiny):
    engine = TransformersEngine(tiny)
    engine.loaded.model.forward = lambda *_, **__: 1 / 0
    with TestClient(make_openai_app(Service(engine=engine))) as http:
        reply = http.post("/v1/chat/completions", json={**HI, "stream": True})
    *_, error, last = [line.removeprefix("data: ") for line in reply.text.splitlines() if line]
    assert json.loads(error)["error"]["type"] == "server_error"
    assert last == "[DONE]"


# Errors


class OwnBusy(EngineBusy):
    """A subclass that no table lists."""


WRONG = ("This is wrong.", "Do that.")


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (KitError(*WRONG), (400, "prompt", None)),
        (UsageError(*WRONG), (400, "prompt", None)),
        (NotFoundError(*WRONG), (400, "prompt", None)),
        (PromptTooLong(*WRONG), (400, "prompt", "context_length_exceeded")),
        (UnknownToken(*WRONG), (400, "logit_bias", "invalid_value")),
        (EngineBusy(*WRONG), (429, None, "rate_limit_exceeded")),
        (OwnBusy(*WRONG), (429, None, "rate_limit_exceeded")),
        (EngineStopping(), (503, None, None)),
        (NoModel(*WRONG), (503, None, None)),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, Exception) else "",
)
def test_kind_of_an_error_decides_its_status(error, expected):
    refusal = as_api_error(error, "prompt")
    assert (refusal.status, refusal.param, refusal.code) == expected
    assert refusal.message == str(error)


def test_refusal_stays_what_it_is_and_an_unforeseen_error_is_a_500():
    refusal = ApiError(418, "No.")
    assert as_api_error(refusal) is refusal
    assert as_api_error(ZeroDivisionError()).status == 500


# Ports and the command line


def test_only_errors_that_nobody_foresaw_are_logged(caplog):
    for error in (explain_leaving(), UsageError("wrong.", "Correct it.")):
        log_unforeseen(error)
    assert not caplog.records
    log_unforeseen(ZeroDivisionError())
    assert [record.exc_info[0] for record in caplog.records] == [ZeroDivisionError]


@pytest.mark.parametrize(
    ("place", "field"),
    [
        (("body", "tool_choice", "ChosenTool", "type"), "tool_choice.type"),
        (
            ("body", "response_format", "json_schema", "json_schema", "schema"),
            "response_format.json_schema.schema",
        ),
        (("body", "prompt", "list[list[int]]", 0, 0), "prompt.0.0"),
        (("body", "Temperature"), "Temperature"),
        (("body",), ""),
    ],
)
def test_field_is_named_as_the_client_knows_it(place, field):
    assert name_field(place) == field


def test_every_api_has_a_port_and_a_flag():
    assert PORTS.keys() == FLAGS.keys()
    options = parse_arguments(["--model", "tiny", "--api", "--extensions", "openai"])
    assert (options.raw_port, options.streaming_port, options.openai_port) == tuple(PORTS.values())


@pytest.mark.parametrize("port", [-1, 70_000])
def test_number_that_is_not_a_port_is_refused(port):
    with pytest.raises(ResourceError) as refused:
        open_port("127.0.0.1", port, "--openai-port")
    assert str(port) in refused.value.problem
    assert "--openai-port" in refused.value.remedy


def test_taken_port_is_refused_with_one_that_is_free(taken_port):
    assert find_port(taken_port) != taken_port
    with pytest.raises(ResourceError) as refused:
        refuse_taken_port(taken_port)
    assert str(taken_port) in refused.value.problem


def test_ports_that_are_found_together_all_differ(taken_port):
    ports = find_ports([taken_port] * 400)
    assert len(set(ports)) == 400 and taken_port not in ports


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        (["--model", "nothing", "--api", *ANY_PORTS], "nothing"),
        (["--model", "tiny", "--lora", "nothing", "--api", *ANY_PORTS], "nothing"),
        (["--model", "tiny"], "--api"),
        (["--model", "tiny", "--api", "--listen"], "--api-key"),
    ],
)
def test_wrong_command_line_ends_with_one_line_and_code_2(at_home, capsys, arguments, named):
    assert run_command(main, arguments) == 2
    error = capsys.readouterr().err
    assert named in error
    assert len(error.splitlines()) == 1


def test_two_apis_cannot_have_the_same_port(at_home, capsys):
    port = str(find_port(5001))
    arguments = ["--model", "tiny", "--api", "--extensions", "openai", "--openai-port", port]
    assert run_command(main, [*arguments, "--api-blocking-port", port]) == 2
    error = capsys.readouterr().err
    assert "--openai-port" in error and "--api-blocking-port" in error and "both" in error


def test_server_that_would_wait_for_itself_is_refused(at_home, capsys):
    port = str(find_port(5001))
    arguments = ["--upstream", f"http://localhost:{port}/v1", "--extensions", "openai", "--openai-port", port]
    assert run_command(main, arguments) == 2
    error = capsys.readouterr().err
    assert "this server itself" in error and len(error.splitlines()) == 1


def test_port_in_use_is_named_with_its_flag(at_home, capsys):
    taken = open_port("127.0.0.1", 0, "--openai-port")  # as a server that is loading its model holds it
    port = str(taken.getsockname()[1])
    arguments = ["--model", "tiny", "--extensions", "openai", "--openai-port", port]
    assert run_command(main, arguments) == 2
    taken.close()
    error = capsys.readouterr().err
    assert port in error
    assert "--openai-port" in error
    assert len(error.splitlines()) == 1


# How it ends


def test_all_servers_stop_together_and_a_second_stop_cuts_answers_short(monkeypatch):
    monkeypatch.setattr("helpers.server.serving.GRACE_S", 600)  # what an answer gets after the first stop
    engine = ScriptedEngine(["x "] * 100_000, pause_s=0.01)
    service = Service(engine=engine)
    app = make_openai_app(service)
    listeners = [open_port("127.0.0.1", 0, FLAGS["openai"]) for _ in range(2)]
    urls = [f"http://127.0.0.1:{listener.getsockname()[1]}/v1" for listener in listeners]
    group = ServerGroup([app, app], listeners, service)
    with ThreadPoolExecutor(2) as pool:
        serving = pool.submit(asyncio.run, group.run())
        body = {"prompt": "x", "max_tokens": 4000}
        answer = pool.submit(requests.post, urls[0] + "/completions", json=body, timeout=60)
        while engine.sent < 3:
            time.sleep(0.01)
        group.stop()
        time.sleep(0.5)
        assert not answer.done()
        group.stop()
        assert answer.result().json()["choices"][0]["text"].startswith("x x x")
        serving.result()
    for url in urls:
        with pytest.raises(requests.ConnectionError):
            requests.get(url + "/models", timeout=9)


# The real model


def measure_memory_mb():
    """The memory of this process, in MB."""
    return psutil.Process().memory_info().rss / 1e6


@pytest.mark.real
def test_unloaded_model_gives_its_memory_back(real_model_name, tmp_path):
    config = LoraConfig(r=2, target_modules=["q_proj"], task_type="CAUSAL_LM")
    model = load_model(real_model_name, dtype="float32").model
    get_peft_model(model, config).save_pretrained(tmp_path / "small")
    del model
    service = Service(loras_dir=tmp_path)
    choice = ModelChoice(real_model_name, ("small",), dtype="float32")
    loaded_mb = []
    unloaded_mb = []
    for _ in range(3):
        service.load(choice).generate(GenerationRequest(prompt="Hello", max_new_tokens=2))
        loaded_mb.append(measure_memory_mb())
        service.unload()
        unloaded_mb.append(measure_memory_mb())
    assert loaded_mb[-1] - unloaded_mb[-1] > 400  # the weights are 540 MB
    assert (
        unloaded_mb[-1] - unloaded_mb[0] < 270
    )  # weights that stayed would be 1080; malloc's pools vary by 120
