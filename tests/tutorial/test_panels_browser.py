"""The four panels as a user meets them: JupyterLab in a real browser, the embedded model, mouse and keyboard.

`make screenshots` runs these tests and keeps the pictures that they take.
"""

import os
import re
import shutil

import pytest
import requests
from playwright.sync_api import expect
from support.browser import WAIT, Notebook, needs_chromium, run_jupyterlab
from support.fake_hub import start_fake_hub
from support.tiny import make_tiny_model

from helpers import PROJECT, loading, server, tasks, training
from helpers.training.settings import pick_settings

pytestmark = [pytest.mark.real, needs_chromium]
ROWS = "data/college_preferences/dataset.csv"


@pytest.fixture(scope="module")
def home(tmp_path_factory, real_model_name):
    """A home with the embedded model in it and nothing else."""
    from helpers.weights.folders import models_folder

    home = tmp_path_factory.mktemp("home")
    shutil.copytree(models_folder() / real_model_name, home / "models" / real_model_name)
    return home


@pytest.fixture(scope="module")
def hub(tmp_path_factory):
    """A hub with one tiny model, whose weights are slow to come the first time."""
    hub, server = start_fake_hub()
    folder = make_tiny_model(tmp_path_factory.mktemp("made") / "tiny")
    hub.repos["acme/tiny"] = {"main": {path.name: path.read_bytes() for path in folder.iterdir()}}
    hub.faults.append(("model.safetensors", "slow", 3))
    yield hub
    server.shutdown()
    server.server_close()


@pytest.fixture(scope="module")
def lab(home, hub):
    """The address of a JupyterLab for these tests."""
    with run_jupyterlab(home, HF_ENDPOINT=hub.url, HF_HUB_OFFLINE="0", HF_HOME=str(home / "hf")) as address:
        yield address


@pytest.fixture
def open_panel(browser, lab, home):
    """Opens a notebook with one cell of code that shows a panel."""
    opened = []

    def open_panel(name, code):
        opened.append(
            Notebook(browser.new_page(viewport={"width": 900, "height": 1300}), lab, home, name, code)
        )
        return opened[-1]

    yield open_panel
    for notebook in opened:
        notebook.close()


def test_model_panel_fetches_loads_and_asks(open_panel):
    notebook = open_panel("model", "from helpers.tutorial.panels import ModelPanel\nModelPanel()")
    notebook.expect("its loader is transformers")
    notebook.press("Stop")
    notebook.expect("Nothing is running, so there is nothing to stop")
    notebook.press("Download")
    notebook.expect("Done: SmolLM2-135M-Instruct is in models/")
    notebook.type_into("Source", "nobody/nothing")
    notebook.press("Download")
    notebook.expect("Error: The hub knows no nobody/nothing, or it is private. Check the spelling")
    notebook.type_into("Source", "acme/tiny")
    notebook.press("Download")
    notebook.press("Stop")
    notebook.expect("Stopped: Downloading was ended")
    notebook.press("Download")
    notebook.expect("Done: acme_tiny is in models/")
    expect(notebook.field("Model")).to_have_value("acme_tiny")
    notebook.field("Model").select_option("SmolLM2-135M-Instruct")
    notebook.press("Load")
    notebook.press("Load")
    notebook.expect("Loading is under way already: wait for its end, or press Stop")
    notebook.expect("Done: SmolLM2-135M-Instruct is loaded by transformers: .* GB of weights")
    notebook.press("Ask")
    notebook.expect("Done: SmolLM2-135M-Instruct has answered")
    assert len(notebook.list_answers()) == 1
    notebook.type_into("Source", "smollm2-135m-instruct")
    notebook.take_picture("model")
    notebook.press("Unload")
    notebook.expect("Done: SmolLM2-135M-Instruct is unloaded")


def test_session_panel_serves_who_calls_from_outside(open_panel):
    notebook = open_panel(
        "session",
        "from helpers.tutorial.panels import SessionPanel\nSessionPanel('SmolLM2-135M-Instruct')",
    )
    notebook.expect("No server runs")
    ports = {
        label: server.find_port(usual) for label, usual in (("Port, raw", 5000), ("Port, streaming", 5005))
    }
    for label, port in ports.items():
        notebook.type_into(label, str(port))
    notebook.type_into("Port, OpenAI", str(server.find_port(5001)))
    notebook.press("Start")
    notebook.expect("Done: the server runs")
    raw, openai = notebook.field("Raw address").input_value(), notebook.field("OpenAI address").input_value()
    assert requests.get(f"{raw}/api/v1/model", timeout=10).json() == {"result": "SmolLM2-135M-Instruct"}
    body = {"messages": [{"role": "user", "content": "What color is the sky?"}], "max_tokens": 8}
    reply = requests.post(f"{openai}/chat/completions", json=body, timeout=60).json()
    assert reply["choices"][0]["message"]["content"]
    notebook.take_picture("session")
    notebook.press("Start")
    notebook.expect("Error: The server runs already")
    notebook.press("Stop")
    notebook.expect("Done: the server is gone")
    with pytest.raises(requests.ConnectionError):
        requests.get(f"{raw}/api/v1/model", timeout=10)
    taken = re.search(r":(\d+)/", notebook.page.url)[1]  # JupyterLab's own
    notebook.type_into("Port, OpenAI", taken)
    notebook.press("Start")
    notebook.expect(f"Error: Port {taken} is in use by another program. Choose another one, such as")
    notebook.press("Stop")
    notebook.expect("Nothing is running, so there is nothing to stop")


TRAINING = """from helpers import tutorial
from helpers.common.lanes import LANES
from helpers.tutorial.panels import TrainingPanel
TrainingPanel(tutorial.pick_task(), LANES["tiny"])"""


def test_training_panel_trains_stops_and_outlives_its_kernel(open_panel, home):
    notebook = open_panel("training", TRAINING)
    (home / "broken.csv").write_text('text,label\n"never closed,0\n')
    notebook.type_into("Data set", str(home / "broken.csv"))
    notebook.press("Start")
    notebook.expect("Error: .*broken.csv")
    notebook.type_into("Data set", ROWS)
    notebook.press("Stop")
    notebook.expect("Nothing is running, so there is nothing to stop")
    notebook.press("Start")
    notebook.press("Start")
    notebook.expect("Training is under way already")
    notebook.expect(r"step \d+ of 75, about \d+ seconds left")
    if "KIT_SCREENSHOTS" in os.environ:  # a curve is worth waiting for
        notebook.expect(r"step [2-9]\d of 75", wait=4 * WAIT)
    expect(notebook.panel.locator("img")).to_have_attribute("alt", re.compile(r"Line: the loss of \d+ steps"))
    notebook.take_picture("training")
    notebook.press("Stop")
    notebook.expect(
        r"Stopped: after \d+ of 75 steps. As far as it came, loras/college-preferences-by-panel is saved"
    )
    assert (home / "loras" / "college-preferences-by-panel" / "adapter_model.safetensors").is_file()
    notebook.press("Start")
    notebook.expect("75 steps to come")
    notebook.restart_kernel()
    expect(notebook.panel.get_by_text("the kernel was restarted")).to_be_visible(timeout=WAIT)
    notebook.run_cell()
    notebook.expect("A training of college-preferences-by-panel was interrupted")
    expect(notebook.panel.get_by_text("the kernel was restarted")).not_to_be_visible()
    notebook.press("Start")
    notebook.expect(r"75 steps to come|step \d+ of 75")
    notebook.press("Stop")
    notebook.expect(r"Stopped: after \d+ of 75 steps")


@pytest.fixture(scope="module")
def lora(home, real_model_name):
    """loras/college-preferences of the home: eight steps of training."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("OPEN_LLM_KIT_HOME", str(home))
        template = tasks.load_template("templates/college_preferences.yaml")
        rows, held_out = tasks.split_rows(tasks.load_rows(PROJECT / ROWS, template))
        settings = pick_settings("tiny").replace({"max_rows": 64})
        loaded = loading.load_model(real_model_name, purpose="training")
        training.train_lora(
            loaded, rows, template, settings, home / "loras" / "college-preferences", progress=False
        )
    return template.build_messages(min(held_out, key=lambda row: len(row["text"])))


def test_lora_panel_changes_the_answer_by_keyboard_alone(open_panel, lora):
    code = f"from helpers.tutorial.panels import LoraPanel\nLoraPanel('SmolLM2-135M-Instruct', {lora!r})"
    notebook = open_panel("lora", code)
    order = [
        "LoRA",
        "Strength",
        "Apply",
        "Remove",
        "Reload list",
        "Stop",
        "Instruction",
        "Question",
        "Ask",
        "Forget answers",
    ]
    assert notebook.tab_from("Base model", len(order)) == order
    keyboard = notebook.page.keyboard
    keyboard.press("Shift+Tab")
    keyboard.press("Space")  # Ask
    notebook.expect("Done: SmolLM2-135M-Instruct alone has answered")
    notebook.field("LoRA").focus()
    for key in ("Space", "ArrowDown", "Enter"):  # opens the list, goes on in it, chooses
        keyboard.press(key)
    notebook.expect("college-preferences: rank 16")
    keyboard.press("Tab")
    keyboard.press("Tab")
    keyboard.press("Space")  # Apply
    notebook.expect("Done: college-preferences is on SmolLM2-135M-Instruct")
    notebook.press("Ask")
    notebook.expect("Done: With college-preferences, strength 1 has answered")
    alone, applied = notebook.list_answers()
    assert applied != alone
    notebook.take_picture("lora")
    notebook.press("Remove")
    notebook.expect("Done: college-preferences taken off")
    notebook.press("Ask")
    expect(notebook.panel.get_by_text("SmolLM2-135M-Instruct alone:")).to_have_count(2, timeout=WAIT)
    assert notebook.list_answers() == [alone, applied, alone]
    saved = notebook.save()
    assert "widgets" not in saved["metadata"]
    words = "".join(saved["cells"][0]["outputs"][-1]["data"]["text/plain"])
    assert words == "LoRA: this panel works while its notebook runs. Elsewhere a picture of it stands here."
