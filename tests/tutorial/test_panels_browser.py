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

from helpers import server, tasks
from helpers.weights.folders import models_folder

pytestmark = [pytest.mark.real, needs_chromium]

ROWS = "data/college_preferences/dataset.csv"
MODEL = "SmolLM2-135M-Instruct"
LORA = "college-preferences"
READY = "college-preferences-15-minutes"  # comes with the kit
STEPS = 157  # one pass over the 1251 training rows, 8 at a time

MODEL_PANEL = "from helpers.tutorial.panels import ModelPanel\nModelPanel()"
SESSION_PANEL = f"from helpers.tutorial.panels import SessionPanel\nSessionPanel({MODEL!r})"
TRAINING_PANEL = """from helpers import tutorial
from helpers.common.lanes import LANES
from helpers.tutorial.panels import TrainingPanel
TrainingPanel(tutorial.pick_task(), LANES["tiny"])"""


@pytest.fixture(scope="module")
def home(tmp_path_factory, real_model_name):
    """A home that holds the embedded model and nothing else."""
    home = tmp_path_factory.mktemp("home")
    shutil.copytree(models_folder() / real_model_name, home / "models" / real_model_name)
    return home


@pytest.fixture(scope="module")
def hub(tmp_path_factory):
    """A hub with one tiny model; its weights are slow the first time."""
    hub, running = start_fake_hub()
    folder = make_tiny_model(tmp_path_factory.mktemp("made") / "tiny")
    hub.repos["acme/tiny"] = {"main": {path.name: path.read_bytes() for path in folder.iterdir()}}
    hub.faults.append(("model.safetensors", "slow", 3))
    yield hub
    running.shutdown()
    running.server_close()


@pytest.fixture(scope="module")
def lab(home, hub):
    """The address of a JupyterLab for these tests."""
    with run_jupyterlab(home, HF_ENDPOINT=hub.url, HF_HUB_OFFLINE="0", HF_HOME=str(home / "hf")) as address:
        yield address


@pytest.fixture
def open_panel(browser, lab, home):
    """A function that opens a notebook with one cell of code, which shows a panel."""
    opened = []

    def open_notebook(name, code):
        page = browser.new_page(viewport={"width": 900, "height": 1300})
        opened.append(Notebook(page, lab, home, name, code))
        return opened[-1]

    yield open_notebook
    for notebook in opened:
        notebook.close()


def test_model_panel_downloads_loads_and_asks(open_panel):
    notebook = open_panel("model", MODEL_PANEL)
    expect(notebook.field("Loader")).to_have_value("transformers")
    notebook.press("Download")
    notebook.expect_role("status", f"{MODEL} is in models/")
    notebook.type_into("Source", "nobody/nothing")
    notebook.press("Download")
    notebook.expect_role("alert", "nobody/nothing")
    notebook.type_into("Source", "acme/tiny")
    notebook.press("Download")
    notebook.press("Stop")
    notebook.expect_role("status", "Stopped: ")
    notebook.press("Download")
    notebook.expect_role("status", "acme_tiny is in models/")
    expect(notebook.field("Model")).to_have_value("acme_tiny")
    notebook.field("Model").select_option(MODEL)
    notebook.press("Load")
    notebook.expect_role("status", rf"Done: {MODEL} .* transformers.* GB")
    notebook.press("Ask")
    notebook.expect_answers(1)
    notebook.type_into("Source", "smollm2-135m-instruct")
    notebook.take_picture("model")
    notebook.press("Unload")
    notebook.expect_role("status", f"Done: {MODEL} .* GB")


def test_session_panel_serves_who_calls_from_outside(open_panel):
    notebook = open_panel("session", SESSION_PANEL)
    for label, usual in (("Port, raw", 5000), ("Port, streaming", 5005), ("Port, OpenAI", 5001)):
        notebook.type_into(label, str(server.find_port(usual)))
    notebook.press("Start")
    notebook.expect_role("status", "Done: .*python -m helpers.server")
    raw = notebook.field("Raw address").input_value()
    openai = notebook.field("OpenAI address").input_value()
    assert requests.get(f"{raw}/api/v1/model", timeout=10).json() == {"result": MODEL}
    body = {"messages": [{"role": "user", "content": "What color is the sky?"}], "max_tokens": 8}
    reply = requests.post(f"{openai}/chat/completions", json=body, timeout=60).json()
    assert reply["choices"][0]["message"]["content"]
    notebook.take_picture("session")
    notebook.press("Start")
    notebook.expect_role("alert", "Error: ")
    notebook.press("Stop")
    notebook.expect_role("status", "Done: ")
    with pytest.raises(requests.ConnectionError):
        requests.get(f"{raw}/api/v1/model", timeout=10)


def test_session_panel_names_a_port_that_is_taken(open_panel):
    notebook = open_panel("taken", SESSION_PANEL)
    taken = re.search(r":(\d+)/", notebook.page.url)[1]  # JupyterLab's own
    for label, usual in (("Port, raw", 5000), ("Port, streaming", 5005)):
        notebook.type_into(label, str(server.find_port(usual)))
    notebook.type_into("Port, OpenAI", taken)
    notebook.press("Start")
    notebook.expect_role("alert", taken)


def test_training_panel_takes_a_file_of_ones_own(open_panel, home):
    lines = ["question,answer"] + [f"What is number {i}?,It is {i * i} all in all" for i in range(20)]
    (home / "own.csv").write_text("\n".join(lines))
    notebook = open_panel("own", TRAINING_PANEL)
    notebook.type_into("Data set", str(home / "own.csv"))
    notebook.press("Suggest")
    notebook.expect_role("status", "own.yaml is a first template")
    notebook.press("Preview")
    notebook.expect_role("status", "the first rows are above")
    expect(notebook.panel.locator("mark").first).to_be_visible(timeout=WAIT)
    notebook.press("Check")
    notebook.expect_role("status", "can be trained on")
    expect(notebook.panel.get_by_text("16 to train on, 4 held out")).to_be_visible(timeout=WAIT)
    (home / "broken.csv").write_text('text,label\n"never closed,0\n')
    notebook.type_into("Data set", str(home / "broken.csv"))
    notebook.press("Start")
    notebook.expect_role("alert", "broken.csv")


def test_training_panel_trains_stops_and_outlives_its_kernel(open_panel, home):
    notebook = open_panel("training", TRAINING_PANEL)
    notebook.press("Start")
    notebook.expect(rf"step \d+ of {STEPS}")
    if "KIT_SCREENSHOTS" in os.environ:  # the picture should show a curve
        notebook.expect(rf"step [2-9]\d of {STEPS}", wait=4 * WAIT)
    expect(notebook.panel.locator("img")).to_have_attribute("alt", re.compile(r"\b\d+ steps"))
    notebook.take_picture("training")
    notebook.press("Start")
    notebook.press("Start")
    notebook.expect("already running")
    notebook.press("Stop")
    notebook.expect_role("status", rf"\d+ of {STEPS} .*loras/{LORA}-by-panel")
    assert (home / "loras" / f"{LORA}-by-panel" / "adapter_model.safetensors").is_file()
    notebook.press("Start")
    notebook.expect(f"{STEPS} steps to come")
    notebook.restart_kernel()
    stale = notebook.panel.get_by_text("the kernel was restarted")
    expect(stale).to_be_visible(timeout=WAIT)
    notebook.run_cell()
    notebook.expect_role("status", f"{LORA}-by-panel")
    expect(stale).not_to_be_visible()
    notebook.press("Start")
    notebook.expect(rf"{STEPS} steps to come|step \d+ of {STEPS}")
    notebook.press("Stop")
    notebook.expect_role("status", rf"\d+ of {STEPS}")


@pytest.fixture(scope="module")
def messages():
    """A held-out comment that takes a side, for the LoRA that comes with the kit."""
    data = tasks.load_task_data(ROWS, "templates/college_preferences.yaml")
    on_side = [row for row in data.test if row["label"] in (1, 2)]
    return data.template.build_messages(min(on_side, key=lambda row: len(row["text"])))


def test_lora_panel_changes_the_answer_by_keyboard_alone(open_panel, messages):
    code = f"from helpers.tutorial.panels import LoraPanel\nLoraPanel({MODEL!r}, {messages!r})"
    notebook = open_panel("lora", code)
    choices = ["LoRA", "Strength", "Apply", "Remove", "Reload list", "Stop"]
    asking = ["Instruction", "Question", "Ask", "Forget answers"]
    order = [*choices, *asking]
    assert notebook.tab_from("Base model", len(order)) == order
    keyboard = notebook.page.keyboard
    keyboard.press("Shift+Tab")
    keyboard.press("Space")  # Ask
    notebook.expect_answers(1)
    notebook.field("LoRA").focus()
    names = notebook.field("LoRA").locator("option").all_inner_texts()
    for key in ("Space", *["ArrowDown"] * names.index(READY), "Enter"):  # opens the list, moves down, chooses
        keyboard.press(key)
    notebook.expect_role("status", f"{READY}: rank 16")
    keyboard.press("Tab")
    keyboard.press("Tab")
    keyboard.press("Space")  # Apply
    notebook.expect_role("status", f"Done: {READY}")
    notebook.press("Ask")
    notebook.expect_answers(2)
    alone, applied = notebook.list_answers()
    assert applied != alone
    notebook.take_picture("lora")
    notebook.press("Remove")
    notebook.expect_role("status", f"Done: {READY}")
    notebook.press("Ask")
    notebook.expect_answers(3)
    assert notebook.list_answers() == [alone, applied, alone]


def test_saved_notebook_has_a_sentence_instead_of_the_panel(open_panel):
    notebook = open_panel("saved", MODEL_PANEL)
    saved = notebook.save()
    assert "widgets" not in saved["metadata"]
    output = saved["cells"][0]["outputs"][-1]["data"]
    assert "".join(output["text/plain"]).startswith("Model: ") and "text/html" in output
