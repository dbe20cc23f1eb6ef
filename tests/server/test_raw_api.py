import contextlib
import json
import threading
import time

import pytest
from fastapi.testclient import TestClient
from support.scripted_engine import ScriptedEngine

from helpers.generation.engine import Engine
from helpers.generation.transformers_engine import TransformersEngine
from helpers.server.raw_api import make_raw_app
from helpers.server.service import Choice, Service

PAST = {"internal": [["<i>a</i>", "<u>b</u>"]], "visible": [["&lt;i&gt;", "<u>as it was</u>"]]}


@contextlib.contextmanager
def open_api(engine, **settings):
    with TestClient(make_raw_app(Service(engine=engine), **settings)) as http:
        yield http


def ask(engine, path="chat", **body):
    """(status, reply) of one request."""
    with open_api(engine) as http:
        reply = http.post(f"/api/v1/{path}", json={"user_input": "Hi"} | body if path == "chat" else body)
        return reply.status_code, reply.json()


def chat(engine, **body):
    """The history that a chat comes back with."""
    status, reply = ask(engine, **body)
    assert status == 200, reply
    return reply["results"][0]["history"]


@pytest.fixture
def api(tiny):
    """The API on the tiny model."""
    with open_api(TransformersEngine(tiny)) as http:
        yield lambda path, **body: http.post(f"/api/v1/{path}", json=body)


def test_new_row_is_escaped_where_it_is_shown_and_old_rows_stay():
    history = chat(ScriptedEngine(["  1 <", " 2 & 'so'", ' "']), user_input=" <b>'x'</b>", history=PAST)
    assert history["internal"] == [["<i>a</i>", "<u>b</u>"], [" <b>'x'</b>", "1 < 2 & 'so' \""]]
    assert history["visible"][0] == PAST["visible"][0]
    assert history["visible"][1] == [
        " &lt;b&gt;&#x27;x&#x27;&lt;/b&gt;",
        "1 &lt; 2 &amp; &#x27;so&#x27; &quot;",
    ]


@pytest.mark.parametrize("placeholder", ["<USER>", "<user>", "{{user}}"])
def test_name_takes_the_users_place_where_a_reply_is_shown(placeholder):
    history = chat(ScriptedEngine([f"Dear {placeholder}!"]), name1="A & B", mode="instruct")
    assert (history["internal"][0][1], history["visible"][0][1]) == (
        f"Dear {placeholder}!",
        "Dear A &amp; B!",
    )


def test_reply_is_lengthened_without_stripping():
    history = chat(ScriptedEngine([" & more "]), history=PAST, _continue=True, user_input="ignored")
    assert history["internal"] == [["<i>a</i>", "<u>b</u> & more "]]
    assert history["visible"] == [["&lt;i&gt;", "<u>as it was</u> &amp; more "]]


def test_reply_is_made_anew_and_its_question_stays():
    history = chat(ScriptedEngine(["new"]), history=PAST, regenerate=True, user_input="ignored")
    assert history == {"internal": [["<i>a</i>", "new"]], "visible": [["&lt;i&gt;", "new"]]}


@pytest.mark.parametrize("what", ["regenerate", "_continue"])
@pytest.mark.parametrize(
    "history",
    [
        {"internal": [], "visible": []},
        {"internal": [["<|BEGIN-VISIBLE-CHAT|>", "Hello"]], "visible": [["", "Hello"]]},
    ],
)
def test_history_without_a_question_comes_back_unchanged(what, history):
    engine = ScriptedEngine()
    assert chat(engine, history=history, **{what: True}) == history and not engine.requests


def test_histories_of_different_length_grow_by_one_each():
    history = chat(
        ScriptedEngine(["x"]), history={"internal": [["a", "b"], ["c", "d"]], "visible": [["a", "b"]]}
    )
    assert (len(history["internal"]), len(history["visible"])) == (3, 2)


def test_row_without_a_reply_is_empty():
    assert chat(ScriptedEngine([" \n"])) == {"internal": [["", ""]], "visible": [["", ""]]}


def test_values_are_read_as_then_and_reach_the_engine():
    engine = ScriptedEngine()
    sent = {"temperature": "0.7", "max_length": "7", "rep_pen": 1.2, "typical": 0.9, "seed": 5, "epsilon_cutoff": 3, "eta_cutoff": "4",
            "custom_token_bans": "5, 6", "add_bos_token": False, "ban_eos_token": True, "grammar_string": "root ::= x", "min_length": 3,
            "frequency_pen": 0.5, "stopping_strings": ["\n"], "skip_special_tokens": False, "mirostat_mode": 2}  # fmt: skip
    assert ask(engine, "generate", prompt=12345, **sent) == (200, {"results": [{"text": "Hello!"}]})
    request = engine.requests[0]
    assert (request.prompt, request.temperature, request.max_new_tokens, request.seed, request.stop) == (
        "12345",
        0.7,
        7,
        5,
        ["\n"],
    )
    assert (request.repetition_penalty, request.typical_p, request.frequency_penalty) == (1.2, 0.9, 0.5)
    assert (request.epsilon_cutoff, request.eta_cutoff) == pytest.approx((3e-4, 4e-4))
    assert request.logit_bias.keys() == {5, 6} and max(request.logit_bias.values()) < -1e6
    assert (request.add_special_tokens, request.ban_eos, request.grammar, request.min_length) == (
        False,
        True,
        "root ::= x",
        3,
    )
    assert (request.skip_special_tokens, request.mirostat_mode) == (False, 2)


def test_defaults_are_those_of_2023():
    engine = ScriptedEngine()
    ask(engine, "generate", prompt="x")
    request = engine.requests[0]
    assert (request.temperature, request.repetition_penalty, request.max_new_tokens, request.keep_last) == (
        0.5,
        1.1,
        200,
        1848,
    )
    assert (
        request.seed is None
        and request.add_special_tokens
        and not request.stop
        and engine.list_unsupported(request) == []
    )


def test_greedy_when_do_sample_is_off():
    engine = ScriptedEngine()
    ask(engine, "generate", prompt="x", do_sample=False, temperature=0.9)
    assert engine.requests[0].temperature == 0


@pytest.mark.parametrize(
    ("sent", "kept", "length"),
    [({}, 1848, 200), ({"truncation_length": 300}, 100, 200), ({"truncation_length": 9000}, 3896, 200), ({"max_new_tokens": 0}, 2047, 1),
     ({"auto_max_new_tokens": True}, 1848, 2045), ({"auto_max_new_tokens": True, "truncation_length": 202}, 2, 200)],
)  # fmt: skip
def test_prompt_and_answer_share_the_truncation_length(sent, kept, length):
    engine = ScriptedEngine(context=4096)
    ask(engine, "generate", prompt="one two three", **sent)
    assert (engine.requests[0].keep_last, engine.requests[0].max_new_tokens) == (kept, length)


def test_long_chat_loses_its_oldest_rows():
    engine, history = ScriptedEngine(), [[f"user{number}", "word " * 100] for number in range(30)]
    chat(engine, history={"internal": history, "visible": history}, context="Stay.")
    prompt = engine.requests[0].prompt
    assert prompt.startswith("Stay.") and "user0" not in prompt and "user29" in prompt
    assert 1848 - 110 < engine.count_tokens(prompt) < 1848


def test_models_own_template_is_the_default_of_mode_instruct():
    engine = ScriptedEngine()
    chat(engine, mode="instruct", context_instruct="Be brief.", history=PAST)
    request = engine.requests[0]
    assert request.prompt == "<system>Be brief.<user><i>a</i><assistant><u>b</u><user>Hi<assistant>"
    assert not request.add_special_tokens and request.stop == []  # the template has its BOS


def test_stop_strings_of_the_turns_stand_before_those_of_the_request():
    engine = ScriptedEngine()
    chat(engine, stopping_strings=["###"])
    assert engine.requests[0].stop == ["\nYou:", "\nAI:", "###"] and engine.requests[0].add_special_tokens


IGNORED = {
    "honoured": ({"tfs": 0.9, "top_a": 0.1, "mode": "instruct"}, []),
    "at their defaults": (
        {
            "num_beams": 1,
            "guidance_scale": "1",
            "preset": "None",
            "stop_at_newline": False,
            "stopping_strings": None,
        },
        [],
    ),
    "never honoured": (
        {"num_beams": 2, "negative_prompt": "x", "stop_at_newline": True},
        ["negative_prompt", "num_beams", "stop_at_newline"],
    ),
    "unknown": ({"nonsense": 1, "n": None}, ["nonsense"]),
    "stop strings that are no list": ({"stopping_strings": "x"}, ["stopping_strings"]),
    "two names, two values": ({"max_new_tokens": 3, "max_length": 4}, ["max_length"]),
    "two names, one value": ({"max_new_tokens": 3, "max_length": 3}, []),
    "without meaning in the mode": (
        {"context_instruct": "x", "mode": "cai-chat"},
        ["context_instruct", "mode"],
    ),
}


@pytest.mark.parametrize("case", IGNORED)
def test_what_is_not_honoured_is_named(case):
    sent, ignored = IGNORED[case]
    assert ask(ScriptedEngine(), **sent)[1].get("ignored", []) == ignored


def test_what_this_engine_does_not_honour_is_named_as_it_was_sent():
    engine = ScriptedEngine(honoured=["tfs"])
    sent = {
        "tfs": 0.9,
        "custom_token_bans": "5",
        "presence_pen": 1,
        "ban_eos_token": True,
        "grammar_string": "root ::= x",
        "mirostat_mode": 0,
    }
    ignored = ["ban_eos_token", "custom_token_bans", "grammar_string", "presence_pen"]
    assert ask(engine, "generate", prompt="x", **sent)[1]["ignored"] == ignored


def test_prompt_is_told_when_asked_for():
    assert ask(ScriptedEngine(), "generate", prompt="x", debug_prompt=True)[1]["prompt_as_built"] == "x"
    assert (
        ask(ScriptedEngine(), context="Talk.", debug_prompt=True)[1]["prompt_as_built"]
        == "Talk.\nYou: Hi\nAI:"
    )


@pytest.mark.parametrize(
    ("path", "body", "param"),
    [
        ("chat", {"user_input": None}, "user_input"),
        ("chat", {"history": {"visible": []}}, "history.internal"),
        ("chat", {"history": {"internal": []}}, "history.visible"),
        ("chat", {"history": []}, "history"),
        ("chat", {"character": "Nobody"}, "character"),
        ("chat", {"instruction_template": "Nobody"}, "instruction_template"),
        ("chat", {"preset": "Nobody"}, "preset"),
        ("chat", {"mode": 5}, "mode"),
        ("generate", {}, "prompt"),
        ("generate", {"prompt": None}, "prompt"),
        ("generate", {"prompt": "x", "do_sample": "perhaps"}, "do_sample"),
        ("generate", {"prompt": "x", "top_p": 2}, "top_p"),
        ("generate", {"prompt": "x", "custom_token_bans": "a"}, "custom_token_bans"),
        ("generate", {"prompt": "x", "stopping_strings": [5]}, "stopping_strings.0"),
        ("generate", {"prompt": "x", "stopping_strings": ["x"] * 33}, "stopping_strings"),
        ("generate", {"prompt": "x", "max_new_tokens": 2048}, "max_new_tokens"),
        ("token-count", {}, "prompt"),
        ("model", {"action": "load"}, "model_name"),
    ],
)
def test_wrong_request_is_a_400_that_names_the_field(path, body, param):
    engine = ScriptedEngine()
    status, reply = ask(engine, path, **body)
    assert (status, reply["error"]["param"]) == (400, param) and param in reply["error"]["message"]
    assert set(reply["error"]) == {"message", "type", "param", "code"} and not engine.requests


def test_token_that_the_model_lacks_is_put_down_to_the_field_that_bans_it(api):
    error = api("generate", prompt="x", custom_token_bans="5,9999").json()["error"]
    assert error["param"] == "custom_token_bans" and "9999" in error["message"]


def test_tokens_are_counted(api):
    assert (
        api("token-count", prompt="four").json()
        == api("token-count", prompt=1234).json()
        == {"results": [{"tokens": 4}]}
    )


def test_last_token_of_the_length_comes_back_also_with_stop_strings(api):
    ask = {
        "prompt": "Hi",
        "max_new_tokens": 9,
        "do_sample": False,
        "custom_token_bans": ",".join(map(str, range(127, 260))),
    }
    plain = api("generate", **ask).json()["results"][0]["text"]
    assert (
        len(plain) == 9
        and api("generate", **ask, stopping_strings=["\0"]).json()["results"][0]["text"] == plain
    )


def test_seed_makes_sampling_reproducible_on_the_tiny_model(api):
    ask = {"user_input": "Hi", "seed": 7, "max_new_tokens": 12, "temperature": 1.5}
    assert api("chat", **ask).json() == api("chat", **ask).json() != api("chat", **{**ask, "seed": 8}).json()


def test_prompt_too_long_keeps_its_end(api):
    ask = {"max_new_tokens": 8, "do_sample": False, "truncation_length": 30}
    assert (
        api("generate", prompt="x" * 5000 + "the end of this prompt", **ask).json()
        == api("generate", prompt="the end of this prompt", **ask).json()
    )


def test_stop_stream_ends_what_runs_and_it_is_answered_with_what_it_has():
    engine, replies = ScriptedEngine(["word "] * 1000, pause_s=0.01), []
    with open_api(engine) as http:
        asking = threading.Thread(
            target=lambda: replies.append(http.post("/api/v1/generate", json={"prompt": "x"}))
        )
        asking.start()
        while engine.sent < 3:
            time.sleep(0.01)
        assert http.post("/api/v1/stop-stream", json={}).json() == {"results": "success"}
        asking.join(2)
        assert http.post("/api/v1/stop-stream").status_code == 400  # a body is required
    assert 2 <= replies[0].json()["results"][0]["text"].count("word") < 1000


class Models:
    """The API with the models of a home folder."""

    def __init__(self, http, service):
        self.http, self.service = http, service

    def __call__(self, action, **body):
        reply = self.http.post("/api/v1/model", json={"action": action, **body})
        return reply.status_code, reply.json()


@pytest.fixture
def models(home, tiny):
    """Two models and a LoRA of the first; the first is loaded with it."""
    from support.tiny import make_tiny_adapter, make_tiny_model

    make_tiny_model(home / "models" / "other", seed=3)
    make_tiny_adapter(home / "loras" / "shift", home / "models" / "tiny")
    broken = home / "models" / "broken"
    broken.mkdir()
    for path in (home / "models" / "other").iterdir():
        (broken / path.name).write_bytes(path.read_bytes())
    (broken / "config.json").write_text(json.dumps({"model_type": "nonsense"}), encoding="utf-8")
    service = Service()
    service.load(Choice("tiny", ("shift",), dtype="float32"))
    with TestClient(make_raw_app(service)) as http:
        yield Models(http, service)
    service.unload()


def test_model_is_listed_described_and_named(models):
    assert models.http.get("/api/v1/model").json() == {"result": "tiny"} == models("")[1]
    assert models("frobnicate")[1] == {"result": "tiny", "ignored": ["action"]}
    assert models("list")[1] == {"result": ["None", "broken", "other", "tiny"]}
    info = models("info")[1]["result"]
    assert set(info) == {"model_name", "lora_names", "shared.settings", "shared.args"}
    assert (info["model_name"], info["lora_names"], info["shared.args"]["dtype"]) == (
        "tiny",
        ["shift"],
        "float32",
    )


def test_another_model_takes_its_place_and_unloading_leaves_none(models):
    status, reply = models(
        "load",
        model_name="other",
        args={"lora": [], "loader": "Transformers", "bf16": True, "cpu": True, "wbits": 0},
    )
    assert (status, reply["result"]["model_name"], reply["result"]["lora_names"]) == (200, "other", [])
    assert reply["ignored"] == ["args.cpu"] and models.service.choice == Choice(
        "other", (), "transformers", "bfloat16"
    )
    assert models.http.post("/api/v1/generate", json={"prompt": "x", "max_new_tokens": 1}).status_code == 200
    assert models("unload")[1]["result"]["model_name"] is None and models("unload")[0] == 200
    assert models.http.get("/api/v1/model").json() == {"result": None}
    assert models.http.post("/api/v1/generate", json={"prompt": "x"}).status_code >= 400


def test_loras_and_number_format_stay_when_a_model_is_loaded_again(models):
    models("unload")
    assert models("load", model_name="tiny")[1]["result"]["lora_names"] == ["shift"]
    assert models.service.choice == Choice("tiny", ("shift",), dtype="float32")


@pytest.mark.parametrize(
    ("body", "param"),
    [({"model_name": "nothing"}, "model_name"), ({"model_name": "../tiny"}, "model_name"),
     ({"model_name": "broken", "args": {"lora": []}}, "model_name"),
     ({"model_name": "tiny", "args": {"lora": ["nothing"]}}, "args"), ({"model_name": "tiny", "args": {"lora": 5}}, "args.lora")],
)  # fmt: skip
def test_model_that_cannot_be_loaded_is_refused_and_the_old_one_stays(models, body, param):
    status, reply = models("load", **body)
    assert (status, reply["error"]["param"]) == (400, param)
    assert models("info")[1]["result"]["model_name"] == "tiny" and models("info")[1]["result"][
        "lora_names"
    ] == ["shift"]
    assert models.http.post("/api/v1/generate", json={"prompt": "x", "max_new_tokens": 1}).status_code == 200


def test_loading_needs_the_key_when_there_is_one():
    with open_api(ScriptedEngine(), api_key="secret") as http:
        for action in ("load", "unload", "info"):
            assert http.post("/api/v1/model", json={"action": action}).status_code == 401
        assert http.post(
            "/api/v1/model", json={"action": ""}, headers={"Authorization": "Bearer secret"}
        ).json() == {"result": "scripted"}


def test_no_model_is_an_error_with_words():
    engine: Engine | None = None
    status, reply = ask(engine)
    assert status >= 400 and "No model is loaded" in reply["error"]["message"]
