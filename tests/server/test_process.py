"""The server as a process: both APIs on its ports, the note of a taken port, and how it ends."""

import json
import os
import re
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor

import openai
import psutil
import pytest
import requests

from helpers import clients
from helpers.common.errors import KitError
from helpers.generation.transformers_engine import MAX_BATCH
from helpers.server.ports import PORTS

pytestmark = pytest.mark.long

HI = {"model": "x", "messages": [{"role": "user", "content": "Hi"}], "temperature": 0}
GREEDY = {"do_sample": False, "max_new_tokens": 8}


@pytest.fixture(scope="module")
def server(server_home, taken_port):
    """The real server process, whose usual port was taken; it must end well."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("OPEN_LLM_KIT_HOME", str(server_home))
        patch.setitem(PORTS, "raw", taken_port)
        running = clients.start_server("tiny", loras=["shift"], extra=["--dtype", "float32"])
    with running:
        yield running
    assert running.process.poll() == 0


def post(server, path, **body):
    return requests.post(server.raw_url + path, json=body, timeout=60)


def complete(server, **settings):
    client = clients.make_openai_client(server.openai_url)
    return client.chat.completions.create(**{**HI, "max_tokens": 12, **settings})


def read_text(reply):
    """The text of a reply's first choice."""
    return reply.choices[0].message.content


# The raw API


def test_raw_chat_adds_an_exchange_to_both_histories(server):
    history = {"internal": [["Reply with Yes", "Yes"]], "visible": [["Reply with Yes", "<b>Yes</b>"]]}
    result = clients.chat_raw("1 < 2 & 'so'", history, url=server.raw_url, **GREEDY)
    assert result["internal"][0] == ["Reply with Yes", "Yes"]
    assert result["visible"][0] == ["Reply with Yes", "<b>Yes</b>"]
    assert result["internal"][1][0] == "1 < 2 & 'so'"
    assert result["visible"][1][0] == "1 &lt; 2 &amp; &#x27;so&#x27;"
    assert clients.last_reply(result) == result["internal"][1][1]


def test_raw_chat_regenerates_and_continues_the_last_reply(server):
    ask = {**GREEDY, "url": server.raw_url}
    first = clients.chat_raw("Hi", **ask)
    assert clients.chat_raw("ignored", first, regenerate=True, **ask) == first
    longer = clients.chat_raw("ignored", first, _continue=True, **ask)
    assert len(longer["internal"]) == 1
    assert longer["internal"][0][1].startswith(first["internal"][0][1])
    empty = {"internal": [], "visible": []}
    assert clients.chat_raw("x", empty, regenerate=True, **ask) == empty


def test_context_instruct_is_part_of_the_prompt(server):
    ask = {"max_new_tokens": 16, "do_sample": False, "url": server.raw_url}
    brief = clients.chat_raw("Hi", context_instruct="Be brief.", **ask)
    loud = clients.chat_raw("Hi", context_instruct="Shout!", **ask)
    assert brief != loud


def test_what_is_not_honoured_is_reported(server):
    body = {"user_input": "Hi", "max_new_tokens": 1, "mode": "instruct"}
    reply = post(server, "/api/v1/chat", **body, mirostat_mode=2, tfs=1, nonsense=1)
    assert reply.json()["ignored"] == ["mirostat_mode", "nonsense"]


def test_older_names_and_null_are_not_reported_as_ignored(server):
    older = {"max_length": 1, "presence_pen": 0, "max_context_length": 2048, "preset": None}
    assert "ignored" not in post(server, "/api/v1/chat", user_input="Hi", **older).json()


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


def test_visible_question_stays_when_its_answer_is_regenerated(server):
    history = {"internal": [["1 < 2", "a"]], "visible": [["<b>as shown</b>", "a"]]}
    asked = clients.chat_raw("", history, url=server.raw_url, regenerate=True, **GREEDY)
    assert asked["internal"][0][1].strip()  # an exchange without a reply would lose its question
    assert asked["visible"][0][0] == "<b>as shown</b>"


def test_raw_generate_model_and_token_count(server):
    generated = post(server, "/api/v1/generate", prompt="Hi", max_new_tokens=2, do_sample=False).json()
    assert [result.keys() for result in generated["results"]] == [{"text"}]
    assert post(server, "/api/v1/token-count", prompt="four").json() == {"results": [{"tokens": 4}]}
    assert requests.get(server.raw_url + "/api/v1/model", timeout=9).json() == {"result": "tiny"}


def test_raw_chat_streams_on_its_own_port(server):
    *_, last = clients.stream_chat_raw("Hi", url=server.streaming_url, **GREEDY)
    assert last == clients.chat_raw("Hi", url=server.raw_url, **GREEDY)


@pytest.mark.parametrize(
    ("body", "param"),
    [
        (b"{broken", None),
        (b"", "body"),
        (b"[1]", "body"),
        (b"{}", "user_input"),
        (b'{"user_input": 5}', "user_input"),
        (b'{"user_input": null}', "user_input"),
        (b'{"user_input": "a", "max_new_tokens": "many"}', "max_new_tokens"),
        (b'{"user_input": "a", "history": {"internal": [["one"]]}}', "history.internal.0.1"),
        (b'{"user_input": "\xff"}', None),
        (b'{"user_input": "\\ud800"}', "user_input"),
        (b'{"user_input": "a", "seed": 1180591620717411303424}', "seed"),
        (b'{"user_input": "a", "repetition_penalty": Infinity}', "repetition_penalty"),
    ],
)
def test_wrong_raw_request_is_a_400_that_names_the_field(server, body, param):
    json_header = {"Content-Type": "application/json"}
    reply = requests.post(server.raw_url + "/api/v1/chat", data=body, headers=json_header, timeout=9)
    error = reply.json()["error"]
    assert (reply.status_code, error["param"]) == (400, param)
    assert set(error) == {"message", "type", "param", "code"}


def test_curl_without_the_json_header_is_pointed_to_it(server):
    form = {"Content-Type": "application/x-www-form-urlencoded"}  # what curl -d sends
    body = '{"user_input": "Hi"}'
    reply = requests.post(server.raw_url + "/api/v1/chat", data=body, headers=form, timeout=9)
    assert reply.status_code == 415
    assert "application/json" in reply.json()["error"]["message"]


def test_unknown_path_is_a_404_of_the_same_shape(server):
    reply = requests.post(server.raw_url + "/api/v1/nothing", json={}, timeout=9)
    assert (reply.status_code, reply.json()["error"]["code"]) == (404, "unknown_url")


# The OpenAI-style API


def test_openai_client_lists_the_base_and_its_adapter(server):
    models = clients.make_openai_client(server.openai_url).models.list()
    assert [model.id for model in models] == ["tiny", "shift"]


def test_model_name_picks_base_adapter_or_default(server):
    base, adapted, default = (complete(server, model=name) for name in ("tiny", "shift", "x"))
    assert (base.model, adapted.model, default.model) == ("tiny", "shift", "shift")
    assert read_text(base) != read_text(adapted) == read_text(default)


def test_stream_gives_the_same_text_in_pieces(server):
    chunks = list(complete(server, stream=True, stream_options={"include_usage": True}))
    whole = complete(server)
    pieces = [chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices]
    assert "".join(pieces) == read_text(whole)
    assert chunks[-2].choices[0].finish_reason == whole.choices[0].finish_reason
    assert chunks[-1].usage == whole.usage


def test_stream_ends_with_done(server):
    body = {**HI, "max_tokens": 2, "stream": True}
    reply = requests.post(server.openai_url + "/chat/completions", json=body, timeout=30)
    *events, last = [line.removeprefix("data: ") for line in reply.text.splitlines() if line]
    assert last == "[DONE]"
    assert {json.loads(event)["object"] for event in events} == {"chat.completion.chunk"}


@pytest.mark.parametrize(
    ("settings", "param"),
    [
        ({"n": 65}, "n"),
        ({"tools": [{"type": "function"}]}, "tools.0.function"),
        ({"messages": []}, "messages"),
        ({"top_logprobs": 2}, "top_logprobs"),
        ({"messages": [{"role": "robot", "content": "x"}]}, "messages.0.role"),
        ({"temperature": -1}, "temperature"),
        ({"seed": 2**70, "stream": True}, "seed"),
        ({"messages": [{"role": "user", "content": [{"type": "image_url"}]}]}, "messages.0.content"),
    ],
)
def test_what_cannot_be_done_is_a_400_that_names_it(server, settings, param):
    with pytest.raises(openai.BadRequestError) as caught:
        complete(server, **settings)
    assert caught.value.param == param


def test_prompt_that_is_too_long_is_refused_also_when_streaming(server):
    with pytest.raises(openai.BadRequestError) as caught:
        complete(server, messages=[{"role": "user", "content": "x" * 3000}], stream=True)
    assert caught.value.code == "context_length_exceeded"


# How it starts


def test_server_that_does_not_start_says_why(at_home):
    with pytest.raises(KitError) as caught:
        clients.start_server("nothing")
    assert "nothing" in caught.value.problem


def test_server_notes_that_a_usual_port_was_taken(server, taken_port):
    assert str(taken_port) in server.note
    assert server.raw_url.rsplit(":")[-1] in server.command


@pytest.mark.skipif(os.name == "nt", reason="Windows has no process groups of this kind")
def test_server_is_in_another_process_group_and_so_outlives_an_interrupt_of_the_cell(server):
    assert os.getpgid(server.process.pid) != os.getpgid(0)


# How it ends


def test_signal_ends_a_server_in_the_middle_of_answers(server_home, at_home):
    extra = ["--api-key", "secret", "--dtype", "float32"]
    body = {**HI, "max_tokens": 2000}
    with clients.start_server("tiny", extra=extra) as guarded, ThreadPoolExecutor(MAX_BATCH + 2) as pool:

        def ask(streamed):
            return requests.post(
                guarded.openai_url + "/chat/completions",
                json={**body, "stream": streamed},
                headers={"Authorization": "Bearer secret"},
                timeout=60,
            )

        # Enough of both kinds that the grace period ends before they do.
        replies = [pool.submit(ask, bool(number % 2)) for number in range(MAX_BATCH)]
        time.sleep(1)
        replies += [pool.submit(ask, False) for _ in range(2)]
        time.sleep(0.5)
        guarded.process.terminate()
        assert guarded.process.wait(60) == 0
        statuses = {reply.result().status_code for reply in replies}
        guarded.log.seek(0)
        assert "Traceback" not in guarded.log.read()
    assert statuses == {200, 503}  # cut short, and never begun


def test_guarded_server_asks_for_its_key_except_for_the_page_that_it_names(server_home, at_home):
    with clients.start_server("tiny", extra=["--api-key", "secret", "--dtype", "float32"]) as guarded:
        with pytest.raises(openai.AuthenticationError):
            complete(guarded)
        assert requests.get(guarded.raw_url + "/openapi.json", timeout=9).status_code == 401
        guarded.log.seek(0)
        page = re.search(r"chat page: +(\S+)", guarded.log.read())[1]
        assert requests.get(page, timeout=9).headers["Content-Type"].startswith("text/html")


START_AND_DIE = """
import os
from helpers import clients

server = clients.start_server("tiny", extra=["--dtype", "float32"])
print(server.process.pid, flush=True)
os._exit(9)
"""


def test_server_ends_when_the_program_that_started_it_is_killed(at_home):
    command = [sys.executable, "-c", START_AND_DIE]
    started = subprocess.run(command, capture_output=True, text=True, timeout=120)
    pid = int(started.stdout)
    try:
        psutil.Process(pid).wait(60)
    except psutil.NoSuchProcess:
        pass
    assert not psutil.pid_exists(pid)


# The real model


@pytest.mark.real
def test_both_examples_of_2023_run_on_the_real_model(real_model_name):
    history = {"internal": [["Reply with Yes", "Yes"]], "visible": [["Reply with Yes", "Yes"]]}
    question = "What color is the sky?"
    body = dict(**clients.DEFAULT_CHAT_PARAMS, user_input=question, history=history) | {"max_new_tokens": 24}
    with clients.start_server(real_model_name) as server:
        response = requests.post(f"{server.raw_url}/api/v1/chat", json=body, timeout=120)
        client = openai.OpenAI(base_url=server.openai_url, api_key="none")
        reply = client.chat.completions.create(
            model="x",
            messages=[
                {"role": "system", "content": "You are a helpful assistant."},
                {"role": "user", "content": "Reply with Yes"},
                {"role": "assistant", "content": "Yes"},
                {"role": "user", "content": question},
            ],
            max_tokens=24,
        )
    assert response.json()["results"][0]["history"]["visible"][-1][1]
    assert (reply.choices[0].message.content or "").strip()
    assert reply.model == real_model_name
