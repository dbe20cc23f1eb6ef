"""Files of the lessons are clean, and pre-commit's hooks mend what can be mended, with nothing but what is installed here."""

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
from support.lessons import PATHS, code_cells, read

from helpers import PROJECT
from helpers.tutorial.notebook_files import WIDGET
from tools.tidy_notebooks import read_address

SECRETS = {
    "Hugging Face": r"\bhf_[A-Za-z0-9]{20,}",
    "OpenAI": r"\bsk-[A-Za-z0-9_-]{20,}",
    "GitHub": r"\bgh[pousr]_[A-Za-z0-9]{30,}|\bgithub_pat_\w{30,}",
    "Amazon": r"\bAKIA[0-9A-Z]{16}\b",
    "Google": r"\bAIza[\w-]{35}",
    "a header": r"Authorization: Bearer [\w-]{16,}",
}
PLACES = r"(?<![\w.~<])/(?:root|home|Users|tmp|var|mnt|content|kaggle)/[\w.]|\b[A-Z]:\\\\?Users"  # of Linux, macOS, Windows, Colab, Kaggle


def read_visible(path: Path) -> str:
    """A notebook's text without its pictures, whose letters mean nothing."""
    return re.sub(r"base64,[A-Za-z0-9+/=\\n]+", "", path.read_text(encoding="utf-8"))


@pytest.mark.parametrize("path", PATHS, ids=lambda path: path.stem)
def test_notebook_names_no_place_on_anybodys_machine(path):
    assert not re.findall(PLACES, read_visible(path))


@pytest.mark.parametrize("path", PATHS, ids=lambda path: path.stem)
def test_notebook_holds_no_secret(path):
    assert [owner for owner, form in SECRETS.items() if re.search(form, read_visible(path))] == []


def test_forms_of_places_and_secrets_find_them():
    places = ["'/home/ann/kit'", r"C:\\Users\\ann", "see /content/drive", "/Users/ann", "/tmp/x"]
    assert all(re.search(PLACES, text) for text in places)
    assert not re.search(PLACES, "https://example.org/home/ann and ~/tmp/x, POST /api/v1/chat")
    assert re.search(SECRETS["Hugging Face"], "hf_" + "a" * 34) and re.search(
        SECRETS["OpenAI"], "sk-proj-" + "a" * 30
    )


@pytest.mark.parametrize("path", PATHS, ids=lambda path: path.stem)
def test_no_cell_warned(path):
    """The lessons are executed with the warnings that a learner would see."""
    outputs = [output for cell in code_cells(read(path)) for output in cell.outputs]
    assert [output.text for output in outputs if output.get("name") == "stderr" and output.text.strip()] == []


@pytest.mark.parametrize("path", PATHS, ids=lambda path: path.stem)
def test_no_widget_is_left_in_metadata_or_outputs(path):
    notebook = read(path)
    assert "widgets" not in notebook.metadata
    kinds = {
        kind for cell in code_cells(notebook) for output in cell.outputs for kind in output.get("data", {})
    }
    assert not [kind for kind in kinds if "widget" in kind]


@pytest.mark.parametrize("path", PATHS, ids=lambda path: path.stem)
def test_every_cell_that_prints_has_its_output(path):
    for cell in code_cells(read(path)):
        last = cell.source.strip().splitlines()[-1]
        if re.match(r"(print|checks\.\w+|plots\.show\w*)\(", last):
            assert cell.outputs, last


@pytest.mark.parametrize("path", PATHS, ids=lambda path: path.stem)
def test_text_pair_is_in_step_in_metadata_too(path):
    text = jupytext.read(PROJECT / "notebooks" / "text" / f"{path.stem}.py")
    left_out = {"lines_to_next_cell"}  # blank lines of the text form
    pairs = zip(read(path).cells, text.cells, strict=True)
    assert not [
        one.source
        for one, other in pairs
        if {k: v for k, v in one.metadata.items() if k not in left_out}
        != {k: v for k, v in other.metadata.items() if k not in left_out}
    ]


def read_hooks() -> list[dict]:
    """The hooks of pre-commit's configuration."""
    (repository,) = yaml.safe_load((PROJECT / ".pre-commit-config.yaml").read_text(encoding="utf-8"))["repos"]
    assert repository["repo"] == "local"
    return repository["hooks"]


def test_hooks_need_nothing_from_elsewhere():
    assert all(
        hook["language"] == "system" and hook["entry"].startswith("python -m ") for hook in read_hooks()
    )


@pytest.fixture
def checkout(tmp_path):
    """A copy of what git knows of the project, as a repository of its own."""
    listing = subprocess.run(
        ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
        cwd=PROJECT,
        capture_output=True,
        text=True,
    )
    if listing.returncode:
        pytest.skip("not a git checkout")
    for name in filter(None, listing.stdout.split("\0")):
        if (PROJECT / name).is_file():
            (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(PROJECT / name, tmp_path / name)
    for words in (["init", "--quiet"], ["add", "--all"]):
        subprocess.run(["git", *words], cwd=tmp_path, check=True)
    return tmp_path


def run_hooks(folder: Path) -> subprocess.CompletedProcess:
    """pre-commit on all files, with the Python that runs this first on the path, and a cache of its own."""
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
    environment = os.environ | {
        "PATH": path,
        "PYTHONPATH": str(folder),
        "PRE_COMMIT_HOME": str(folder.parent / "cache"),
    }
    command = [sys.executable, "-m", "pre_commit", "run", "--all-files", "--color", "never"]
    return subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True)


def spoil(folder: Path) -> None:
    """What happens to files: a notebook is run in Colab and saved with widgets, a badge is old, a text pair is edited, code is laid out anyhow."""
    path = folder / "notebooks" / "01_weights.ipynb"
    notebook = nbformat.read(path, as_version=4)
    notebook.metadata["widgets"] = {
        "application/vnd.jupyter.widget-state+json": {"state": {}, "version_major": 2, "version_minor": 0}
    }
    notebook.metadata["accelerator"] = "GPU"
    code_cells(notebook)[1].metadata["execution"] = {"iopub.execute_input": "2023-09-01T10:00:00Z"}
    widget = nbformat.v4.new_output(
        "display_data",
        data={WIDGET: {"model_id": "0", "version_major": 2, "version_minor": 0}, "text/plain": "Dropdown()"},
    )
    code_cells(notebook)[1].outputs.append(widget)
    code_cells(notebook)[0].source = "!pip install everything"
    notebook.cells[0].source = notebook.cells[0].source.replace(
        read_address().split("/")[-2] + "/", "elsewhere/", 1
    )
    nbformat.write(notebook, path)
    text = folder / "notebooks" / "text" / "02_loading.py"
    text.write_text(
        text.read_text(encoding="utf-8").replace("# ## Recap", "# ## Looking back"), encoding="utf-8"
    )
    os.utime(text)
    (folder / "helpers" / "new.py").write_text(
        "import os, json\nprint( json.dumps( {} ) )\n", encoding="utf-8"
    )
    subprocess.run(["git", "add", "--all"], cwd=folder, check=True)


@pytest.mark.long
def test_hooks_leave_a_clean_checkout_alone_and_mend_a_spoilt_one(checkout):
    clean = run_hooks(checkout)
    assert clean.returncode == 0, clean.stdout + clean.stderr
    before = {path: path.read_bytes() for path in checkout.glob("notebooks/0*.ipynb")}
    spoil(checkout)
    assert run_hooks(checkout).returncode == 1  # it mended, and says so
    again = run_hooks(checkout)
    assert again.returncode == 0, again.stdout + again.stderr
    assert (checkout / "notebooks" / "01_weights.ipynb").read_bytes() == before.pop(
        checkout / "notebooks" / "01_weights.ipynb"
    )
    assert (checkout / "helpers" / "new.py").read_text(
        encoding="utf-8"
    ) == "import json\n\nprint(json.dumps({}))\n"
    mended = json.loads((checkout / "notebooks" / "02_loading.ipynb").read_text(encoding="utf-8"))
    old = json.loads(before[checkout / "notebooks" / "02_loading.ipynb"])
    assert any("## Looking back" in "".join(cell["source"]) for cell in mended["cells"])
    assert [cell.get("outputs") for cell in mended["cells"]] == [cell.get("outputs") for cell in old["cells"]]
