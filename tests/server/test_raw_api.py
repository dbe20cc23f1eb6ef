"""The raw API on its blocking port: histories, fields and their defaults, refusals, the model endpoint."""

import contextlib
import json
import threading
import time

import pytest
from fastapi.testclient import TestClient
from support.scripted_engine import ScriptedEngine

from helpers.generation.request import OPTIONAL_FIELDS
from helpers.generation.structure import Structure
from helpers.generation.transformers_engine import TransformersEngine
from helpers.server.raw_api import make_raw_app
from helpers.server.raw_bodies import HANDLING
from helpers.server.service import ModelChoice, Service

PAST = {"internal": [["<i>a</i>", "<u>b</u>"]], "visible": [["&lt;i&gt;", "<u>as it was</u>"]]}


@contextlib.contextmanager
def open_api(engine, **settings):
    with TestClient(make_raw_app(Service(engine=engine), **settings)) as http:
        yield http


def ask(engine, path="chat", **body):
    """(status, reply) of one request."""
    if path == "chat":
        body = {"user_input": "Hi", **body}
    with open_api(engine) as http:
        reply = http.post(f"/api/v1/{path}", json=body)
        return reply.status_code, reply.json()


def chat(engine, **body):
    """The history that a chat comes back with."""
    status, reply = ask(engine, **body)
    assert status == 200, reply
    return reply["results"][0]["history"]


def generate(engine, **body):
    """The request that the engine gets from one to /generate."""
    status, reply = ask(engine, "generate", **body)
    assert status == 200, reply
    return engine.requests[0]


@pytest.fixture
def api(tiny):
    """The API on the tiny model."""
    with open_api(TransformersEngine(tiny)) as http:
        yield lambda path, **body: http.post(f"/api/v1/{path}", json=body)


def read_text(reply):
    """The text of a reply from /generate."""
    return reply.json()["results"][0]["text"]


def test_new_exchange_is_escaped_where_it_is_shown_and_old_ones_stay():
    history = chat(ScriptedEngine(["  1 <", " 2 & 'so'", ' "']), user_input=" <b>'x'</b>", history=PAST)
    assert history["internal"] == [["<i>a</i>", "<u>b</u>"], [" <b>'x'</b>", "1 < 2 & 'so' \""]]
    old, new = history["visible"]
    assert old == PAST["visible"][0]
    assert new == [" &lt;b&gt;&#x27;x&#x27;&lt;/b&gt;", "1 &lt; 2 &amp; &#x27;so&#x27; &quot;"]


@pytest.mark.parametrize("placeholder", ["<USER>", "<user>", "{{user}}"])
def test_name_replaces_the_users_placeholder_where_a_reply_is_shown(placeholder):
    history = chat(ScriptedEngine([f"Dear {placeholder}!"]), name1="A & B", mode="instruct")
    assert history["internal"][0][1] == f"Dear {placeholder}!"
    assert history["visible"][0][1] == "Dear A &amp; B!"


def test_reply_is_lengthened_without_stripping():
    history = chat(ScriptedEngine([" & more "]), history=PAST, _continue=True, user_input="ignored")
    assert history["internal"] == [["<i>a</i>", "<u>b</u> & more "]]
    assert history["visible"] == [["&lt;i&gt;", "<u>as it was</u> &amp; more "]]


def test_reply_is_regenerated_and_its_question_stays():
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
    assert chat(engine, history=history, **{what: True}) == history
    assert not engine.requests


def test_histories_of_different_length_grow_by_one_each():
    history = {"internal": [["a", "b"], ["c", "d"]], "visible": [["a", "b"]]}
    grown = chat(ScriptedEngine(["x"]), history=history)
    assert (len(grown["internal"]), len(grown["visible"])) == (3, 2)


def test_exchange_without_a_reply_is_empty():
    assert chat(ScriptedEngine([" \n"])) == {"internal": [["", ""]], "visible": [["", ""]]}


@pytest.mark.parametrize(
    ("sent", "setting", "value"),
    [
        ({"prompt": 12345}, "prompt", "12345"),
        ({"temperature": "0.7"}, "temperature", 0.7),
        ({"max_length": "7"}, "max_new_tokens", 7),
        ({"rep_pen": 1.2}, "repetition_penalty", 1.2),
        ({"typical": 0.9}, "typical_p", 0.9),
        ({"seed": 5}, "seed", 5),
        ({"frequency_pen": 0.5}, "frequency_penalty", 0.5),
        ({"epsilon_cutoff": 3}, "epsilon_cutoff", pytest.approx(3e-4)),
        ({"eta_cutoff": "4"}, "eta_cutoff", pytest.approx(4e-4)),
        ({"add_bos_token": False}, "add_special_tokens", False),
        ({"ban_eos_token": True}, "ban_eos", True),
        ({"grammar_string": 'root ::= "x"'}, "structure", Structure("grammar", 'root ::= "x"')),
        ({"min_length": 3}, "min_length", 3),
        ({"stopping_strings": ["\n"]}, "stop", ["\n"]),
        ({"skip_special_tokens": False}, "skip_special_tokens", False),
        ({"mirostat_mode": 2}, "mirostat_mode", 2),
        ({"do_sample": False, "temperature": 0.9}, "temperature", 0),
    ],
)
def test_values_are_read_as_in_2023_and_reach_the_engine(sent, setting, value):
    assert getattr(generate(ScriptedEngine(), **{"prompt": "x", **sent}), setting) == value


def test_text_is_all_that_generate_replies_with():
    assert ask(ScriptedEngine(), "generate", prompt="x") == (200, {"results": [{"text": "Hello!"}]})


def test_banned_tokens_get_a_bias_that_rules_them_out():
    bias = generate(ScriptedEngine(), prompt="x", custom_token_bans="5, 6").logit_bias
    assert bias.keys() == {5, 6}
    assert max(bias.values()) < -1e6


def test_defaults_are_those_of_2023():
    engine = ScriptedEngine()
    request = generate(engine, prompt="x")
    assert (request.temperature, request.repetition_penalty) == (0.5, 1.1)
    assert (request.max_new_tokens, request.keep_last) == (200, 1848)
    assert request.seed is None
    assert request.add_special_tokens
    assert request.stop == []
    assert engine.list_unsupported(request) == []


def test_table_of_fields_has_every_optional_setting_of_an_engine():
    others = {"prompt_logprobs", "passed_on"}  # of the OpenAI-style API
    assert set(OPTIONAL_FIELDS) - others <= set(HANDLING.values())


@pytest.mark.parametrize(
    ("sent", "kept", "length"),
    [
        ({}, 1848, 200),
        ({"truncation_length": 300}, 100, 200),
        ({"truncation_length": 9000}, 3896, 200),
        ({"max_new_tokens": 0}, 2047, 1),
        ({"auto_max_new_tokens": True}, 1848, 2045),
        ({"auto_max_new_tokens": True, "truncation_length": 202}, 2, 200),
    ],
)
def test_prompt_and_answer_share_the_truncation_length(sent, kept, length):
    request = generate(ScriptedEngine(context=4096), prompt="one two three", **sent)
    assert (request.keep_last, request.max_new_tokens) == (kept, length)


def test_long_chat_loses_its_oldest_exchanges():
    engine = ScriptedEngine()
    history = [[f"user{number}", "word " * 100] for number in range(30)]
    chat(engine, history={"internal": history, "visible": history}, context="Stay.")
    prompt = engine.requests[0].prompt
    assert prompt.startswith("Stay.")
    assert "user0" not in prompt
    assert "user29" in prompt
    assert 1848 - 110 < engine.count_tokens(prompt) < 1848  # an exchange more would not fit


def test_models_own_template_is_the_default_of_mode_instruct():
    engine = ScriptedEngine()
    chat(engine, mode="instruct", context_instruct="Be brief.", history=PAST)
    request = engine.requests[0]
    assert request.prompt == "<system>Be brief.<user><i>a</i><assistant><u>b</u><user>Hi<assistant>"
    assert not request.add_special_tokens  # the template has its BOS
    assert request.stop == []


def test_stop_strings_of_the_turns_come_before_those_of_the_request():
    engine = ScriptedEngine()
    chat(engine, stopping_strings=["###"])
    assert engine.requests[0].stop == ["\nYou:", "\nAI:", "###"]
    assert engine.requests[0].add_special_tokens


IGNORED = {
    "honoured": ({"tfs": 0.9, "top_a": 0.1, "mode": "instruct"}, []),
    "at their defaults": (
        {"num_beams": 1, "guidance_scale": "1", "preset": "None", "stop_at_newline": False},
        [],
    ),
    "null": ({"stopping_strings": None, "num_beams": None}, []),
    "never honoured": (
        {"num_beams": 2, "negative_prompt": "x", "stop_at_newline": True},
        ["negative_prompt", "num_beams", "stop_at_newline"],
    ),
    "unknown": ({"nonsense": 1, "n": None}, ["nonsense"]),
    "stop strings that are not a list": ({"stopping_strings": "x"}, ["stopping_strings"]),
    "two names with two values": ({"max_new_tokens": 3, "max_length": 4}, ["max_length"]),
    "two names with one value": ({"max_new_tokens": 3, "max_length": 3}, []),
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
        "grammar_string": 'root ::= "x"',
        "mirostat_mode": 0,
    }
    ignored = ["ban_eos_token", "custom_token_bans", "grammar_string", "presence_pen"]
    assert ask(engine, "generate", prompt="x", **sent)[1]["ignored"] == ignored


def test_prompt_is_returned_if_it_was_asked_for():
    _, generated = ask(ScriptedEngine(), "generate", prompt="x", debug_prompt=True)
    assert generated["prompt_as_built"] == "x"
    _, chatted = ask(ScriptedEngine(), context="Talk.", debug_prompt=True)
    assert chatted["prompt_as_built"] == "Talk.\nYou: Hi\nAI:"


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
    assert (status, reply["error"]["param"]) == (400, param)
    assert param in reply["error"]["message"]
    assert set(reply["error"]) == {"message", "type", "param", "code"}
    assert not engine.requests


def test_unknown_token_is_blamed_on_the_field_that_bans_it(api):
    error = api("generate", prompt="x", custom_token_bans="5,9999").json()["error"]
    assert error["param"] == "custom_token_bans"
    assert "9999" in error["message"]


def test_tokens_are_counted(api):
    counted = {"results": [{"tokens": 4}]}
    assert api("token-count", prompt="four").json() == counted
    assert api("token-count", prompt=1234).json() == counted


def test_last_token_of_the_length_comes_back_also_with_stop_strings(api):
    no_half_characters = ",".join(str(token) for token in range(127, 260))
    body = {
        "prompt": "Hi",
        "max_new_tokens": 9,
        "do_sample": False,
        "custom_token_bans": no_half_characters,
    }
    plain = read_text(api("generate", **body))
    assert len(plain) == 9
    assert read_text(api("generate", **body, stopping_strings=["\0"])) == plain


def test_seed_makes_sampling_reproducible(api):
    body = {"user_input": "Hi", "max_new_tokens": 12, "temperature": 1.5}
    first, again, other = (api("chat", **body, seed=seed).json() for seed in (7, 7, 8))
    assert first == again != other


def test_prompt_that_is_too_long_keeps_its_end(api):
    body = {"max_new_tokens": 8, "do_sample": False, "truncation_length": 30}
    end = "the end of this prompt"
    long = read_text(api("generate", prompt="x" * 5000 + end, **body))
    assert long == read_text(api("generate", prompt=end, **body))


def test_stop_stream_ends_what_runs_and_it_is_answered_with_what_it_has():
    engine = ScriptedEngine(["word "] * 1000, pause_s=0.01)
    texts = []
    with open_api(engine) as http:

        def generate_all():
            texts.append(read_text(http.post("/api/v1/generate", json={"prompt": "x"})))

        asking = threading.Thread(target=generate_all)
        asking.start()
        while engine.sent < 3:
            time.sleep(0.01)
        assert http.post("/api/v1/stop-stream", json={}).json() == {"results": "success"}
        asking.join()
    assert 2 <= texts[0].count("word") < 1000


def test_stop_stream_requires_a_body():
    with open_api(ScriptedEngine()) as http:
        assert http.post("/api/v1/stop-stream").status_code == 415


class Models:
    """The API with the models of a home folder."""

    def __init__(self, http, service):
        self.http = http
        self.service = service

    def act(self, action, **body):
        """(status, reply) of an action."""
        reply = self.http.post("/api/v1/model", json={"action": action, **body})
        return reply.status_code, reply.json()

    def generate(self):
        """The status of a request for one token."""
        body = {"prompt": "x", "max_new_tokens": 1}
        return self.http.post("/api/v1/generate", json=body).status_code


@pytest.fixture
def models(home, tiny):
    """Models tiny, other and broken, and a LoRA for tiny, with which tiny is loaded."""
    from support.tiny import make_tiny_adapter, make_tiny_model

    make_tiny_model(home / "models" / "other", seed=3)
    make_tiny_adapter(home / "loras" / "shift", home / "models" / "tiny")
    broken = home / "models" / "broken"
    broken.mkdir()
    for path in (home / "models" / "other").iterdir():
        (broken / path.name).write_bytes(path.read_bytes())
    (broken / "config.json").write_text(json.dumps({"model_type": "nonsense"}), encoding="utf-8")
    service = Service()
    service.load(ModelChoice("tiny", ("shift",), dtype="float32"))
    with TestClient(make_raw_app(service)) as http:
        yield Models(http, service)
    service.unload()


def test_model_is_named_and_listed(models):
    assert models.http.get("/api/v1/model").json() == {"result": "tiny"}
    assert models.act("") == (200, {"result": "tiny"})
    assert models.act("frobnicate") == (200, {"result": "tiny", "ignored": ["action"]})
    assert models.act("list") == (200, {"result": ["None", "broken", "other", "tiny"]})


def test_model_is_described(models):
    info = models.act("info")[1]["result"]
    assert set(info) == {"model_name", "lora_names", "shared.settings", "shared.args"}
    assert (info["model_name"], info["lora_names"]) == ("tiny", ["shift"])
    assert info["shared.args"]["dtype"] == "float32"


def test_another_model_is_loaded_with_the_flags_that_mean_something(models):
    flags = {"lora": [], "loader": "Transformers", "bf16": True, "cpu": True, "wbits": 0}
    status, reply = models.act("load", model_name="other", args=flags)
    assert status == 200
    assert (reply["result"]["model_name"], reply["result"]["lora_names"]) == ("other", [])
    assert reply["ignored"] == ["args.cpu"]
    assert models.service.choice == ModelChoice("other", (), "transformers", "bfloat16")
    assert models.generate() == 200


def test_no_model_answers_after_unloading(models):
    status, reply = models.act("unload")
    assert (status, reply["result"]["model_name"]) == (200, None)
    assert models.http.get("/api/v1/model").json() == {"result": None}
    assert models.generate() == 503


def test_loras_and_number_format_stay_when_a_model_is_loaded_again(models):
    models.act("unload")
    assert models.act("load", model_name="tiny")[1]["result"]["lora_names"] == ["shift"]
    assert models.service.choice == ModelChoice("tiny", ("shift",), dtype="float32")


@pytest.mark.parametrize(
    ("body", "param"),
    [
        ({"model_name": "nothing"}, "model_name"),
        ({"model_name": "../tiny"}, "model_name"),
        ({"model_name": "broken", "args": {"lora": []}}, "model_name"),
        ({"model_name": "tiny", "args": {"lora": ["nothing"]}}, "args"),
        ({"model_name": "tiny", "args": {"lora": 5}}, "args.lora"),
    ],
)
def test_model_that_cannot_be_loaded_is_refused_and_the_old_one_stays(models, body, param):
    status, reply = models.act("load", **body)
    assert (status, reply["error"]["param"]) == (400, param)
    info = models.act("info")[1]["result"]
    assert (info["model_name"], info["lora_names"]) == ("tiny", ["shift"])
    assert models.generate() == 200


def test_model_endpoint_asks_for_the_key_if_there_is_one():
    with open_api(ScriptedEngine(), api_key="secret") as http:
        for action in ("load", "unload", "info"):
            assert http.post("/api/v1/model", json={"action": action}).status_code == 401
        key = {"Authorization": "Bearer secret"}
        reply = http.post("/api/v1/model", json={"action": ""}, headers=key)
        assert reply.json() == {"result": "scripted"}


def test_chat_without_a_model_is_a_503_with_a_message():
    status, reply = ask(None)
    assert status == 503
    assert reply["error"]["message"]
