"""A lesson's server: the one that OPENAI_BASE_URL names, here a real one behind a key, or one that the lesson starts."""

import psutil
import pytest
from support.lessons import NAMES, PATHS, code_cells, read
from support.tiny import make_tiny_adapter, make_tiny_model

from helpers import KitError, clients, common, tasks, tutorial
from helpers.evaluation import __main__ as evaluation
from helpers.tutorial import checks
from helpers.tutorial.checks import MIME
from helpers.tutorial.execution import execute_notebook
from helpers.tutorial.report import find_unpublished

HI = [{"role": "user", "content": "Hi"}]


def start_behind_a_key(model: str, *extra: str, loras=()):
    """The kit's server, as somebody else would run it for a room."""
    return clients.start_server(model, loras, ["--api-key", "sesame", *extra])


@pytest.fixture(scope="module")
def shared(tmp_path_factory):
    """A server of a tiny model with one LoRA."""
    home = tmp_path_factory.mktemp("home")
    make_tiny_adapter(home / "loras" / "shift", make_tiny_model(home / "models" / "tiny"))
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("OPEN_LLM_KIT_HOME", str(home))
        with start_behind_a_key("tiny", "--dtype", "float32", loras=["shift"]) as server:
            yield server


@pytest.fixture
def name_server(monkeypatch):
    """Puts a server's address, key and model into the environment."""

    def put(url: str, key: str = "sesame", model: str = "") -> None:
        for name, value in {"OPENAI_BASE_URL": url, "OPENAI_API_KEY": key, "OPENAI_MODEL": model}.items():
            monkeypatch.setenv(name, value)

    return put


def test_named_server_is_asked_and_none_is_started(shared, name_server):
    name_server(shared.openai_url)
    before = psutil.Process().children(recursive=True)
    server = tutorial.reach_server("no-such-folder", "no-such-source", loras=["shift"])
    assert psutil.Process().children(recursive=True) == before and not server.runs_here()
    assert server.raw_url is None and server.streaming_url is None
    assert (server.model, server.choose_model("shift"), server.choose_model("mine")) == (
        server.models[0],
        "shift",
        server.models[0],
    )
    assert set(server.models) == set(shared.models)
    client = clients.make_openai_client(server.openai_url, server.api_key)
    assert clients.ask_openai(client, HI, server.choose_model("shift"), max_tokens=3, temperature=0)
    server.stop()
    assert shared.runs_here()


def test_openai_model_picks_the_model(shared, name_server):
    name_server(shared.openai_url, model="shift")
    assert tutorial.reach_server("tiny", "none").model == "shift"


def test_wrong_key_is_told_with_the_variable_that_holds_it(shared, name_server):
    name_server(shared.openai_url, key="wrong")
    with pytest.raises(KitError, match=r"OPENAI_BASE_URL names http\S+: .*401.*the key is OPENAI_API_KEY"):
        tutorial.reach_server("tiny", "none")


@pytest.mark.parametrize("url", ["http://127.0.0.1:9/v1", "127.0.0.1:9/v1", "nonsense"])
def test_named_server_that_does_not_answer_is_told(name_server, url):
    name_server(url)
    with pytest.raises(KitError, match="Without OPENAI_BASE_URL a lesson starts its own server"):
        tutorial.reach_server("tiny", "none")


def test_report_asks_for_no_raw_answer_of_a_named_server(name_server, monkeypatch):
    report = {"notebooks": [{"name": "03_api"}], "answers": {"raw": None, "openai": "Blue."}, "accuracy": {}}
    monkeypatch.delenv("OPENAI_BASE_URL", raising=False)
    assert "answer.raw" in find_unpublished(report)
    name_server("http://127.0.0.1:9/v1")
    assert find_unpublished(report) == ""


@pytest.mark.real
def test_without_a_named_server_one_is_started_and_stopped(real_model_name, name_server):
    name_server("")
    server = tutorial.reach_server(real_model_name, "smollm2-135m-instruct")
    try:
        assert server.runs_here() and server.model == server.choose_model("mine") == real_model_name
        assert clients.ask_openai(
            clients.make_openai_client(server.openai_url), HI, server.model, max_tokens=3
        )
    finally:
        server.stop()
    assert not server.runs_here()


@pytest.fixture(scope="module")
def real_shared(real_model_name):
    """A server of the real model behind a key."""
    with start_behind_a_key(real_model_name, "--strict-model") as server:
        yield server


@pytest.mark.real
@pytest.mark.long
def test_lesson_3_runs_against_a_named_server_and_starts_none(real_shared, name_server):
    name_server(real_shared.openai_url)
    execution = execute_notebook(PATHS[NAMES.index("03_api")])
    assert execution.problem == ""
    printed = [
        "".join(output.get("text", "") for output in cell.outputs) for cell in code_cells(execution.notebook)
    ]
    assert sum("# Nothing is started" in text for text in printed) == 1 and "raw:    None" in "".join(printed)
    assert "helpers.server" not in "".join(printed)
    published = [
        output.data[MIME]["name"]
        for cell in code_cells(execution.notebook)
        for output in cell.outputs
        if MIME in output.get("data", {})
    ]
    assert published == ["answer.openai"]
    failed = [
        cell for cell, text in zip(code_cells(execution.notebook), printed, strict=True) if "❌" in text
    ]
    assert all("exercise" in cell.metadata.get("tags", []) for cell in failed)


@pytest.mark.real
@pytest.mark.long
def test_server_cells_of_lesson_5_ask_a_named_server(real_shared, name_server, capsys):
    name_server(real_shared.openai_url)
    cells = read(PATHS[NAMES.index("05_lora_loading")]).cells
    begin = next(i for i, cell in enumerate(cells) if cell.source.startswith("## Over an API"))
    end = next(i for i, cell in enumerate(cells) if "server.stop()" in cell.source)
    task = tutorial.pick_task()
    template = tasks.load_template(task.template)
    test = tasks.split_rows(tasks.load_rows(task.data, template), test_size=0.2, seed=0)[1]
    names = {
        "lane": common.LANES["tiny"],
        "task": task,
        "template": template,
        "test": test[:2],
        "shown": test[:1],
    }
    exec(
        "\n".join(cell.source for cell in cells[begin : end + 1] if cell.cell_type == "code"),
        names | {"evaluation": evaluation, "checks": checks},
    )
    printed = capsys.readouterr().out
    assert (
        "# Nothing is started" in printed
        and f"{real_shared.model}: " in printed
        and "✅ no server of this notebook runs any more" in printed
    )
