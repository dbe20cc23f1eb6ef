"""What the WebUI of October 2023 answered, recorded, and what this server answers to the same requests with the same model.

The recordings lie outside the project; without them these tests are skipped.
"""

import json
import os
from collections import Counter
from pathlib import Path

import pytest
from fastapi.testclient import TestClient

from helpers import PROJECT
from helpers.server.raw_api import make_raw_app
from helpers.server.raw_stream import make_streaming_app
from helpers.server.service import Choice, Service

FOLDER = Path(os.environ.get("KIT_SHARED", PROJECT.parent / "shared")) / "webui" / "recordings" / "old"
RECORDED = {path.stem: json.loads(path.read_text(encoding="utf-8")) for path in sorted(FOLDER.glob("*.json"))}
HTTP = [
    name
    for name, each in RECORDED.items()
    if each.get("request", {}).get("path", "").startswith("/api/v1") and not name.startswith("seq_")
]
SOCKETS = [name for name, each in RECORDED.items() if each.get("transport") == "websocket"]
pytestmark = [pytest.mark.real, pytest.mark.skipif(not RECORDED, reason=f"no recordings in {FOLDER}")]

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
REFUSED = {  # status here; the WebUI closed the connection, sent nothing, or answered
    "raw_chat_bad_json": 400,
    "raw_chat_character_unknown": 400,
    "raw_chat_history_only_visible": 400,
    "raw_chat_missing_user_input": 400,
    "raw_chat_user_input_null": 400,
    "raw_generate_body_is_list": 400,
    "raw_generate_no_body": 400,
    "raw_generate_preset": 400,  # it answered; no presets are here
    "raw_generate_prompt_null": 400,  # it answered, to the word None
    "raw_options": 405,  # it said that all is allowed; here a browser's question is answered, which names its page
    "raw_post_unknown_path": 404,
    "raw_put": 405,
    "raw_tokencount_missing": 400,
}
# The WebUI's characters are not here: their name and context, out of the recorded prompt, are sent: (name, before the context, after it)
CHARACTERS = {
    "raw_chat_minimal": ("AI", "", "\nYou: What is"),
    "raw_chat_mode_chat_example": ("Chiharu Yamada", "", "\nSam: Hi!"),
    "raw_chat_mode_chat_instruct": ("Chiharu Yamada", 'as "Chiharu Yamada".\n\n', "\nYou: Hello"),
}


@pytest.fixture(scope="module")
def service(real_model_name):
    service = Service()
    service.load(Choice(real_model_name, dtype="float32"))
    yield service
    service.unload()


@pytest.fixture(scope="module")
def http(service):
    with TestClient(make_raw_app(service)) as http:
        yield http


def send(http, name):
    """(status, reply) of a recorded request, which asks for its prompt."""
    request, content = RECORDED[name]["request"], None
    if "raw_body" in request:
        content = request["raw_body"]
    elif "body" in request:
        content = json.dumps(build_body(name))
    reply = http.request(
        request["method"], request["path"], content=content, headers={"Content-Type": "application/json"}
    )
    return reply.status_code, reply.json()


def build_body(name):
    recording = RECORDED[name]
    body = recording["request"]["body"]
    if name in CHARACTERS:
        name2, before, after = CHARACTERS[name]
        body = {
            **body,
            "character": None,
            "name2": name2,
            "context": recording["prompt_as_built"].split(after)[0].split(before or "\0")[-1],
        }
    if name == "raw_generate_stopped_by_stop_stream":  # it was stopped in mid-answer, after 14 tokens
        body = {**body, "max_new_tokens": 16}
    return {**body, "debug_prompt": True} if "prompt_as_built" in recording else body


def list_texts(result):
    """The texts of a reply, old rows and escaped ones included."""
    if isinstance(result, dict):
        return [text for key in sorted(result) for text in list_texts(result[key])]
    return [text for each in result for text in list_texts(each)] if isinstance(result, list) else [result]


def draw_shape(value):
    """A reply without its values; lists of texts and of pairs have any length."""
    if isinstance(value, dict):
        return {key: draw_shape(each) for key, each in value.items() if not key.startswith("shared.")}
    return [draw_shape(value[0])] if isinstance(value, list) and value else type(value).__name__


def has_ended(recording):
    """Whether the recorded answer was not cut by its length; the WebUI lost the last token of one that was."""
    limits = (
        recording["exchange"][0]["sent"] if "exchange" in recording else recording["request"].get("body", {})
    )
    limit = limits.get("max_new_tokens", limits.get("max_length", 200))
    return (
        all(each["new_tokens"] < limit - 1 for each in recording.get("generation_log", []))
        and "stopped_by" not in recording["name"]
    )


@pytest.mark.parametrize("name", [name for name in HTTP if name not in REFUSED])
def test_recorded_request_gets_the_recorded_answer(http, name):
    recording, (status, reply) = RECORDED[name], send(http, name)
    assert status == recording["response"]["status"] == 200
    ours = {key: reply.pop(key) for key in ("ignored", "prompt_as_built") if key in reply}
    assert ours.get("prompt_as_built") == recording.get("prompt_as_built")
    then = recording["response"]["body"]
    if name in ("lora_model_info", "raw_model_post_list"):  # what is here
        assert (
            then["result"].keys() <= reply["result"].keys()
            if name == "lora_model_info"
            else set(then["result"]) <= set(reply["result"])
        )
        return
    assert draw_shape(reply) == draw_shape(then)
    if name not in WORDS_DIFFER and "shared.args" not in (then.get("result") or ""):
        pairs = list(zip(list_texts(reply), list_texts(then), strict=True))
        assert all(
            now == old if has_ended(recording) or not isinstance(old, str) else now.startswith(old)
            for now, old in pairs
        ), pairs


@pytest.mark.parametrize("name", REFUSED)
def test_recorded_failure_is_a_refusal_with_words(http, name):
    status, reply = send(http, name)
    assert status == REFUSED[name] and set(reply["error"]) == {"message", "type", "param", "code"}


@pytest.mark.parametrize("name", WORDS_DIFFER)
def test_named_difference_is_one(http, name):
    then, now = RECORDED[name]["response"]["body"], send(http, name)[1]
    assert list_texts(now["results"]) != list_texts(then["results"])


@pytest.mark.parametrize("name", SOCKETS)
def test_recorded_stream_comes_again(service, name):
    recording = RECORDED[name]
    with TestClient(make_streaming_app(service)) as http, http.websocket_connect(recording["path"]) as socket:
        if not recording["exchange"]:
            assert socket.receive()["code"] == recording["closed"]["code"]
            return
        (exchange,) = recording["exchange"]
        socket.send_text(
            exchange["sent"] if isinstance(exchange["sent"], str) else json.dumps(exchange["sent"])
        )
        events = [socket.receive_json()]
        while events[-1]["event"] == "text_stream":
            events.append(socket.receive_json())
        if recording["closed"]:
            assert events[-1]["event"] == "error" and socket.receive()["code"] == recording["closed"]["code"]
            return
    then = exchange["received"]
    assert [set(event) for event in (events[0], events[-1])] == [set(event) for event in (then[0], then[-1])]
    if "history" in then[-2]:
        pairs = zip(list_texts(events[-2]["history"]), list_texts(then[-2]["history"]), strict=True)
    else:
        pairs = [["".join(event.get("text", "") for event in each) for each in (events, then)]]
        assert (
            Counter(event["event"] for event in events)["text_stream"] > 2
            and events[0]["text"] == then[0]["text"] == ""
        )
    same = all(now == old if has_ended(recording) else now.startswith(old) for now, old in pairs)
    assert same == (name != "ws_stream_unicode")  # a TIE


def test_recorded_loads_and_unloads_follow_one_another(http, service, real_model_name):
    def act(name):
        status, reply = send(http, name)
        return status, reply, RECORDED[name]["response"].get("body")

    for name in ("seq_model_02_load_same_with_args", "seq_model_14_unload", "seq_model_15_get_after_unload", "seq_model_19_load_again",
                 "seq_model_20_get_again", "seq_model_23_generate_again"):  # fmt: skip
        status, reply, then = act(name)
        reply.pop("ignored", None), reply.pop("prompt_as_built", None)
        assert status == 200 and draw_shape(reply) == draw_shape(then), name
        assert name.startswith(("seq_model_02", "seq_model_14", "seq_model_19")) or reply == then, name
    for name in (
        "seq_model_01_load_missing_name",
        "seq_model_05_load_unknown",
        "seq_model_18_load_broken_model",
        "seq_model_21_load_with_missing_lora",
    ):
        status, reply, _ = act(name)
        assert status == 400 and reply["error"]["param"] in ("model_name", "args"), (
            name
        )  # and the model stays
        assert http.get("/api/v1/model").json() == {"result": real_model_name}
    service.unload()
    for name in ("seq_model_08_chat_without_model", "seq_model_09_token_count_without_model"):
        assert act(name)[0] >= 400
    service.load(Choice(real_model_name, dtype="float32"))
