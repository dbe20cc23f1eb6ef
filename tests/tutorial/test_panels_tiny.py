"""The four panels without a browser, on a tiny model: ipywidgets' traits are what a front end sets and reads."""

import json
import os
import subprocess
import sys
import time

import ipywidgets
import nbformat
import pytest
import requests
from nbconvert import HTMLExporter
from support.fake_hub import start_fake_hub
from support.tiny import make_tiny_adapter, make_tiny_model

from helpers import PROJECT, adapters, common, server, training
from helpers.training.checkpoints import open_checkpoints
from helpers.training.settings import TrainingSettings
from helpers.tutorial.notebook_files import WIDGET, clean_notebook
from helpers.tutorial.panels.base import Panel
from helpers.tutorial.panels.lora import LoraPanel
from helpers.tutorial.panels.model import ModelPanel
from helpers.tutorial.panels.session import SessionPanel
from helpers.tutorial.panels.training import TrainingPanel
from helpers.tutorial.task import Task

LANE = common.LANES["tiny"].__class__("tiny", "", "", "main", "tiny", "transformers", 8, 0)
FIELDS = (
    ipywidgets.Text,
    ipywidgets.Textarea,
    ipywidgets.Dropdown,
    ipywidgets.Checkbox,
    ipywidgets.BoundedIntText,
    ipywidgets.BoundedFloatText,
)


def list_parts(widget):
    """A widget and all below it, in the order of the page."""
    yield widget
    for child in getattr(widget, "children", ()):
        yield from list_parts(child)


def press(panel, name):
    """Clicks the button of this name."""
    next(
        part for part in list_parts(panel) if isinstance(part, ipywidgets.Button) and part.description == name
    ).click()


def finish(panel, name=None):
    """Clicks, waits for the end of the work, and returns the last sentence."""
    if name:
        press(panel, name)
    panel.work.join(120)
    assert not panel.doing
    return panel.said[-1]


def make_panels():
    return [ModelPanel(), SessionPanel(), TrainingPanel(Task("college_preferences"), LANE), LoraPanel()]


@pytest.fixture
def model(home):
    """models/tiny."""
    return make_tiny_model(home / "models" / "tiny")


def test_every_field_has_a_label_and_every_button_a_name_of_its_own(home):
    for panel in make_panels():
        parts = list(list_parts(panel))
        labels = [part.description for part in parts if isinstance(part, FIELDS)]
        names = [part.description for part in parts if isinstance(part, ipywidgets.Button)]
        assert all(labels) and len(set(labels)) == len(labels) >= 3
        assert all(names) and len(set(names)) == len(names) and "Stop" in names


def test_panels_use_only_widgets_that_ipywidgets_brings(home):
    for panel in make_panels():
        assert {part._model_module for part in list_parts(panel)} <= {
            "@jupyter-widgets/controls",
            "@jupyter-widgets/base",
        }


def test_every_list_shows_what_is_chosen(model, home):
    make_tiny_adapter(home / "loras" / "shift", model)
    for panel in make_panels():
        lists = [part for part in list_parts(panel) if isinstance(part, ipywidgets.Dropdown)]
        assert all(one.index is not None for one in lists if one.description not in ("Model:", "Base model:"))


def test_stop_with_nothing_running_says_so(home):
    for panel in make_panels():
        press(panel, "Stop")
        assert panel.said[-1] == "Nothing is running, so there is nothing to stop."


def test_page_without_widgets_shows_a_sentence_and_a_picture(home):
    for panel in make_panels():
        data = panel._repr_mimebundle_()
        assert WIDGET in data and data["text/plain"].startswith(
            f"{panel.title}: this panel works while its notebook runs"
        )
        output = nbformat.v4.new_output("execute_result", data, execution_count=1)
        notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell("panel", outputs=[output])])
        clean_notebook(notebook, notebook.metadata)
        kept = notebook.cells[0].outputs[0].data
        assert set(kept) == {"text/plain", "text/html"} and "widgets" not in notebook.metadata
        assert (PROJECT / "notebooks" / "images" / panel.picture).stat().st_size < 150_000
        assert (
            f'<img alt="{panel.alt}" src="data:image/png;base64,'
            in HTMLExporter().from_notebook_node(notebook)[0]
        )


def test_bar_of_a_library_still_leaves_nothing_in_the_file():
    bar = nbformat.v4.new_output("display_data", ipywidgets.IntProgress()._repr_mimebundle_())
    notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell("bar", outputs=[bar])])
    clean_notebook(notebook, notebook.metadata)
    assert notebook.cells[0].outputs == []


def test_unexpected_error_is_told_and_the_panel_goes_on():
    panel = Panel()
    panel.start("Dividing", lambda: str(1 / 0))
    assert finish(panel) == "Error: ZeroDivisionError: division by zero. The panel can be used again."
    assert 'role="alert"' in panel.lines.value
    panel.start("Adding", lambda: str(1 + 1))
    assert finish(panel) == "Done: 2" and 'role="status"' in panel.lines.value


def test_what_is_told_cannot_smuggle_markup_in():
    panel = Panel()
    panel.say("<i>x</i>")
    panel.show_progress("<i>y</i>", 1.0)
    assert "<i>" not in panel.lines.value + panel.progress.value and "100% <progress" in panel.progress.value


def test_model_is_loaded_asked_and_let_go(model):
    panel = ModelPanel()
    assert panel.folder.value == "tiny" and panel.loader.value == "transformers"
    press(panel, "Load")
    press(panel, "Load")
    assert "Loading is under way already: wait for its end, or press Stop." in panel.said
    assert finish(panel).startswith("Done: tiny is loaded by transformers: ") and panel.loaded.name == "tiny"
    assert finish(panel, "Ask") == "Done: tiny has answered." and panel.answers.value.startswith(
        "<p><b>tiny:</b>"
    )
    panel.question.value = " "
    assert finish(panel, "Ask") == "Error: The question is empty. Type one."
    press(panel, "Forget answers")
    assert panel.answers.value == ""
    assert finish(panel, "Unload").startswith("Done: tiny is unloaded") and panel.loaded is None
    assert finish(panel, "Unload") == "Error: No model is loaded. There is nothing to unload."
    assert finish(panel, "Ask") == "Error: No model is loaded. Load one first."


def test_stop_lets_a_model_go_that_was_just_loaded_and_cuts_an_answer(model):
    panel = ModelPanel()
    press(panel, "Load")
    press(panel, "Stop")
    assert finish(panel).startswith("Stopped: Loading was ended.") and panel.loaded is None
    assert finish(panel, "Load").startswith("Done:")
    panel.asked_to_stop.set()
    assert (
        len(panel.reply([{"role": "user", "content": "Hi"}]).encode()) <= 4
    )  # one token of this model is a byte


def test_loader_can_be_switched_and_what_is_wrong_is_said(model, home):
    panel = ModelPanel()
    panel.loader.value = "llama.cpp"
    assert "is a GGUF file, which llama.cpp runs" in finish(panel, "Load")
    (home / "models" / "broken").mkdir()
    press(panel, "Reload list")
    panel.folder.value = "broken"
    assert panel.said[-1].startswith("Error: The model folder") and "incomplete" in panel.said[-1]
    assert "incomplete" in finish(panel, "Load") and panel.loaded is None
    panel.folder.value = "tiny"
    assert finish(panel, "Load").startswith("Done:")


FETCH = """
import time
from helpers.model_panel import ModelPanel
panel = ModelPanel("{source}")
panel.start("Downloading", panel.download)
time.sleep({wait})
panel.stop()
panel.work.join()
print(panel.said[-1], "|", panel.folder.value, flush=True)
panel.start("Downloading", panel.download)
panel.work.join()
print(panel.said[-1], "|", panel.folder.value)
panel.start("Asking", panel.list_branches)
panel.work.join()
print(panel.said[-1], "|", *panel.branch.options)
"""


@pytest.mark.long
def test_download_can_be_stopped_and_goes_on_and_an_unknown_repository_is_said(home, tmp_path_factory):
    files = {
        path.name: path.read_bytes()
        for path in make_tiny_model(tmp_path_factory.mktemp("made") / "tiny").iterdir()
    }
    hub, server = start_fake_hub()
    hub.repos["acme/tiny"] = {"main": files, "small": files}
    hub.faults.append(("model.safetensors", "slow", 4))
    environment = {**os.environ, "HF_ENDPOINT": hub.url, "HF_HUB_OFFLINE": "0", "HF_HOME": str(home / "hf")}

    def run(source, wait):
        script = FETCH.format(source=source, wait=wait)
        return subprocess.run(
            [sys.executable, "-c", script], env=environment, capture_output=True, text=True, timeout=150
        ).stdout.splitlines()

    try:
        stopped, done, branches = run("acme/tiny", 1.5)
        assert stopped == "Stopped: Downloading was ended. Press the button again to go on. | None"
        assert (
            done == "Done: acme_tiny is in models/. | acme_tiny"
            and branches == "Done: 2 branches. | main small"
        )
        unknown, again, asked = run("nobody/nothing", 3)
        assert (
            "Error: The hub knows no nobody/nothing, or it is private." in unknown + again
            and "nobody/nothing" in asked
        )
    finally:
        server.shutdown()
        server.server_close()


@pytest.mark.long
def test_server_is_started_asked_and_stopped(model):
    panel = SessionPanel("tiny")
    for field in panel.ports.values():
        field.value = server.find_port(field.value)
    taken = panel.ports["openai"].value
    assert finish(panel, "Start").startswith(
        "Done: the server runs. In a terminal: python -m helpers.server --model tiny --api --extensions openai"
    )
    try:
        assert (
            requests.get(f"{panel.addresses['openai'].value}/models", timeout=10).json()["data"][0]["id"]
            == "tiny"
        )
        assert requests.get(f"{panel.addresses['raw'].value}/api/v1/model", timeout=10).json() == {
            "result": "tiny"
        }
        assert (
            finish(panel, "Start")
            == "Error: The server runs already. Press Stop before you start it in another way."
        )
        other = SessionPanel("tiny")
        other.raw.value, other.ports["openai"].value = False, taken
        assert f"Error: Port {taken} is in use by another program. Choose another one, such as " in finish(
            other, "Start"
        )
    finally:
        assert finish(panel, "Stop") == "Done: the server is gone, and its memory with it."
    assert panel.addresses["raw"].value == "" and panel.server is None
    other.openai.value = False
    assert finish(other, "Start").startswith("Error: No API was chosen.")


@pytest.mark.long
def test_server_that_still_starts_can_be_stopped_and_one_that_died_is_told_of(model):
    panel = SessionPanel("tiny")
    panel.raw.value, panel.ports["openai"].value = False, server.find_port(5001)
    press(panel, "Start")
    while panel.server is None:
        time.sleep(0.01)
    press(panel, "Stop")
    assert finish(panel).startswith("Stopped: Starting the server was ended.") and panel.server is None
    assert finish(panel, "Start").startswith("Done:")
    panel.server.process.kill()
    panel.server.process.wait()
    assert finish(panel, "Stop").startswith("Error: The server had ended by itself:") and panel.server is None


@pytest.fixture
def trainer(model, home):
    """A Training panel with twelve rows, for one pass of six steps."""
    lines = [
        "text,alternative_a,alternative_b,label",
        *(f"Comment {i},College {i},University {i},{i % 2}" for i in range(20)),
    ]
    (home / "rows.csv").write_text("\n".join(lines))
    panel = TrainingPanel(Task("college_preferences"), LANE)
    panel.data.value, panel.name.value = str(home / "rows.csv"), "mine"
    for key, value in {"max_rows": 12, "batch_size": 2, "lora_r": 4}.items():
        panel.fields[key].value = value
    return panel


def test_lora_is_trained_with_a_curve(trainer, home):
    press(trainer, "Start")
    press(trainer, "Start")
    assert "Training is under way already: wait for its end, or press Stop." in trainer.said
    assert finish(trainer).startswith("Done: 12 rows in ") and "loras/mine is saved" in trainer.said[-1]
    run = adapters.read_run(home / "loras" / "mine")
    assert run["steps"] == run["planned_steps"] == 6 and run["settings"]["lora_r"] == 4
    assert (
        '<img alt="Line: the loss of 6 steps' in trainer.curve.value and "6 steps in" in trainer.curve.value
    )
    assert not training.list_unfinished()


def test_training_can_be_stopped_and_is_saved_as_far_as_it_came(trainer, home):
    trainer.fields["epochs"].value = 500
    press(trainer, "Start")
    while "steps to come" not in trainer.curve.value:
        assert trainer.doing, trainer.said
        time.sleep(0.01)
    press(trainer, "Stop")
    assert (
        finish(trainer).startswith("Stopped: after ")
        and "As far as it came, loras/mine is saved" in trainer.said[-1]
    )
    run = json.loads((home / "loras" / "mine" / "run.json").read_text())
    assert 0 < run["steps"] < run["planned_steps"] == 3000 and len(run["loss"]) == run["steps"]
    assert f"| steps | {run['steps']} of 3000 |" in (home / "loras" / "mine" / "README.md").read_text()


def test_wrong_input_of_a_training_is_said(trainer, home):
    (home / "broken.csv").write_text('text,label\n"never closed,0\n')
    for field, value, words in (
        (trainer.data, str(home / "broken.csv"), "Error: "),
        (trainer.data, str(home / "rows.csv"), None),
        (trainer.data, "data/nothing.csv", "Error: No CSV file at data/nothing.csv."),
        (trainer.template, "nothing.yaml", "Error: No template at nothing.yaml."),
        (trainer.name, "a.b", "Error: PEFT cannot attach a LoRA with a dot in its name"),
        (trainer.name, "", "Error: &#x27;&#x27; is no name for a LoRA."),
    ):
        before, field.value = field.value, value
        if words:
            assert finish(trainer, "Start").startswith(words)
            field.value = before
    assert finish(trainer, "Start").startswith("Done:")


def test_shapes_are_copied_from_an_older_lora(trainer, model, home):
    make_tiny_adapter(home / "loras" / "old", model)
    (home / "loras" / "empty").mkdir()
    panel = TrainingPanel(Task("college_preferences"), LANE)
    rows = panel.fields["max_rows"].value
    assert [name for name, _ in panel.copy.options] == ["none", "old"]
    panel.copy.value = "old"
    chosen = panel.read_settings()
    assert (chosen.lora_r, chosen.lora_alpha, chosen.max_rows) == (4, 16, rows) and "q_proj" in chosen.targets
    assert panel.said[-1].startswith("The shapes are those of old: rank 4, alpha 16")


def test_interrupted_training_is_told_of_by_the_next_panel(trainer, rows):
    open_checkpoints("mine", rows, TrainingSettings(), resume=False)
    panel = TrainingPanel(Task("college_preferences"), LANE)
    assert panel.said[-1].startswith(
        "A training of mine was interrupted: with that name and the same settings, Start begins it anew"
    )


@pytest.fixture
def loras(model, home):
    """loras/shift and loras/twist for models/tiny."""
    for seed, name in enumerate(("shift", "twist"), 1):
        make_tiny_adapter(home / "loras" / name, model, seed=seed)
    return LoraPanel(
        "tiny", [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Which college?"}]
    )


def list_answers(panel):
    return [one.removesuffix("</p>") for one in panel.answers.value.split("<p>") if one]


def test_lora_is_applied_weighed_and_removed(loras):
    press(loras, "Ask")
    assert finish(loras) == "Done: tiny alone has answered."
    loras.lora.value = "shift"
    assert loras.said[-1].startswith("shift: rank 4, ")
    assert finish(loras, "Apply") == "Done: shift is on tiny."
    assert finish(loras, "Ask") == "Done: With shift, strength 1 has answered."
    loras.strength.value = 0
    finish(loras, "Ask")
    loras.lora.value, loras.strength.value = "", 1
    assert finish(loras, "Apply") == "Done: tiny answers alone."
    finish(loras, "Ask")
    assert finish(loras, "Remove") == "Done: shift taken off; tiny is as it was."
    finish(loras, "Ask")
    alone, applied, weak, off, removed = (answer.split(":</b>")[1] for answer in list_answers(loras))
    assert applied != alone and weak == off == removed == alone
    assert finish(loras, "Remove") == "Error: No LoRA is applied. There is nothing to remove."


def test_lora_of_another_base_is_refused_and_the_one_before_stays(loras, home):
    config = home / "loras" / "twist" / "adapter_config.json"
    config.write_text(
        json.dumps({**json.loads(config.read_text()), "base_model_name_or_path": "models/other"})
    )
    loras.lora.value = "shift"
    finish(loras, "Apply")
    loras.lora.value = "twist"
    assert loras.said[-1].startswith("Error: twist cannot be applied: its base other is not in models/")
    assert "was trained on other, not on tiny" in finish(loras, "Apply")
    assert finish(loras, "Ask") == "Done: With shift, strength 1 has answered."


def test_chosen_lora_survives_a_new_list(loras, home):
    loras.lora.value = "twist"
    (home / "loras" / "broken").mkdir()
    press(loras, "Reload list")
    assert loras.lora.value == "twist" and [name for name, _ in loras.lora.options] == [
        "none",
        "broken",
        "shift",
        "twist",
    ]
    loras.lora.value = "broken"
    assert "Error: broken cannot be applied" in loras.said[-1]


def test_panels_stand_beside_the_code_of_their_lessons():
    for name, panel in (
        ("02_loading", "ModelPanel"),
        ("03_api", "SessionPanel"),
        ("04_training", "TrainingPanel"),
        ("05_lora_loading", "LoraPanel"),
    ):
        notebook = nbformat.read(PROJECT / "notebooks" / f"{name}.ipynb", as_version=4)
        cells = [cell for cell in notebook.cells if cell.cell_type == "code" and f"{panel}(" in cell.source]
        assert len(cells) == 1 and ".start(" not in cells[0].source  # shown, and nothing set going
        assert "text/html" in cells[0].outputs[0].data and PROJECT == PROJECT
