"""The four panels without a browser, on a tiny model: the tests set and read ipywidgets' traits."""

import html
import json
import os
import re
import subprocess
import sys
import time
from typing import NamedTuple

import ipywidgets
import nbformat
import pytest
import requests
from IPython.core.formatters import DisplayFormatter
from nbconvert import HTMLExporter
from support.fake_hub import start_fake_hub
from support.lessons import list_code_cells, read_lesson
from support.tiny import make_tiny_adapter, make_tiny_model

from helpers import adapters, server, training
from helpers.common.lanes import Lane
from helpers.common.paths import PROJECT
from helpers.common.training_settings import TrainingSettings
from helpers.tasks.data import TaskData
from helpers.training.checkpoints import open_checkpoints
from helpers.tutorial.notebook_files import WIDGET, clean_notebook
from helpers.tutorial.panels.base import Panel
from helpers.tutorial.panels.lora import LoraPanel
from helpers.tutorial.panels.model import ModelPanel
from helpers.tutorial.panels.session import SessionPanel
from helpers.tutorial.panels.training import TrainingPanel
from helpers.tutorial.task import Task

LANE = Lane(
    name="tiny", machines="", model="", revision="main", folder="tiny",
    loader="transformers", gpu_gb=0,
)  # fmt: skip
FIELDS = (
    ipywidgets.Text,
    ipywidgets.Textarea,
    ipywidgets.Dropdown,
    ipywidgets.Checkbox,
    ipywidgets.BoundedIntText,
    ipywidgets.BoundedFloatText,
)


class Message(NamedTuple):
    """A panel's last message."""

    role: str  # status or alert
    text: str


def read_message(panel) -> Message:
    """The last message, as a screen reader reads it out."""
    role, text = re.findall(r'<p role="(\w+)"><b>(.*?)</b></p>', panel.lines.value)[-1]
    return Message(role, html.unescape(text))


def list_parts(widget):
    """A widget and all below it, in the order of the page."""
    yield widget
    for child in getattr(widget, "children", ()):
        yield from list_parts(child)


def list_buttons(panel):
    """The buttons of a panel."""
    return [part for part in list_parts(panel) if isinstance(part, ipywidgets.Button)]


def press(panel, name):
    """Clicks the button of this name."""
    [button] = [button for button in list_buttons(panel) if button.description == name]
    button.click()


def finish(panel, name=None) -> Message:
    """Clicks a button, if one is named, waits for the end of the work, and returns the last message."""
    if name:
        press(panel, name)
    panel.work.join(120)
    assert not panel.doing
    return read_message(panel)


def make_panels():
    """One panel of each kind."""
    return [ModelPanel(), SessionPanel(), TrainingPanel(Task("college_preferences"), LANE), LoraPanel()]


def display(widget) -> dict:
    """The data that IPython sends to a front end for a widget."""
    data, _ = DisplayFormatter().format(widget)
    return data


def clean_output(data) -> list:
    """What is left of a cell's output with this data in a cleaned notebook."""
    output = nbformat.v4.new_output("execute_result", data, execution_count=1)
    notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell("panel", outputs=[output])])
    clean_notebook(notebook, notebook.metadata)
    assert "widgets" not in notebook.metadata
    return notebook.cells[0].outputs


@pytest.fixture
def model(home):
    """models/tiny."""
    return make_tiny_model(home / "models" / "tiny")


def test_every_field_has_a_label_and_every_button_a_name_of_its_own(home):
    for panel in make_panels():
        labels = [part.description for part in list_parts(panel) if isinstance(part, FIELDS)]
        names = [button.description for button in list_buttons(panel)]
        assert all(labels) and len(set(labels)) == len(labels) >= 3
        assert all(names) and len(set(names)) == len(names) and "Stop" in names


def test_panels_use_only_widgets_that_ipywidgets_brings(home):
    for panel in make_panels():
        modules = {part.get_state()["_model_module"] for part in list_parts(panel)}
        assert modules <= {"@jupyter-widgets/controls", "@jupyter-widgets/base"}


def test_every_list_shows_what_is_chosen(model, home):
    make_tiny_adapter(home / "loras" / "shift", model)
    for panel in make_panels():
        lists = [part for part in list_parts(panel) if isinstance(part, ipywidgets.Dropdown)]
        assert all(one.index is not None for one in lists if one.description not in ("Model:", "Base model:"))


def test_stop_says_so_if_nothing_runs(home):
    for panel in make_panels():
        before = len(panel.said)
        press(panel, "Stop")
        assert read_message(panel).role == "status" and len(panel.said) == min(before + 1, 3)
        assert panel.work is None and not panel.asked_to_stop.is_set()


def test_page_without_widgets_shows_a_sentence_and_a_picture(home):
    for panel in make_panels():
        data = display(panel)
        assert WIDGET in data and panel.title in data["text/plain"]
        [kept] = clean_output(data)
        assert set(kept.data) == {"text/plain", "text/html"}
        assert (PROJECT / "notebooks" / "images" / panel.picture).stat().st_size < 150_000
        page = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell("panel", outputs=[kept])])
        body, _ = HTMLExporter().from_notebook_node(page)
        assert f'<img alt="{panel.alt}" src="data:image/png;base64,' in body


def test_progress_bar_of_a_library_leaves_nothing_in_the_file():
    assert clean_output(display(ipywidgets.IntProgress())) == []


def test_panel_can_be_used_again_after_an_unexpected_error():
    panel = Panel()
    panel.start("Dividing", lambda: str(1 / 0))
    message = finish(panel)
    assert message.role == "alert" and "ZeroDivisionError: division by zero" in message.text
    panel.start("Adding", lambda: str(1 + 1))
    message = finish(panel)
    assert message.role == "status" and message.text.endswith("2")


def test_messages_show_markup_as_text():
    panel = Panel()
    panel.say("<i>x</i>")
    panel.show_progress("<i>y</i>", 1.0)
    assert "<i>" not in panel.lines.value + panel.progress.value
    assert "100% <progress" in panel.progress.value


def test_model_is_loaded_asked_and_freed(model):
    panel = ModelPanel()
    assert (panel.folder.value, panel.loader.value) == ("tiny", "transformers")
    message = finish(panel, "Load")
    assert message.role == "status" and "tiny" in message.text and "transformers" in message.text
    assert panel.loaded.name == "tiny"
    message = finish(panel, "Ask")
    assert message.role == "status" and panel.answers.value.startswith("<p><b>tiny:</b>")
    answers = panel.answers.value
    panel.question.value = " "
    assert finish(panel, "Ask").role == "alert" and panel.answers.value == answers
    press(panel, "Forget answers")
    assert panel.answers.value == ""
    message = finish(panel, "Unload")
    assert message.role == "status" and "tiny" in message.text and panel.loaded is None
    assert finish(panel, "Unload").role == "alert"
    assert finish(panel, "Ask").role == "alert"


def test_second_work_is_refused_while_the_first_runs(model):
    panel = ModelPanel()
    press(panel, "Load")
    first = panel.work
    press(panel, "Load")
    assert panel.work is first
    assert finish(panel).role == "status" and panel.loaded.name == "tiny"


def test_stop_frees_a_model_that_was_just_loaded(model):
    panel = ModelPanel()
    press(panel, "Load")
    press(panel, "Stop")
    message = finish(panel)
    assert message.role == "status" and "Loading" in message.text and panel.loaded is None


def test_stop_cuts_an_answer_off_after_a_token(model):
    panel = ModelPanel()
    assert finish(panel, "Load").role == "status"
    panel.asked_to_stop.set()
    answer = panel.reply([{"role": "user", "content": "Hi"}])
    assert len(answer.encode()) <= 4  # one token of this model is a byte; half a character is shown as three


def test_loader_can_be_switched_and_a_broken_folder_is_named(model, home):
    panel = ModelPanel()
    panel.loader.value = "llama.cpp"
    message = finish(panel, "Load")
    assert message.role == "alert" and "llama.cpp" in message.text
    (home / "models" / "broken").mkdir()
    press(panel, "Reload list")
    panel.folder.value = "broken"
    message = read_message(panel)
    assert message.role == "alert" and "broken" in message.text
    message = finish(panel, "Load")
    assert message.role == "alert" and "broken" in message.text and panel.loaded is None
    panel.folder.value = "tiny"
    assert finish(panel, "Load").role == "status" and panel.loaded.name == "tiny"


# Prints, for each button that is named, the last message and what the fields then hold. "Stop" after a
# button's name presses Stop a second and a half later.
PRESS_BUTTONS = """
import json, sys, time
from helpers.tutorial.panels import ModelPanel

source, *buttons = sys.argv[1:]
panel = ModelPanel(source)
works = {"Download": panel.download, "List branches": panel.list_branches}
for name in buttons:
    panel.start(name, works[name.removesuffix(", Stop")])
    if name.endswith(", Stop"):
        time.sleep(1.5)
        panel.stop()
    panel.work.join()
    print(json.dumps([panel.lines.value, panel.folder.value, list(panel.branch.options)]))
"""


@pytest.fixture
def press_in_process(home, tmp_path_factory):
    """A function that presses buttons of a Model panel in a process with a hub; returns what it printed."""
    made = make_tiny_model(tmp_path_factory.mktemp("made") / "tiny")
    files = {path.name: path.read_bytes() for path in made.iterdir()}
    hub, running = start_fake_hub()
    hub.repos["acme/tiny"] = {"main": files, "small": files}
    hub.faults.append(("model.safetensors", "slow", 4))  # seconds, the first time
    environment = {**os.environ, "HF_ENDPOINT": hub.url, "HF_HUB_OFFLINE": "0", "HF_HOME": str(home / "hf")}

    def press_buttons(source, *buttons):
        command = [sys.executable, "-c", PRESS_BUTTONS, source, *buttons]
        done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=150)
        assert done.returncode == 0, done.stderr
        return [json.loads(line) for line in done.stdout.splitlines()]

    yield press_buttons
    running.shutdown()
    running.server_close()


@pytest.mark.long
def test_download_can_be_stopped_and_continued(press_in_process):
    stopped, done, branches = press_in_process("acme/tiny", "Download, Stop", "Download", "List branches")
    assert 'role="status"' in stopped[0] and stopped[1] is None
    assert 'role="status"' in done[0] and done[1] == "acme_tiny"
    assert 'role="status"' in branches[0] and branches[2] == ["main", "small"]


@pytest.mark.long
def test_unknown_repository_is_named(press_in_process):
    for lines, folder, _ in press_in_process("nobody/nothing", "Download", "List branches"):
        assert 'role="alert"' in lines and "nobody/nothing" in lines and folder is None


@pytest.mark.long
def test_server_is_started_asked_and_stopped(model):
    panel = SessionPanel("tiny")
    for field in panel.ports.values():
        field.value = server.find_port(field.value)
    taken = panel.ports["openai"].value
    message = finish(panel, "Start")
    assert message.role == "status" and "python -m helpers.server --model tiny" in message.text
    try:
        models = requests.get(f"{panel.addresses['openai'].value}/models", timeout=10).json()
        assert models["data"][0]["id"] == "tiny"
        reply = requests.get(f"{panel.addresses['raw'].value}/api/v1/model", timeout=10).json()
        assert reply == {"result": "tiny"}
        running = panel.server
        assert finish(panel, "Start").role == "alert" and panel.server is running
        other = SessionPanel("tiny")
        other.raw.value, other.ports["openai"].value = False, taken
        message = finish(other, "Start")
        assert message.role == "alert" and str(taken) in message.text
    finally:
        message = finish(panel, "Stop")
    assert message.role == "status" and panel.server is None and not running.runs_here()
    assert panel.addresses["raw"].value == ""


def test_server_without_an_api_is_refused(model):
    panel = SessionPanel("tiny")
    panel.raw.value = panel.openai.value = False
    assert finish(panel, "Start").role == "alert" and panel.server is None


@pytest.mark.long
def test_server_that_is_starting_can_be_stopped(model):
    panel = SessionPanel("tiny")
    panel.raw.value, panel.ports["openai"].value = False, server.find_port(5001)
    press(panel, "Start")
    while panel.server is None:
        assert panel.doing, panel.said
        time.sleep(0.01)
    press(panel, "Stop")
    assert finish(panel).role == "status" and panel.server is None


@pytest.mark.long
def test_server_that_ended_by_itself_is_an_error(model):
    panel = SessionPanel("tiny")
    panel.raw.value, panel.ports["openai"].value = False, server.find_port(5001)
    assert finish(panel, "Start").role == "status"
    panel.server.process.kill()
    panel.server.process.wait()
    assert finish(panel, "Stop").role == "alert" and panel.server is None


@pytest.fixture
def trainer(model, home):
    """A Training panel with twelve of twenty rows, for one pass of six steps."""
    lines = ["text,alternative_a,alternative_b,label"]
    lines += [f"Comment {i},College {i},University {i},{i % 2}" for i in range(20)]
    (home / "rows.csv").write_text("\n".join(lines))
    panel = TrainingPanel(Task("college_preferences"), LANE)
    panel.data.value, panel.name.value = str(home / "rows.csv"), "mine"
    for key, value in {"max_rows": 12, "batch_size": 2, "lora_r": 4}.items():
        panel.fields[key].value = value
    return panel


def test_lora_is_trained_with_a_curve(trainer, home):
    message = finish(trainer, "Start")
    assert message.role == "status" and "12 rows" in message.text and "loras/mine" in message.text
    run = adapters.find_adapter("mine").run
    assert run["steps"] == run["planned_steps"] == 6 and run["settings"]["lora_r"] == 4
    assert re.match(r'<img alt="[^"]*\b6 steps', trainer.curve.value)
    assert not training.list_unfinished()


def test_stopped_training_is_saved_as_far_as_it_came(trainer, home):
    trainer.fields["epochs"].value = 500
    press(trainer, "Start")
    while not trainer.curve.value:
        assert trainer.doing, trainer.said
        time.sleep(0.01)
    press(trainer, "Stop")
    message = finish(trainer)
    run = json.loads((home / "loras" / "mine" / "run.json").read_text())
    assert 0 < run["steps"] < run["planned_steps"] == 3000 and len(run["loss"]) == run["steps"]
    assert message.role == "status" and f"{run['steps']} of 3000" in message.text
    assert f"{run['steps']} of 3000" in (home / "loras" / "mine" / "README.md").read_text()


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("data", "broken.csv"),
        ("data", "data/nothing.csv"),
        ("template", "nothing.yaml"),
        ("name", "a.b"),
        ("name", "''"),
    ],
)
def test_wrong_input_of_a_training_is_named(trainer, home, field, value):
    (home / "broken.csv").write_text('text,label\n"never closed,0\n')
    getattr(trainer, field).value = value.strip("'")
    message = finish(trainer, "Start")
    assert message.role == "alert" and (value.strip("'") or "is empty") in message.text
    assert not (home / "loras").exists()


@pytest.fixture
def own(trainer, home):
    """The same panel with a file of questions and answers and no template."""
    lines = ["question,answer"] + [f"What is number {i}?,It is {i * i} all in all" for i in range(20)]
    (home / "mine.csv").write_text("\n".join(lines))
    trainer.data.value, trainer.template.value = str(home / "mine.csv"), ""
    return trainer


def test_own_file_gets_a_template_a_check_a_preview_and_a_lora(own, home):
    assert finish(own, "Suggest").role == "status"
    assert own.template.value == str(home / "mine.yaml") and '"{answer}"' in own.text.value
    own.text.value = own.text.value.replace("  {question}", "  Q: {question}")
    message = finish(own, "Preview")
    assert message.role == "status" and "Q: What is number 0?" in own.findings.value
    assert "<mark" in own.findings.value and "Q: " in (home / "mine.yaml").read_text()
    assert finish(own, "Check").role == "status"
    assert "20 rows (16 to train on, 4 held out)" in own.findings.value
    own.validation.value = 0.25
    assert finish(own, "Start").role == "status"
    run = adapters.find_adapter("mine").run
    assert run["kind"] == "answers" and run["validation"]["rows"] == 5


def test_template_that_is_there_already_is_not_overwritten(own, home):
    (home / "mine.yaml").write_text("precious")
    message = finish(own, "Suggest")
    assert message.role == "alert" and "mine.yaml" in message.text
    assert (home / "mine.yaml").read_text() == "precious"


def test_chats_need_no_template_in_the_panel(own, home):
    turns = [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Hello"}]
    chats = [{"messages": [{**turns[0], "content": f"Hi {i}"}, turns[1]]} for i in range(10)]
    (home / "chats.jsonl").write_text("\n".join(map(json.dumps, chats)))
    own.data.value = str(home / "chats.jsonl")
    assert "no template" in finish(own, "Suggest").text
    assert finish(own, "Start").role == "status"
    assert adapters.find_adapter("mine").run["kind"] == "chats"


def test_shapes_are_copied_from_an_older_lora(trainer, model, home):
    make_tiny_adapter(home / "loras" / "old", model)
    (home / "loras" / "empty").mkdir()
    panel = TrainingPanel(Task("college_preferences"), LANE)
    rows = panel.fields["max_rows"].value
    assert [value for _, value in panel.copy.options] == ["", "old"]
    panel.copy.value = "old"
    chosen = panel.read_settings()
    assert (chosen.lora_r, chosen.lora_alpha, chosen.max_rows) == (4, 16, rows) and "q_proj" in chosen.targets
    message = read_message(panel)
    assert message.role == "status" and "old" in message.text


def test_next_panel_names_an_interrupted_training(trainer, rows, template, tiny):
    open_checkpoints("mine", TaskData(template, rows), TrainingSettings(), resume=False, loaded=tiny)
    panel = TrainingPanel(Task("college_preferences"), LANE)
    assert "mine" in read_message(panel).text


@pytest.fixture
def loras(model, home):
    """A LoRA panel with loras/shift and loras/twist for models/tiny."""
    for seed, name in enumerate(("shift", "twist"), 1):
        make_tiny_adapter(home / "loras" / name, model, seed=seed)
    messages = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Which college?"}]
    return LoraPanel("tiny", messages)


def list_answers(panel) -> list[tuple[str, str]]:
    """(who answered, the answer) of the question box, in order."""
    return re.findall(r"<p><b>(.*?):</b> (.*?)</p>", panel.answers.value, flags=re.DOTALL)


def test_lora_is_applied_weakened_and_removed(loras):
    finish(loras, "Ask")
    loras.lora.value = "shift"
    assert read_message(loras).text.startswith("shift: rank 4")
    assert finish(loras, "Apply").role == "status"
    finish(loras, "Ask")
    loras.strength.value = 0
    finish(loras, "Ask")
    loras.lora.value, loras.strength.value = "", 1
    assert finish(loras, "Apply").role == "status"
    finish(loras, "Ask")
    message = finish(loras, "Remove")
    assert message.role == "status" and "shift" in message.text
    finish(loras, "Ask")
    answers = list_answers(loras)
    assert ["shift" in name for name, _ in answers] == [False, True, True, False, False]
    alone, applied, weak, switched_off, removed = (text for _, text in answers)
    assert applied != alone and weak == switched_off == removed == alone
    assert finish(loras, "Remove").role == "alert"


def test_lora_of_another_base_is_refused_and_the_earlier_one_stays(loras, home):
    path = home / "loras" / "twist" / "adapter_config.json"
    config = json.loads(path.read_text())
    path.write_text(json.dumps({**config, "base_model_name_or_path": "models/other"}))
    loras.lora.value = "shift"
    finish(loras, "Apply")
    loras.lora.value = "twist"
    message = read_message(loras)
    assert message.role == "alert" and "twist" in message.text and "other" in message.text
    message = finish(loras, "Apply")
    assert message.role == "alert" and "other" in message.text and "tiny" in message.text
    finish(loras, "Ask")
    [(answerer, _)] = list_answers(loras)
    assert "shift" in answerer


def test_chosen_lora_survives_a_new_list(loras, home):
    loras.lora.value = "twist"
    (home / "loras" / "broken").mkdir()
    press(loras, "Reload list")
    assert loras.lora.value == "twist"
    names = [value for _, value in loras.lora.options]
    assert names == ["", "broken", "shift", "twist", *adapters.list_shipped()]
    loras.lora.value = "broken"
    message = read_message(loras)
    assert message.role == "alert" and "broken" in message.text


@pytest.mark.parametrize(
    ("lesson", "panel"),
    [
        ("02_loading", "ModelPanel"),
        ("03_api", "SessionPanel"),
        ("04b_training_appendix", "TrainingPanel"),
        ("05_lora_loading", "LoraPanel"),
    ],
)
def test_lesson_shows_its_panel_and_starts_nothing(lesson, panel):
    [cell] = [cell for cell in list_code_cells(read_lesson(lesson)) if f"{panel}(" in cell.source]
    assert ".start(" not in cell.source
    assert "text/html" in cell.outputs[0].data
