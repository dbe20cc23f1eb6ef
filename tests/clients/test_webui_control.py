import json
import os
from pathlib import Path

import pytest
import requests
from support.fake_webui import run_webui_2023, run_webui_today

from helpers import PROJECT, KitError
from helpers.clients.webui_control import Loaded, make_control

RECORDINGS = Path(os.environ.get("KIT_SHARED", PROJECT.parent / "shared")) / "webui" / "recordings"


@pytest.fixture(scope="module")
def servers():
    """The raw API's address of the one, the address of the other, which has both keys."""
    with run_webui_2023() as (old, _, _), run_webui_today("sk", "adm") as new:
        yield {"2023": old, "today": new}


@pytest.fixture
def control(servers, request):
    """The control of the era that the test names, with `llama` loaded and no LoRA."""
    keys = {"api_key": "sk", "admin_key": "adm"} if request.param == "today" else {}
    control = make_control(request.param, servers[request.param], timeout=9, **keys)
    control.load_model("llama")
    return control


both = pytest.mark.parametrize("control", ["2023", "today"], indirect=True)
old = pytest.mark.parametrize("control", ["2023"], indirect=True)
new = pytest.mark.parametrize("control", ["today"], indirect=True)


@both
def test_models_are_listed_loaded_and_unloaded(control):
    assert control.list_models() == ["broken", "llama", "mistral"]
    assert (
        control.load_model("mistral", load_in_8bit=True)
        == control.describe()
        == Loaded("mistral", [], "Transformers")
    )
    control.unload_model()
    assert control.describe().model is None


@both
def test_loras_are_put_on_and_taken_off(control):
    assert control.load_loras(["colleges"]).loras == ["colleges"]
    assert control.load_loras(["pirate", "colleges"]).loras == ["pirate", "colleges"]
    assert control.unload_loras() == control.describe() == Loaded("llama", [], "Transformers")


@both
def test_another_model_comes_without_the_loras_of_the_one_before(control):
    control.load_loras(["colleges"])
    assert control.load_model("mistral").loras == []


@both
@pytest.mark.parametrize("name", ["no-such-model", "broken"])
def test_model_that_does_not_load_is_an_error(control, name):
    with pytest.raises(KitError):
        control.load_model(name)


@old
def test_unknown_model_that_2023_calls_no_error_is_noticed_and_the_others_are_named(control):
    with pytest.raises(
        KitError,
        match="no model 'no-such-model', and none is loaded now. Load one of: broken, llama, mistral",
    ):
        control.load_model("no-such-model")
    assert control.describe() == Loaded(None, [], None)
    with pytest.raises(KitError, match="No model is loaded"):
        control.load_loras(["colleges"])


def test_server_that_names_no_loader_has_its_model_all_the_same():
    with run_webui_2023() as (url, _, webui):
        webui.args["loader"] = None
        assert make_control("2023", url).describe() == Loaded("llama", [], None)


@old
def test_words_of_a_failed_load_in_2023_are_handed_on(control):
    with pytest.raises(KitError, match="nonsense"):
        control.load_model("broken")
    with pytest.raises(KitError, match="adapter_config.json"):
        control.load_model("llama", lora=["nothing"])


@new
def test_refusals_of_today_come_with_a_remedy(control):
    with pytest.raises(
        KitError, match=r"Failed to load the model. \(status 500\) Look at the server's output"
    ):
        control.load_model("no-such-model")
    assert control.describe().model is None
    with pytest.raises(KitError, match="Failed to apply the LoRA"):
        control.load_loras(["nothing"])
    with pytest.raises(KitError, match="should be a valid list"):
        control.load_loras("colleges")


def test_keys_of_today_open_their_own_routes_only(servers):
    wrong = make_control("today", servers["today"], api_key="sk")
    assert isinstance(wrong.describe(), Loaded)
    with pytest.raises(
        KitError, match=r"Unauthorized \(status 401\) Give the server's key: api_key, and admin_key"
    ):
        wrong.list_loras()
    with pytest.raises(KitError, match="401"):
        make_control("today", servers["today"], api_key="adm").describe()


def test_one_key_opens_all_when_there_is_no_admin_key():
    with run_webui_today("sk", "sk") as url:
        assert make_control("today", url, api_key="sk").list_loras() == ["colleges", "pirate"]


@old
def test_what_2023_lacks_is_said(control):
    with pytest.raises(KitError, match="no call that lists LoRAs. Look into its loras/"):
        control.list_loras()
    with pytest.raises(KitError, match="no admin key"):
        make_control("2023", admin_key="adm")
    with pytest.raises(KitError, match="no era"):
        make_control("2024")


def test_control_of_the_other_era_is_told_so(servers):
    with pytest.raises(KitError, match="404.*today's WebUI has no raw API"):
        make_control("2023", servers["today"], api_key="sk").describe()
    with pytest.raises(KitError, match="404"):
        make_control("today", servers["2023"]).describe()


def test_field_of_2023_that_is_missing_leaves_an_empty_reply(servers):
    with pytest.raises(KitError, match="is empty"):
        make_control("2023", servers["2023"]).act("load")


def replay(url, recording, headers=None):
    """What the stand-in replies to a recorded request, with the names of this file's model and LoRAs: (status, reply)."""
    request = recording["request"]
    renamed = (
        json.dumps(request.get("body"))
        .replace("SmolLM2-135M-Instruct", "llama")
        .replace("tiny-zappo", "colleges")
    )
    body = json.loads(renamed.replace("broken-model", "broken"))
    reply = requests.request(request["method"], url + request["path"], json=body, headers=headers, timeout=9)
    return reply.status_code, reply.content and reply.json()


def shape(value):
    """A reply without its texts: the types below its keys; of the raw API's flags only those that are read."""
    if isinstance(value, dict):
        kept = {"loader", "lora"} if "model_dir" in value else set(value) - {"shared.settings", "input"}
        return {key: shape(value[key]) for key in sorted(kept)}
    return [shape(item) for item in value[:1]] if isinstance(value, list) else type(value).__name__


@pytest.mark.skipif(not RECORDINGS.is_dir(), reason="no recordings of the WebUI beside this checkout")
@pytest.mark.parametrize(
    "name",
    """old/raw_model_post_info old/raw_model_post_list old/raw_model_post_bogus_action old/seq_model_01_load_missing_name
    old/seq_model_05_load_unknown old/seq_model_18_load_broken_model old/seq_model_19_load_again new/internal_model_info new/internal_model_list
    new/lora_load_missing new/model_load_missing_name new/model_load_same new/internal_model_info_after_failed_load new/run2_auth_none
    new/run2_lora_list new/run2_lora_load_not_list new/run2_lora_unload new/old_raw_model""".split(),
)
def test_stand_ins_reply_as_the_webui_did(name):
    recording = json.loads((RECORDINGS / f"{name}.json").read_text(encoding="utf-8"))
    with (
        run_webui_2023() as (old_url, _, _),
        run_webui_today(*(["sk", "adm"] if "run2" in name else [])) as new_url,
    ):
        url, key = (
            (old_url, "")
            if name.startswith("old")
            else (new_url, dict(recording["request"]["headers"]).get("Authorization", ""))
        )
        if "after_failed_load" in name:
            requests.post(f"{url}/v1/internal/model/load", json={"model_name": "broken"}, timeout=9)
        status, reply = replay(url, recording, {"Authorization": key.replace("-test", "")})
    recorded = recording["response"]
    assert (status, shape(reply or "")) == (recorded["status"], shape(recorded.get("body", "")))
