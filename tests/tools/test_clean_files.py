"""The lessons' files are clean, and pre-commit's hooks fix what can be fixed, with what is installed here."""

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import jupytext
import nbformat
import pytest
import yaml
from support.lessons import each_lesson, list_code_cells, name_pair, read_notebook

from helpers.common.paths import PROJECT
from helpers.tutorial.notebook_files import WIDGET
from tools.publication import Publication, put_badge

SECRETS = {
    "Hugging Face": r"\bhf_[A-Za-z0-9]{20,}",
    "OpenAI": r"\bsk-[A-Za-z0-9_-]{20,}",
    "GitHub": r"\bgh[pousr]_[A-Za-z0-9]{30,}|\bgithub_pat_\w{30,}",
    "Amazon": r"\bAKIA[0-9A-Z]{16}\b",
    "Google": r"\bAIza[\w-]{35}",
    "a header": r"Authorization: Bearer [\w-]{16,}",
}
# Paths on somebody's machine: Linux, macOS, Colab, Kaggle; and Windows.
PLACES = r"(?<![\w.~<])/(?:root|home|Users|tmp|var|mnt|content|kaggle)/[\w.]|\b[A-Z]:\\\\?Users"


def read_visible(path: Path) -> str:
    """A notebook's text without its pictures, whose letters mean nothing."""
    return re.sub(r"base64,[A-Za-z0-9+/=\\n]+", "", path.read_text(encoding="utf-8"))


@each_lesson
def test_notebook_names_no_path_on_anybodys_machine(path):
    assert not re.findall(PLACES, read_visible(path))


@each_lesson
def test_notebook_holds_no_secret(path):
    text = read_visible(path)
    assert [owner for owner, form in SECRETS.items() if re.search(form, text)] == []


@pytest.mark.parametrize(
    "text", ["'/home/ann/kit'", r"C:\\Users\\ann", "see /content/drive", "/Users/ann", "/tmp/x"]
)
def test_search_for_paths_finds_them(text):
    assert re.search(PLACES, text)


def test_search_for_paths_leaves_addresses_alone():
    assert not re.search(PLACES, "https://example.org/home/ann and ~/tmp/x, POST /api/v1/chat")


@pytest.mark.parametrize(
    ("owner", "secret"), [("Hugging Face", "hf_" + "a" * 34), ("OpenAI", "sk-proj-" + "a" * 30)]
)
def test_search_for_secrets_finds_them(owner, secret):
    assert re.search(SECRETS[owner], secret)


@each_lesson
def test_no_cell_wrote_to_stderr(path):
    """The lessons are executed with the warnings that a learner would see."""
    for cell in list_code_cells(read_notebook(path)):
        warnings = [output.text for output in cell.outputs if output.get("name") == "stderr"]
        assert "".join(warnings).strip() == ""


@each_lesson
def test_no_widget_is_left_in_metadata_or_outputs(path):
    notebook = read_notebook(path)
    assert "widgets" not in notebook.metadata
    for cell in list_code_cells(notebook):
        for output in cell.outputs:
            assert not [kind for kind in output.get("data", {}) if "widget" in kind]


@each_lesson
def test_every_cell_that_prints_has_its_output(path):
    for cell in list_code_cells(read_notebook(path)):
        last = cell.source.strip().splitlines()[-1]
        if re.match(r"(print|checks\.\w+|plots\.show\w*)\(", last):
            assert cell.outputs, last


@each_lesson
def test_text_pair_has_the_same_metadata(path):
    pair = jupytext.read(name_pair(path))
    for cell, other in zip(read_notebook(path).cells, pair.cells, strict=True):
        for metadata in (cell.metadata, other.metadata):
            metadata.pop("lines_to_next_cell", None)  # blank lines of the text form
        assert cell.metadata == other.metadata, cell.source


def read_hooks() -> list[dict]:
    """The hooks in pre-commit's configuration, all of them local."""
    [repository] = yaml.safe_load((PROJECT / ".pre-commit-config.yaml").read_text(encoding="utf-8"))["repos"]
    assert repository["repo"] == "local"
    return repository["hooks"]


@pytest.mark.parametrize("hook", read_hooks(), ids=lambda hook: hook["id"])
def test_hook_needs_nothing_from_elsewhere(hook):
    assert hook["language"] == "system" and hook["entry"].startswith("python -m ")


@pytest.fixture
def checkout(tmp_path):
    """A git repository with a copy of this project's files, as git lists them."""
    command = ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
    listing = subprocess.run(command, cwd=PROJECT, capture_output=True, text=True)
    if listing.returncode:
        pytest.skip("not a git checkout")
    folder = tmp_path / "checkout"
    for name in filter(None, listing.stdout.split("\0")):
        if (PROJECT / name).is_file():
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(PROJECT / name, folder / name)
    for words in (["init", "--quiet"], ["add", "--all"]):
        subprocess.run(["git", *words], cwd=folder, check=True)
    return folder


def run_hooks(folder: Path) -> subprocess.CompletedProcess:
    """Runs pre-commit on all files, with this Python first on the path and a cache of its own."""
    environment = {
        **os.environ,
        "PATH": os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]]),
        "PYTHONPATH": str(folder),
        "PRE_COMMIT_HOME": str(folder.parent / "cache"),
    }
    command = [sys.executable, "-m", "pre_commit", "run", "--all-files", "--color", "never"]
    return subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True)


def spoil_notebook(path: Path) -> None:
    """Does to a notebook what Colab does, and gives it a badge of elsewhere and another set-up cell."""
    notebook = read_notebook(path)
    state = {"state": {}, "version_major": 2, "version_minor": 0}
    notebook.metadata["widgets"] = {"application/vnd.jupyter.widget-state+json": state}
    notebook.metadata["accelerator"] = "GPU"
    setup, second, *_ = list_code_cells(notebook)
    setup.source = "!pip install everything"
    second.metadata["execution"] = {"iopub.execute_input": "2023-09-01T10:00:00Z"}
    view = {"model_id": "0", "version_major": 2, "version_minor": 0}
    data = {WIDGET: view, "text/plain": "Dropdown()"}
    second.outputs.append(nbformat.v4.new_output("display_data", data=data))
    elsewhere = Publication("https://github.com/elsewhere/kit", "v0", "0" * 40)
    notebook.cells[0].source = put_badge(notebook.cells[0].source, elsewhere, path.stem)
    nbformat.write(notebook, path)


def edit_text_pair(path: Path) -> None:
    """Changes a heading in a text pair, which is then newer than its notebook."""
    text = path.read_text(encoding="utf-8")
    path.write_text(text.replace("# ## Recap", "# ## Looking back"), encoding="utf-8")


@pytest.mark.long
def test_hooks_leave_a_clean_checkout_alone(checkout):
    done = run_hooks(checkout)
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.long
def test_hooks_fix_a_spoilt_checkout(checkout):
    first, second = (checkout / "notebooks" / f"{name}.ipynb" for name in ("01_weights", "02_loading"))
    clean, old = first.read_bytes(), json.loads(second.read_bytes())
    spoil_notebook(first)
    edit_text_pair(name_pair(second))
    module = checkout / "helpers" / "new.py"
    module.write_text("import os, json\nprint( json.dumps( {} ) )\n", encoding="utf-8")
    subprocess.run(["git", "add", "--all"], cwd=checkout, check=True)
    assert run_hooks(checkout).returncode == 1  # they have fixed something
    again = run_hooks(checkout)
    assert again.returncode == 0, again.stdout + again.stderr
    assert first.read_bytes() == clean
    assert module.read_text(encoding="utf-8") == "import json\n\nprint(json.dumps({}))\n"
    new = json.loads(second.read_bytes())
    assert any("## Looking back" in "".join(cell["source"]) for cell in new["cells"])
    assert [cell.get("outputs") for cell in new["cells"]] == [cell.get("outputs") for cell in old["cells"]]
