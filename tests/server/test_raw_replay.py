"""What the WebUI of October 2023 answered, recorded, and what this server answers to the same requests.

Both have the same model. The recordings are outside the project; without them these tests are skipped.
"""

import json
import os
from pathlib import Path

import pytest
from fastapi.testclient import TestClient

from helpers.common.paths import PROJECT
from helpers.server.raw_api import make_raw_app
from helpers.server.raw_stream import make_streaming_app
from helpers.server.service import ModelChoice, Service

SHARED = Path(os.environ.get("KIT_SHARED", PROJECT.parent / "shared"))
FOLDER = SHARED / "webui" / "recordings" / "old"
RECORDED = {path.stem: json.loads(path.read_text(encoding="utf-8")) for path in sorted(FOLDER.glob("*.json"))}
SOCKETS = [name for name, recording in RECORDED.items() if recording.get("transport") == "websocket"]
pytestmark = [pytest.mark.real, pytest.mark.skipif(not RECORDED, reason=f"no recordings in {FOLDER}")]


def is_http(name):
    """Whether a recording is one request over HTTP, and not a step of a sequence."""
    path = RECORDED[name].get("request", {}).get("path", "")
    return path.startswith("/api/v1") and not name.startswith("seq_")


HTTP = [name for name in RECORDED if is_http(name)]

TIE = "two words have logits within 0.03 of each other, and the recorded server took the other one"
LORA = "recorded with a LoRA that is not here"
WORDS_DIFFER = {
    "raw_chat_history_internal_visible_differ": TIE,
    "raw_chat_html_in_history": TIE,
    "raw_generate_trunc": TIE,
    "lora2_generate_no_lora": TIE,
    "lora2_chat_name": LORA,
    "lora2_generate_two_loras": LORA,
    "lora2_generate_who": LORA,
    "lora_chat_alpaca": LORA,
    "lora_generate_alpaca": LORA,
}
STREAM_WORDS_DIFFER = {"ws_stream_unicode": TIE}
REFUSED = {  # the status here; the WebUI closed the connection, sent nothing, or answered
    "raw_chat_bad_json": 400,
    "raw_chat_character_unknown": 400,
    "raw_chat_history_only_visible": 400,
    "raw_chat_missing_user_input": 400,
    "raw_chat_user_input_null": 400,
    "raw_generate_body_is_list": 400,
    "raw_generate_no_body": 400,
    "raw_generate_preset": 400,  # it answered; here there are no presets
    "raw_generate_prompt_null": 400,  # it answered, to the word None
    "raw_options": 405,  # it allowed everything; here only a browser's preflight is answered, with its page
    "raw_post_unknown_path": 404,
    "raw_put": 405,
    "raw_tokencount_missing": 400,
}
LISTS = ("lora_model_info", "raw_model_post_list")  # they name what is on the server's disk

# The WebUI's characters are not here. Their names are sent, and their contexts, cut out of recorded prompts.
# Each entry: (name, text before the context, text after it).
CHARACTERS = {
    "raw_chat_minimal": ("AI", "", "\nYou: What is"),
    "raw_chat_mode_chat_example": ("Chiharu Yamada", "", "\nSam: Hi!"),
    "raw_chat_mode_chat_instruct": ("Chiharu Yamada", 'as "Chiharu Yamada".\n\n', "\nYou: Hello"),
}


@pytest.fixture(scope="module")
def service(real_model_name):
    service = Service()
    service.load(ModelChoice(real_model_name, dtype="float32"))
    yield service
    service.unload()


@pytest.fixture(scope="module")
def http(service):
    with TestClient(make_raw_app(service)) as http:
        yield http


def send(http, name):
    """(status, reply) of a recorded request, which asks for its prompt."""
    request = RECORDED[name]["request"]
    content = None
    if "raw_body" in request:
        content = request["raw_body"]
    elif "body" in request:
        content = json.dumps(build_body(name))
    json_header = {"Content-Type": "application/json"}
    reply = http.request(request["method"], request["path"], content=content, headers=json_header)
    return reply.status_code, reply.json()


def build_body(name):
    """The recorded body, with what makes it comparable."""
    recording = RECORDED[name]
    body = recording["request"]["body"]
    if name in CHARACTERS:
        name2, before, after = CHARACTERS[name]
        context = recording["prompt_as_built"].split(after)[0]
        if before:
            context = context.split(before)[-1]
        body = {**body, "character": None, "name2": name2, "context": context}
    if name == "raw_generate_stopped_by_stop_stream":  # it was stopped in mid-answer, after 14 tokens
        body = {**body, "max_new_tokens": 16}
    if "prompt_as_built" in recording:
        body = {**body, "debug_prompt": True}
    return body


def list_texts(result):
    """The texts of a reply, those of old exchanges included."""
    if isinstance(result, dict):
        return [text for key in sorted(result) for text in list_texts(result[key])]
    if isinstance(result, list):
        return [text for item in result for text in list_texts(item)]
    return [result]


def describe_shape(value):
    """A reply without its values; a list is described by its first item."""
    if isinstance(value, dict):
        return {key: describe_shape(item) for key, item in value.items() if not key.startswith("shared.")}
    if isinstance(value, list) and value:
        return [describe_shape(value[0])]
    return type(value).__name__


def has_ended(recording):
    """Whether the recorded answer ended by itself. (The WebUI lost the last token of one that was cut.)"""
    if "exchange" in recording:
        sent = recording["exchange"][0]["sent"]
    else:
        sent = recording["request"].get("body", {})
    limit = sent.get("max_new_tokens", sent.get("max_length", 200))
    generated = recording.get("generation_log", [])
    return all(log["new_tokens"] < limit - 1 for log in generated) and "stopped_by" not in recording["name"]


def is_same(now, then, recording):
    """Whether a text is the recorded one, or goes on after it if that was cut."""
    if has_ended(recording) or not isinstance(then, str):
        return now == then
    return now.startswith(then)


@pytest.mark.parametrize("name", [name for name in HTTP if name not in {*REFUSED, *LISTS}])
def test_recorded_request_gets_the_recorded_answer(http, name):
    recording = RECORDED[name]
    then = recording["response"]["body"]
    status, reply = send(http, name)
    assert status == recording["response"]["status"] == 200
    reply.pop("ignored", None)
    assert reply.pop("prompt_as_built", None) == recording.get("prompt_as_built")
    assert describe_shape(reply) == describe_shape(then)
    if name not in WORDS_DIFFER and "shared.args" not in (then.get("result") or ""):
        pairs = list(zip(list_texts(reply), list_texts(then), strict=True))
        assert [pair for pair in pairs if not is_same(*pair, recording)] == []


@pytest.mark.parametrize("name", [name for name in HTTP if name in LISTS])
def test_recorded_list_has_the_recorded_entries(http, name):
    status, reply = send(http, name)
    assert status == RECORDED[name]["response"]["status"] == 200
    assert set(RECORDED[name]["response"]["body"]["result"]) <= set(reply["result"])


@pytest.mark.parametrize("name", REFUSED)
def test_recorded_failure_is_a_refusal_with_a_message(http, name):
    status, reply = send(http, name)
    assert status == REFUSED[name]
    assert set(reply["error"]) == {"message", "type", "param", "code"}


@pytest.mark.parametrize("name", WORDS_DIFFER)
def test_exception_for_words_that_differ_is_needed(http, name):
    _, reply = send(http, name)
    assert list_texts(reply["results"]) != list_texts(RECORDED[name]["response"]["body"]["results"])


def replay(socket, sent):
    """The events that a recorded message gets."""
    socket.send_text(sent if isinstance(sent, str) else json.dumps(sent))
    events = [socket.receive_json()]
    while events[-1]["event"] == "text_stream":
        events.append(socket.receive_json())
    return events


def pair_texts(events, then):
    """(text now, text then) of a streamed answer, and of each text in the last history of a chat."""
    if "history" in then[-2]:
        return list(zip(list_texts(events[-2]["history"]), list_texts(then[-2]["history"]), strict=True))
    now, before = ("".join(event.get("text", "") for event in each) for each in (events, then))
    return [(now, before)]


@pytest.mark.parametrize("name", SOCKETS)
def test_recorded_stream_comes_again(service, name):
    recording = RECORDED[name]
    app = make_streaming_app(service)
    with TestClient(app) as http, http.websocket_connect(recording["path"]) as socket:
        if not recording["exchange"]:  # an unknown path
            assert socket.receive()["code"] == recording["closed"]["code"]
            return
        (exchange,) = recording["exchange"]
        events = replay(socket, exchange["sent"])
        if recording["closed"]:
            assert events[-1]["event"] == "error"
            assert socket.receive()["code"] == recording["closed"]["code"]
            return
    then = exchange["received"]
    assert set(events[0]) == set(then[0])
    assert set(events[-1]) == set(then[-1])
    if "text" in then[0]:
        assert events[0]["text"] == then[0]["text"] == ""
        assert len(events) > 3
    same = all(is_same(*pair, recording) for pair in pair_texts(events, then))
    assert same == (name not in STREAM_WORDS_DIFFER)


REFUSED_LOADS = [
    "seq_model_01_load_missing_name",
    "seq_model_05_load_unknown",
    "seq_model_18_load_broken_model",
    "seq_model_21_load_with_missing_lora",
]


def test_recorded_loads_and_unloads_follow_one_another(http):
    def replay_step(name):
        status, reply = send(http, name)
        reply.pop("ignored", None)
        reply.pop("prompt_as_built", None)
        then = RECORDED[name]["response"]["body"]
        assert (status, describe_shape(reply)) == (200, describe_shape(then)), name
        return reply == then

    replay_step("seq_model_02_load_same_with_args")
    replay_step("seq_model_14_unload")
    assert replay_step("seq_model_15_get_after_unload")
    replay_step("seq_model_19_load_again")
    assert replay_step("seq_model_20_get_again")
    assert replay_step("seq_model_23_generate_again")


@pytest.mark.parametrize("name", REFUSED_LOADS)
def test_recorded_load_that_fails_is_refused_and_the_model_stays(http, real_model_name, name):
    status, reply = send(http, name)
    assert status == 400
    assert reply["error"]["param"] in ("model_name", "args")
    assert http.get("/api/v1/model").json() == {"result": real_model_name}


def test_recorded_requests_without_a_model_are_refused(http, service):
    choice = service.choice
    service.unload()
    for name in ("seq_model_08_chat_without_model", "seq_model_09_token_count_without_model"):
        assert send(http, name)[0] == 503
    service.load(choice)
