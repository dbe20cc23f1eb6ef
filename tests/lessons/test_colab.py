"""The set-up cell: the same everywhere, with the published address or none; a lesson in a simulated Colab.

Colab itself cannot be had here. The simulation has what matters of it: a Python of its own with torch and
numpy in other versions than the kit's, a kernel in a folder without the kit, Colab's environment variable,
and git as the only source (at the address it finds a bare clone of this checkout).
"""

import importlib.util
import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import nbformat
import pytest
from jupyter_client.kernelspec import KernelSpecManager
from jupyter_client.manager import AsyncKernelManager
from nbclient import NotebookClient
from packaging.requirements import Requirement
from support.lessons import PATHS, each_lesson, list_code_cells, read_notebook, read_printed
from support.pins import read_constraints

from helpers import tutorial
from helpers.common.errors import MismatchError, MissingPackageError, UnsupportedError
from helpers.common.paths import PROJECT
from helpers.tutorial import setup
from helpers.tutorial.setup import (
    add_gptq,
    choose_home,
    describe_change,
    find_absent,
    find_fixed,
    find_unmet,
    install,
    read_installed,
    read_requirements,
    read_tested,
    try_gptq,
)
from tools.publication import Publication, build_setup_cell, put_badge, read_publication
from tools.publish import publish

ADDRESS = "https://github.com/somebody/kit"  # where the simulation publishes this checkout
# What the set-up cell does on a machine with a GPU.
ADD_GPTQ = "print(setup.add_gptq(setup.find_fixed(setup.read_installed())))"
# Within the kit's ranges, and others than in constraints.txt.
NUMPY, TORCH = "2.4.6", "2.12.9"


@each_lesson
def test_set_up_cell_and_badge_are_those_of_what_is_published(path):
    notebook, publication = read_notebook(path), read_publication()
    assert list_code_cells(notebook)[0].source == build_setup_cell(publication)
    title = notebook.cells[0].source
    assert title == put_badge(title, publication, path.stem)


@pytest.fixture
def kit(tmp_path, monkeypatch):
    """The folder of a kit whose lessons need two packages; every machine has the first one."""
    project = """
        [project]
        dependencies = ["packaging>=1"]
        [project.optional-dependencies]
        lab = ["no-such-package>=3,<4", "jupyterlab>=4"]
        llamacpp = []
        gptq = ["no-such-reader>=1"]
    """
    (tmp_path / "pyproject.toml").write_text(project, encoding="utf-8")
    tested = {"no-such-package": "3.1", "packaging": "26.3", "other": "1.0"}
    lines = [f"{name}=={version}\n" for name, version in tested.items()]
    (tmp_path / "constraints.txt").write_text(f"# tested\n{''.join(lines)}", encoding="utf-8")
    monkeypatch.setattr(setup, "PROJECT", tmp_path)
    monkeypatch.delenv("COLAB_RELEASE_TAG", raising=False)
    return tmp_path


def list_names(requirements):
    """The names of the packages."""
    return [requirement.name for requirement in requirements]


def test_lessons_need_the_base_and_an_extra_but_no_interface(kit):
    assert list_names(read_requirements("lab")) == ["packaging", "no-such-package"]


def test_requirement_is_unmet_if_the_package_is_missing_or_out_of_its_range():
    lines = ("torch>=2.11,<3", "openai>=3,<4", "trl>=1.16,<1.17", "gguf>=0.17")
    installed = {"torch": "2.11.0+cu128", "openai": "2.8.1", "gguf": "0.18.0rc1"}
    assert list_names(find_unmet([Requirement(line) for line in lines], installed)) == ["openai", "trl"]


def test_set_up_installs_nothing_outside_of_colab_and_names_what_is_missing(kit, monkeypatch):
    monkeypatch.setattr(setup, "run_pip", lambda *_: pytest.fail("pip was called"))
    with pytest.raises(MissingPackageError, match="no-such-package"):
        tutorial.set_up()


def test_everything_that_the_lessons_need_is_here(capsys, monkeypatch):
    monkeypatch.delenv("COLAB_RELEASE_TAG", raising=False)
    tutorial.set_up()
    printed = capsys.readouterr().out
    assert all(printed == read_printed(list_code_cells(read_notebook(path))[0]) for path in PATHS)


def test_package_in_use_is_not_replaced(kit):
    installed = read_installed()
    assert {"torch", "numpy", "packaging", "pytest"} <= find_fixed(installed).keys()
    with pytest.raises(UnsupportedError) as caught:
        install([Requirement("packaging>=999")], installed)
    assert installed["packaging"] in str(caught.value) and "packaging>=999" in str(caught.value)


def test_tested_versions_are_for_what_is_missing(kit):
    tested = read_tested([Requirement("no-such-package")], {"packaging": "24.0"})
    assert tested == {"no-such-package": "3.1", "other": "1.0"}


def test_replaced_torch_is_an_error():
    before = {"torch": "2.12.0", "numpy": "2.4.0"}
    with pytest.raises(MismatchError) as caught:
        describe_change(before, {**before, "torch": "2.13.0"}, 1)
    assert "2.12.0" in str(caught.value) and "2.13.0" in str(caught.value)


def test_other_changes_are_described():
    before = {"torch": "2.12.0", "numpy": "2.4.0", "openai": "2.0"}
    words = describe_change(before, {**before, "openai": "3.54.0", "trl": "1.16.0"}, 61)
    installed, changed, _ = words.splitlines()
    assert "61 s" in installed and "1 packages" in installed
    assert "torch 2.12.0" in installed and "numpy 2.4.0" in installed
    assert "openai 3.54.0" in changed and "2.0" in changed


def test_lane_is_tiny_if_gptq_cannot_be_installed(kit, monkeypatch):
    monkeypatch.setenv("KIT_LANE", "undone at the end")
    monkeypatch.delenv("KIT_LANE")
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    words = add_gptq({})
    assert os.environ["KIT_LANE"] == "tiny" and "tiny" in words and "no-such-reader" in words


@pytest.mark.long
@pytest.mark.skipif(not importlib.util.find_spec("gptqmodel"), reason="gptqmodel is not installed")
def test_gptq_layer_runs_in_a_process_of_its_own():
    assert try_gptq() == ""


def test_package_in_any_version_is_not_absent():
    installed = {name: "0.0.1" for name in read_installed() if name != "jinja2"}
    needed = [Requirement("nbconvert"), Requirement("fastapi")]
    assert list_names(find_absent(needed, installed)) == ["jinja2"]


def test_home_is_the_mounted_drive_even_if_it_is_mounted_later(kit, tmp_path, monkeypatch):
    drive = tmp_path / "MyDrive"
    monkeypatch.setattr(setup, "DRIVE", drive)
    monkeypatch.setenv("OPEN_LLM_KIT_HOME", "")
    choose_home()
    assert os.environ["OPEN_LLM_KIT_HOME"] == str(kit)
    (drive / "open-llm-kit" / "loras" / "mine").mkdir(parents=True)
    words = choose_home()
    assert os.environ["OPEN_LLM_KIT_HOME"] == str(drive / "open-llm-kit") and "loras/mine" in words


# The simulation: about four minutes, most of it pip's.


def relabel(site: Path, name: str, version: str) -> None:
    """Gives an installed distribution another version number and leaves its content as it is.

    No other version of torch is small enough to be installed by a test.
    """
    old = next(site.glob(f"{name}-*.dist-info"))
    text = (old / "METADATA").read_text(encoding="utf-8")
    text = re.sub(r"^Version: .*$", f"Version: {version}", text, count=1, flags=re.MULTILINE)
    (old / "METADATA").write_text(text, encoding="utf-8")
    old.rename(site / f"{name}-{version}.dist-info")


def run(*words: str | Path) -> str:
    """A command's output; the test fails with its errors if it fails."""
    done = subprocess.run([*map(str, words)], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout


def list_versions(python: Path) -> dict[str, str]:
    """{name: version} of what a Python has, as its pip says."""
    entries = json.loads(run(python, "-m", "pip", "list", "--format", "json"))
    return {entry["name"].lower(): entry["version"] for entry in entries}


@pytest.fixture(scope="module")
def runtime(tmp_path_factory):
    """A machine as Colab lends it: a Python with torch, numpy and a kernel, without the kit."""
    folder = tmp_path_factory.mktemp("runtime")
    run(sys.executable, "-m", "venv", folder)
    python = folder / "bin" / "python"
    packages = [f"torch=={read_constraints()['torch']}", f"numpy=={NUMPY}", "ipykernel"]
    run(python, "-m", "pip", "install", "--quiet", *packages)
    relabel(next(folder.glob("lib/python*/site-packages")), "torch", TORCH)
    return python


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    """A bare clone of what is committed here."""
    if not shutil.which("git") or not (PROJECT / ".git").exists():
        pytest.skip("not a git checkout")
    bare = tmp_path_factory.mktemp("source") / "kit.git"
    run("git", "clone", "--quiet", "--bare", PROJECT, bare)
    return bare


@pytest.fixture(scope="module")
def lesson(source):
    """The first lesson, after that commit was published at ADDRESS."""
    project = source.with_name("published")
    run("git", "clone", "--quiet", source, project)
    commit = run("git", "-C", project, "rev-parse", "HEAD").strip()
    publish(Publication(ADDRESS, commit, commit), project)
    return read_notebook(project / "notebooks" / PATHS[0].name)


class Session:
    """A kernel of the runtime in an empty folder; at the kit's address, git finds the bare clone."""

    def __init__(self, python: Path, source: Path, folder: Path, home: Path):
        folder.mkdir(parents=True)
        self.folder = folder
        self.kernels = folder.parent / f"kernels-{folder.name}"
        self.write_kernel(python)
        left_out = ("PYTHONPATH", "VIRTUAL_ENV", "KIT_LANE", "KIT_TASK")
        self.environment = {name: value for name, value in os.environ.items() if name not in left_out}
        self.environment |= {
            "COLAB_RELEASE_TAG": "simulated",
            "OPEN_LLM_KIT_HOME": str(home),
            "HF_HUB_OFFLINE": "1",
            "PATH": f"{python.parent}{os.pathsep}{os.environ['PATH']}",
            "GIT_CONFIG_COUNT": "1",
            "GIT_CONFIG_KEY_0": f"url.file://{source}.insteadOf",
            "GIT_CONFIG_VALUE_0": ADDRESS,
        }

    def write_kernel(self, python: Path) -> None:
        """Makes this Python's kernel the one that is called python3."""
        argv = [str(python), "-m", "ipykernel_launcher", "-f", "{connection_file}"]
        spec = {"argv": argv, "display_name": "lent", "language": "python"}
        (self.kernels / "python3").mkdir(parents=True)
        (self.kernels / "python3" / "kernel.json").write_text(json.dumps(spec), encoding="utf-8")

    def execute(self, cells: list) -> list[str]:
        """What each code cell printed."""
        notebook = nbformat.v4.new_notebook(cells=cells)
        kernels = KernelSpecManager(kernel_dirs=[str(self.kernels)])
        manager = AsyncKernelManager(kernel_name="python3", kernel_spec_manager=kernels)
        folder = {"metadata": {"path": str(self.folder)}}
        client = NotebookClient(notebook, km=manager, timeout=500, resources=folder)
        client.execute(env=self.environment, cleanup_kc=True)
        return [read_printed(cell) for cell in list_code_cells(notebook)]


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_first_lesson_runs_in_a_lent_runtime_and_a_lost_session_finds_its_models(
    runtime, source, lesson, tmp_path
):
    drive = tmp_path / "drive"
    before = list_versions(runtime)
    assert before["torch"] == TORCH and before["numpy"] == NUMPY and "trl" not in before

    printed = Session(runtime, source, tmp_path / "content", drive).execute(lesson.cells)
    assert f"torch {TORCH}" in printed[0] and f"numpy {NUMPY}" in printed[0]
    assert "models/SmolLM2-135M-Instruct" not in printed[0]
    after = list_versions(runtime)
    assert {name: after[name] for name in before} == before
    assert "trl" in after and "jupyterlab" not in after
    weights = drive / "models" / "SmolLM2-135M-Instruct" / "model.safetensors"
    fetched = weights.stat().st_mtime_ns
    assert (tmp_path / "content" / "open-llm-kit" / ".git").is_dir()

    # The session is lost: the next one has another folder, and the same drive.
    fetch = next(i for i, cell in enumerate(lesson.cells) if "weights.fetch(" in cell.source)
    printed = Session(runtime, source, tmp_path / "next", drive).execute(lesson.cells[: fetch + 1])
    assert "Installing" not in printed[0] and "models/SmolLM2-135M-Instruct" in printed[0]
    assert weights.stat().st_mtime_ns == fetched and list_versions(runtime) == after


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_reader_of_gptq_is_added_beside_another_numpy_and_runs_a_layer(runtime, source, lesson, tmp_path):
    before = list_versions(runtime)
    cells = [list_code_cells(lesson)[0], nbformat.v4.new_code_cell(ADD_GPTQ)]
    session = Session(runtime, source, tmp_path / "content", tmp_path / "drive")
    [*_, words] = session.execute(cells)
    assert "KIT_LANE" not in words and "tiny" not in words, words
    after = list_versions(runtime)
    assert {name: after[name] for name in before} == before and "gptqmodel" in after
