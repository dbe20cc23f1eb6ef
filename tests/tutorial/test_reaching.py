"""A lesson's server: one that OPENAI_BASE_URL names, here a real one with a key, or one that it starts."""

import re
from types import SimpleNamespace

import psutil
import pytest
import requests
from support.lessons import (
    NAMES,
    PATHS,
    list_code_cells,
    list_tagged_cells,
    read_lesson,
    read_printed,
)
from support.tiny import make_tiny_adapter, make_tiny_model

from helpers import PROJECT, clients, common, evaluation, tutorial
from helpers.common.errors import ServerError
from helpers.tutorial import checks, plots, setup
from helpers.tutorial.execution import execute_notebook
from helpers.tutorial.report import collect_results, find_unpublished

HI = [{"role": "user", "content": "Hi"}]
NOBODY = "http://127.0.0.1:9/v1"  # port 9 (discard): no server listens there
KEY = "sesame"


def start_with_key(model: str, *extra: str, loras=()):
    """The kit's server, as somebody runs it for a room."""
    return clients.start_server(model, loras, ["--api-key", KEY, *extra])


@pytest.fixture(scope="module")
def shared(tmp_path_factory):
    """A server of a tiny model with one LoRA."""
    home = tmp_path_factory.mktemp("home")
    make_tiny_adapter(home / "loras" / "shift", make_tiny_model(home / "models" / "tiny"))
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("OPEN_LLM_KIT_HOME", str(home))
        server = start_with_key("tiny", "--dtype", "float32", loras=["shift"])
    with server:  # the home is this fixture's only while the server starts
        yield server


@pytest.fixture
def name_server(monkeypatch):
    """A function that puts a server's address, key and model into the environment."""

    def put(url: str, key: str = KEY, model: str = "") -> None:
        monkeypatch.setenv("OPENAI_BASE_URL", url)
        monkeypatch.setenv("OPENAI_API_KEY", key)
        monkeypatch.setenv("OPENAI_MODEL", model)

    return put


@pytest.mark.long
def test_named_server_is_asked_and_none_is_started(shared, name_server):
    name_server(shared.openai_url)
    before = psutil.Process().children(recursive=True)
    server = tutorial.reach_server("no-such-folder", "no-such-source", loras=["shift"])
    assert psutil.Process().children(recursive=True) == before
    assert server.raw_url is None and server.streaming_url is None
    client = clients.make_openai_client(server.openai_url, server.api_key)
    assert clients.ask_openai(client, HI, server.choose_model("shift"), max_tokens=3, temperature=0)


@pytest.mark.long
def test_named_server_is_asked_for_a_model_that_it_has(shared, name_server):
    name_server(shared.openai_url)
    server = tutorial.reach_server("tiny", "none")
    assert set(server.models) == set(shared.models)
    assert server.choose_model("shift") == "shift"
    assert server.choose_model("mine") == server.model == server.models[0]


@pytest.mark.long
def test_server_is_started_in_front_of_a_named_upstream(shared, monkeypatch):
    monkeypatch.delenv("OPENAI_BASE_URL", raising=False)
    monkeypatch.setenv("KIT_UPSTREAM", shared.openai_url)
    monkeypatch.setenv("OPEN_LLM_KIT_UPSTREAM_KEY", KEY)
    with tutorial.reach_server("no-such-folder", "no-such-source", loras=["shift", "none"]) as server:
        assert (server.model, server.loras) == ("tiny", ("shift",))
        assert "--upstream" in server.command and KEY not in server.command
        history = clients.chat_raw("Hi", url=server.raw_url, max_new_tokens=3)
        assert len(history["internal"]) == 1


@pytest.mark.long
def test_named_server_outlives_the_lesson(shared, name_server):
    name_server(shared.openai_url)
    server = tutorial.reach_server("tiny", "none")
    server.stop()
    assert not server.runs_here() and shared.runs_here()


@pytest.mark.long
def test_named_server_on_this_computer_is_asked_without_a_proxy(shared, name_server, proxy):
    name_server(shared.openai_url)
    assert set(tutorial.reach_server("tiny", "none").models) == set(shared.models)
    assert proxy == []


def test_set_up_spares_the_lines_of_a_lesson_the_proxy(proxy, monkeypatch):
    monkeypatch.setenv("PYTHONPATH", str(PROJECT))  # set_up may add to it
    setup.set_up()
    assert requests.utils.should_bypass_proxies("http://127.0.0.1:5000/api/v1/chat", None)
    assert not requests.utils.should_bypass_proxies("http://example.test", None)


@pytest.mark.long
def test_openai_model_picks_the_model(shared, name_server):
    name_server(shared.openai_url, model="shift")
    assert tutorial.reach_server("tiny", "none").model == "shift"


@pytest.mark.long
def test_error_for_a_wrong_key_names_the_variable_that_holds_it(shared, name_server):
    name_server(shared.openai_url, key="wrong")
    with pytest.raises(ServerError) as caught:
        tutorial.reach_server("tiny", "none")
    assert "401" in caught.value.problem and "OPENAI_API_KEY" in caught.value.remedy


@pytest.mark.parametrize("url", [NOBODY, "127.0.0.1:9/v1", "nonsense"])
def test_error_for_a_named_server_that_does_not_answer_names_its_address(name_server, url):
    name_server(url)
    with pytest.raises(ServerError) as caught:
        tutorial.reach_server("tiny", "none")
    assert url in caught.value.problem and "OPENAI_BASE_URL" in caught.value.remedy


def test_report_expects_no_raw_answer_of_a_named_server(name_server, monkeypatch):
    answers = {"raw": None, "openai": "Blue."}
    report = {"notebooks": [{"name": "03_api"}], "answers": answers, "scoreboard": None}
    monkeypatch.delenv("OPENAI_BASE_URL", raising=False)
    assert "answer.raw" in find_unpublished(report)
    name_server(NOBODY)
    assert find_unpublished(report) == ""


@pytest.mark.real
def test_server_is_started_and_stopped_if_none_is_named(real_model_name, name_server):
    name_server("")
    server = tutorial.reach_server(real_model_name, "smollm2-135m-instruct")
    try:
        assert server.runs_here() and server.model == server.choose_model("mine") == real_model_name
        client = clients.make_openai_client(server.openai_url)
        assert clients.ask_openai(client, HI, server.model, max_tokens=3)
    finally:
        server.stop()
    assert not server.runs_here()


@pytest.fixture(scope="module")
def real_shared(real_model_name):
    """A server of the real model with a key."""
    with start_with_key(real_model_name, "--strict-model") as server:
        yield server


@pytest.mark.real
@pytest.mark.long
def test_lesson_3_runs_against_a_named_server_and_starts_none(real_shared, name_server):
    name_server(real_shared.openai_url)
    execution = execute_notebook(PATHS[NAMES.index("03_api")])
    assert execution.problem == ""
    cells = list_code_cells(execution.notebook)
    printed = [read_printed(cell) for cell in cells]
    command = tutorial.reach_server("tiny", "none").command
    assert sum(command in text for text in printed) == 1
    assert not any("helpers.server" in text for text in printed)
    assert any(re.search(r"raw: +None", text) for text in printed)
    assert list(collect_results([execution.notebook])) == ["answer.openai"]
    failed = [cell for cell, text in zip(cells, printed, strict=True) if "❌" in text]
    assert failed == list_tagged_cells(execution.notebook, "exercise")


@pytest.mark.real
@pytest.mark.long
def test_server_cells_of_lesson_5_ask_a_named_server(real_shared, home, name_server, capsys):
    name_server(real_shared.openai_url)
    cells = read_lesson("05_lora_loading").cells
    first = next(i for i, cell in enumerate(cells) if cell.source.startswith("## Over an API"))
    last = next(i for i, cell in enumerate(cells) if "server.stop()" in cell.source)
    source = "\n".join(cell.source for cell in cells[first : last + 1] if cell.cell_type == "code")
    task = tutorial.pick_task()
    whole = task.load()
    rows, template = whole.test[:8], whole.template
    names = {  # what the cells above these have defined
        "lane": common.LANES["tiny"],
        "task": task,
        "data": SimpleNamespace(test=rows),
        "template": template,
        "folder": SimpleNamespace(name="a-lora-that-the-server-lacks"),
        "messages": template.build_messages(rows[0]),
        "board": evaluation.Scoreboard(rows, template),
        "evaluation": evaluation,
        "tutorial": tutorial,
        "checks": checks,
        "plots": plots,
    }
    exec(source, names)
    printed = capsys.readouterr().out
    assert names["server"].command in printed and real_shared.model in printed
    assert "over the API" in names["board"].lines
    assert "✅" in printed and "❌" not in printed
