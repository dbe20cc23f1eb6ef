"""The model and the LoRAs of a running WebUI, and the stand-ins for it checked against recordings."""

import json
import os
from pathlib import Path

import pytest
import requests
from support.fake_webui import LORAS, MODELS, make_webui_today, run_webui_2023, run_webui_today
from support.server import serve_app

from helpers import PROJECT
from helpers.clients.remedies import SERVER_REMEDIES
from helpers.clients.webui_control import Loaded, make_control
from helpers.common.errors import KitError, NotFoundError, ServerError, UnsupportedError, UsageError

RECORDINGS = Path(os.environ.get("KIT_SHARED", PROJECT.parent / "shared")) / "webui" / "recordings"


@pytest.fixture(scope="module")
def servers():
    """{era: address}; the server of today has both keys."""
    with run_webui_2023() as running, run_webui_today("sk", "adm") as new_url:
        yield {"2023": running.url, "today": new_url}


@pytest.fixture
def control(servers, request):
    """The control of the era that the test names, with `llama` loaded and no LoRA."""
    keys = {"api_key": "sk", "admin_key": "adm"} if request.param == "today" else {}
    control = make_control(request.param, servers[request.param], timeout=9, **keys)
    control.load_model("llama")
    return control


in_both = pytest.mark.parametrize("control", ["2023", "today"], indirect=True)
in_2023 = pytest.mark.parametrize("control", ["2023"], indirect=True)
today = pytest.mark.parametrize("control", ["today"], indirect=True)


@in_both
def test_models_are_listed_loaded_and_unloaded(control):
    assert control.list_models() == sorted(MODELS)
    loaded = Loaded("mistral", [], "Transformers")
    assert control.load_model("mistral", load_in_8bit=True) == loaded
    assert control.describe() == loaded
    control.unload_model()
    assert control.describe().model is None


@in_both
def test_loras_are_attached_and_removed(control):
    assert control.load_loras(["colleges"]).loras == ["colleges"]
    assert control.load_loras(["pirate"]).loras == ["pirate"]
    without = Loaded("llama", [], "Transformers")
    assert control.unload_loras() == without
    assert control.describe() == without


@in_both
def test_another_model_has_none_of_the_loras_of_the_one_before(control):
    control.load_loras(["colleges"])
    assert control.load_model("mistral").loras == []


@in_both
@pytest.mark.parametrize("name", ["no-such-model", "broken"])
def test_model_that_does_not_load_is_an_error(control, name):
    with pytest.raises(KitError):
        control.load_model(name)


@in_2023
def test_unknown_model_is_noticed_in_2023_and_the_others_are_named(control):
    with pytest.raises(NotFoundError, match="no-such-model") as caught:
        control.load_model("no-such-model")
    assert all(name in caught.value.remedy for name in MODELS)
    assert control.describe() == Loaded(None, [], None)


@in_both
def test_loras_need_a_model(control):
    control.unload_model()
    with pytest.raises(UsageError):
        control.load_loras(["colleges"])


def test_model_of_a_server_that_names_no_loader_is_found():
    with run_webui_2023() as running:
        running.webui.args["loader"] = None  # as the kit's server, if no loader was asked for
        assert make_control("2023", running.url).describe() == Loaded("llama", [], None)


@in_2023
def test_words_of_a_failed_load_in_2023_are_passed_on(control):
    with pytest.raises(ServerError, match="nonsense"):
        control.load_model("broken")
    assert control.describe() == Loaded(None, [], "Transformers")
    with pytest.raises(ServerError, match=r"adapter_config\.json.*loras/nothing"):
        control.load_model("llama", lora=["nothing"])
    assert control.describe() == Loaded("llama", [], "Transformers")


def test_webui_of_2023_answers_without_a_lora_after_it_has_failed_with_two():
    with run_webui_2023() as running:
        control = make_control("2023", running.url)
        with pytest.raises(ServerError, match="llama was loaded again"):
            control.load_loras(["colleges", "pirate"])
        assert control.describe().loras == running.webui.active == []
        assert control.load_loras(["pirate"]).loras == running.webui.active == ["pirate"]


@today
def test_failed_load_of_today_is_a_500_with_a_remedy(control):
    with pytest.raises(ServerError, match="500") as caught:
        control.load_model("no-such-model")
    assert caught.value.remedy == SERVER_REMEDIES[500]
    assert control.describe().model is None


@today
def test_loras_that_today_s_webui_cannot_take_change_nothing(control):
    control.load_loras(["colleges"])
    with pytest.raises(NotFoundError, match="nothing") as caught:
        control.load_loras(["nothing"])
    assert all(name in caught.value.remedy for name in LORAS)
    with pytest.raises(UnsupportedError, match="colleges, pirate"):
        control.load_loras(["colleges", "pirate"])
    with pytest.raises(ServerError, match="422") as caught:
        control.change("lora/load", lora_names="colleges")
    assert "lora_names" in caught.value.problem
    assert control.describe() == Loaded("llama", ["colleges"], "Transformers")


def test_report_of_today_s_webui_is_true_after_a_lora_has_failed():
    app = make_webui_today(None, None)
    with serve_app(app) as url:
        control = make_control("today", url)
        control.load_loras(["colleges"])
        with pytest.raises(ServerError, match="llama was loaded again"):
            control.load_loras(["torn"])
        assert control.describe().loras == app.state.active == []
        assert control.load_loras(["colleges"]).loras == app.state.active == ["colleges"]


def test_keys_of_today_open_only_their_own_routes(servers):
    without_admin_key = make_control("today", servers["today"], api_key="sk")
    assert isinstance(without_admin_key.describe(), Loaded)
    with pytest.raises(ServerError, match="401") as caught:
        without_admin_key.list_loras()
    assert "admin_key" in caught.value.remedy
    with pytest.raises(ServerError, match="401"):
        make_control("today", servers["today"], api_key="adm").describe()


def test_one_key_opens_everything_if_there_is_no_admin_key():
    with run_webui_today("sk", "sk") as url:
        assert make_control("today", url, api_key="sk").list_loras() == LORAS


@in_2023
def test_loras_cannot_be_listed_in_2023(control):
    with pytest.raises(UnsupportedError):
        control.list_loras()


def test_admin_keys_of_2023_and_unknown_eras_are_refused():
    with pytest.raises(UnsupportedError):
        make_control("2023", admin_key="adm")
    with pytest.raises(UsageError, match="2024"):
        make_control("2024")


def test_server_of_the_other_era_is_a_404_with_a_remedy(servers):
    for control in (
        make_control("2023", servers["today"], api_key="sk"),
        make_control("today", servers["2023"]),
    ):
        with pytest.raises(ServerError, match="404") as caught:
            control.describe()
        assert caught.value.remedy == SERVER_REMEDIES[404]


def test_missing_field_in_2023_gives_an_empty_reply(servers):
    with pytest.raises(ServerError, match=servers["2023"]) as caught:
        make_control("2023", servers["2023"]).act("load")
    assert caught.value.remedy == SERVER_REMEDIES["not JSON"]


def replay(url, recording, headers=None):
    """What the stand-in replies to a recorded request, with the names that it has: (status, reply)."""
    request = recording["request"]
    text = json.dumps(request.get("body"))
    names = {"SmolLM2-135M-Instruct": "llama", "tiny-zappo": "colleges", "broken-model": "broken"}
    for recorded, name in names.items():
        text = text.replace(recorded, name)
    body = json.loads(text)
    reply = requests.request(request["method"], url + request["path"], json=body, headers=headers, timeout=9)
    return reply.status_code, reply.content and reply.json()


def shape(value):
    """A reply without its texts: the types under its keys. Of the raw API's flags, only those read here."""
    if isinstance(value, dict):
        kept = {"loader", "lora"} if "model_dir" in value else set(value) - {"shared.settings", "input"}
        return {key: shape(value[key]) for key in sorted(kept)}
    return [shape(item) for item in value[:1]] if isinstance(value, list) else type(value).__name__


RECORDED = """
    old/raw_model_post_info old/raw_model_post_list old/raw_model_post_bogus_action
    old/seq_model_01_load_missing_name old/seq_model_05_load_unknown old/seq_model_18_load_broken_model
    old/seq_model_19_load_again
    new/internal_model_info new/internal_model_list new/lora_load_missing new/model_load_missing_name
    new/model_load_same new/internal_model_info_after_failed_load new/run2_auth_none new/run2_lora_list
    new/run2_lora_load_not_list new/run2_lora_unload new/old_raw_model
""".split()


@pytest.mark.skipif(not RECORDINGS.is_dir(), reason="no recordings of the WebUI beside this checkout")
@pytest.mark.parametrize("name", RECORDED)
def test_stand_ins_reply_as_the_webui_did(name):
    recording = json.loads((RECORDINGS / f"{name}.json").read_text(encoding="utf-8"))
    keys = ["sk", "adm"] if "run2" in name else []
    with run_webui_2023() as running, run_webui_today(*keys) as new_url:
        if name.startswith("old"):
            url, key = running.url, ""
        else:
            url, key = new_url, dict(recording["request"]["headers"]).get("Authorization", "")
        if "after_failed_load" in name:
            requests.post(f"{url}/v1/internal/model/load", json={"model_name": "broken"}, timeout=9)
        status, reply = replay(url, recording, {"Authorization": key.replace("-test", "")})
    recorded = recording["response"]
    assert (status, shape(reply or "")) == (recorded["status"], shape(recorded.get("body", "")))
