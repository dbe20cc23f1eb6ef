"""The set-up cell: the same everywhere, one address, and, in a simulated Colab, a first lesson that runs on a machine that had torch and numpy.

Colab itself cannot be had here. The simulation takes what matters of it: a Python of its own with torch and numpy in other versions than the kit's,
a kernel in a folder without the kit, Colab's environment variable, git as the only source (a bare clone of this checkout stands at the address).
"""

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import nbformat
import pytest
from jupyter_client import AsyncKernelManager
from jupyter_client.kernelspec import KernelSpecManager
from nbclient import NotebookClient
from packaging.requirements import Requirement
from support.lessons import PATHS, code_cells, read
from support.pins import read_constraints

from helpers import PROJECT, KitError, tutorial
from helpers.tutorial import setup
from helpers.tutorial.setup import (
    add_gptq,
    choose_home,
    describe_change,
    find_absent,
    find_fixed,
    find_missing,
    install,
    read_installed,
    read_tested,
)
from tools.tidy_notebooks import PAGES, build_setup_cell, put_address, read_address

ADDRESS = read_address()
ADD_GPTQ = "print(setup.add_gptq(setup.find_fixed(setup.read_installed())))"  # what the cell does where there is a GPU
NUMPY, TORCH = "2.4.6", "2.12.9"  # within the kit's ranges, and other than constraints.txt has them


@pytest.mark.parametrize("path", PATHS, ids=lambda path: path.stem)
def test_set_up_cell_and_badge_are_made_of_the_one_address(path):
    notebook = read(path)
    assert code_cells(notebook)[0].source == build_setup_cell(ADDRESS)
    badge = f"{ADDRESS.replace('https://github.com', 'https://colab.research.google.com/github')}/blob/main/notebooks/{path.name}"
    assert f"({badge})" in notebook.cells[0].source


def test_address_stands_in_pyproject_and_elsewhere_only_where_it_is_mended():
    listing = subprocess.run(
        ["git", "grep", "--name-only", "-e", "/".join(ADDRESS.split("/")[-2:])],
        cwd=PROJECT,
        capture_output=True,
        text=True,
    )
    found = set(listing.stdout.split())
    if not found:
        pytest.skip("not a git checkout")
    mended = {
        *PAGES,
        *(f"notebooks/{p.name}" for p in PATHS),
        *(f"notebooks/text/{p.stem}.py" for p in PATHS),
    }
    assert "pyproject.toml" in found and found - {"pyproject.toml"} <= mended


def test_another_address_reaches_badges_and_clone_lines():
    other = "https://github.com/someone/copy.of-it"
    notebook = read(PATHS[0])
    page = put_address(
        "\n".join([build_setup_cell(ADDRESS), notebook.cells[0].source, f"git clone {ADDRESS} open-llm-kit"]),
        other,
    )
    assert ADDRESS.removeprefix("https://github.com/") not in page and page.count("someone/copy.of-it") == 3
    assert put_address(line := "git clone https://github.com/oobabooga/text-generation-webui", other) == line


@pytest.fixture
def kit(tmp_path, monkeypatch):
    """A kit's folder that needs two packages, of which every machine has one."""
    lines = ["packaging>=1", "no-such-package>=3,<4"]
    project = f"[project]\ndependencies = {json.dumps(lines)}\noptional-dependencies = {{ llamacpp = [], gptq = ['no-such-reader>=1'] }}\n"
    (tmp_path / "pyproject.toml").write_text(project, encoding="utf-8")
    tested = {"no-such-package": "3.1", "packaging": "26.3", "other": "1.0"}
    text = "".join(f"{name}=={version}\n" for name, version in tested.items())
    (tmp_path / "constraints.txt").write_text(f"# tested\n{text}", encoding="utf-8")
    monkeypatch.setattr(setup, "PROJECT", tmp_path)
    monkeypatch.delenv("COLAB_RELEASE_TAG", raising=False)
    return tmp_path


def test_only_what_is_missing_or_out_of_its_range_is_missing():
    wanted = [
        Requirement(line) for line in ("torch>=2.11,<3", "openai>=3,<4", "trl>=1.16,<1.17", "gguf>=0.17")
    ]
    installed = {"torch": "2.11.0+cu128", "openai": "2.8.1", "gguf": "0.18.0rc1"}
    assert [str(requirement) for requirement in find_missing(wanted, installed)] == [
        "openai<4,>=3",
        "trl<1.17,>=1.16",
    ]


def test_set_up_says_what_a_kernel_lacks_and_installs_nothing_outside_of_colab(kit):
    with pytest.raises(KitError, match="lacks no-such-package. Take the kernel of `make lab`"):
        tutorial.set_up()


def test_everything_is_here_for_the_lessons(capsys, monkeypatch):
    monkeypatch.delenv("COLAB_RELEASE_TAG", raising=False)
    tutorial.set_up()
    assert capsys.readouterr().out == "All packages that the lessons need are here.\n"


def test_what_is_in_use_is_not_moved(kit):
    installed = read_installed()
    assert {"torch", "numpy", "packaging", "pytest"} <= find_fixed(installed).keys()
    with pytest.raises(
        KitError,
        match=r"has packaging \S+; the kit needs packaging>=999, and it is in use. Choose another runtime",
    ):
        install([Requirement("packaging>=999")], installed)


def test_tested_versions_are_for_what_is_missing(kit):
    assert read_tested([Requirement("no-such-package")], {"packaging": "24.0"}) == {
        "no-such-package": "3.1",
        "other": "1.0",
    }


def test_a_moved_torch_is_an_error_and_another_move_is_told():
    before = {"torch": "2.12.0", "numpy": "2.4.0", "openai": "2.0"}
    with pytest.raises(KitError, match=r"moved torch 2.13.0 \(before: 2.12.0\)"):
        describe_change(before, {**before, "torch": "2.13.0"}, 1)
    words = describe_change(before, {**before, "openai": "3.54.0", "trl": "1.16.0"}, 61)
    assert words.splitlines() == [
        "Installed in 61 s: 1 packages. As they were: torch 2.12.0, numpy 2.4.0.",
        "In another version than before: openai 3.54.0 (before: 2.0).",
        "No restart is needed.",
    ]


def test_lane_is_tiny_with_the_reason_where_gptq_cannot_be_had(kit, monkeypatch):
    monkeypatch.setenv("KIT_LANE", "undone at the end")
    monkeypatch.delenv("KIT_LANE")
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    words = add_gptq({})
    assert (
        words.startswith("GPTQ weights cannot be loaded here, so the lane is tiny: ")
        and "no-such-reader" in words
    )
    assert os.environ["KIT_LANE"] == "tiny"


def test_what_is_here_in_any_version_is_not_absent():
    installed = {name: "0.0.1" for name in read_installed() if name != "jinja2"}
    assert [
        requirement.name
        for requirement in find_absent([Requirement("nbconvert"), Requirement("fastapi")], installed)
    ] == ["jinja2"]


def test_home_is_the_mounted_drive_also_when_it_is_mounted_later(kit, tmp_path, monkeypatch):
    drive = tmp_path / "MyDrive"
    monkeypatch.setattr(setup, "DRIVE", drive)
    monkeypatch.setenv("OPEN_LLM_KIT_HOME", "")
    assert "go when this session ends" in choose_home() and os.environ["OPEN_LLM_KIT_HOME"] == str(kit)
    (drive / "open-llm-kit" / "loras" / "mine").mkdir(parents=True)
    assert choose_home().endswith("there already: loras/mine.")


# The simulation: about four minutes, most of it pip's.


def relabel(site: Path, name: str, version: str) -> None:
    """Gives an installed distribution another version number, its content left as it is: no second torch that is small can be had."""
    old = next(site.glob(f"{name}-*.dist-info"))
    text = (old / "METADATA").read_text(encoding="utf-8")
    (old / "METADATA").write_text(
        re.sub(r"^Version: .*$", f"Version: {version}", text, count=1, flags=re.M), encoding="utf-8"
    )
    old.rename(site / f"{name}-{version}.dist-info")


def run(*words: str | Path, **options) -> str:
    """A command's output; the test fails with its words when it fails."""
    found = subprocess.run([*map(str, words)], capture_output=True, text=True, **options)
    assert found.returncode == 0, found.stderr
    return found.stdout


def list_versions(python: Path) -> dict[str, str]:
    """name -> version of what a Python has, as its pip says."""
    return {
        entry["name"].lower(): entry["version"]
        for entry in json.loads(run(python, "-m", "pip", "list", "--format", "json"))
    }


@pytest.fixture(scope="module")
def runtime(tmp_path_factory):
    """A machine as Colab lends it: a Python with torch, numpy and a kernel, and no kit."""
    folder = tmp_path_factory.mktemp("runtime")
    run(sys.executable, "-m", "venv", folder)
    python = folder / "bin" / "python"
    run(
        python,
        "-m",
        "pip",
        "install",
        "--quiet",
        f"torch=={read_constraints()['torch']}",
        f"numpy=={NUMPY}",
        "ipykernel",
    )
    relabel(next(folder.glob("lib/python*/site-packages")), "torch", TORCH)
    return python


class Session:
    """A kernel of the runtime in an empty folder; git finds a bare clone of this checkout at the address."""

    def __init__(self, python: Path, source: Path, folder: Path, home: Path):
        folder.mkdir(parents=True)
        specs = folder.parent / f"kernels-{folder.name}"
        (specs / "python3").mkdir(parents=True)
        argv = [str(python), "-m", "ipykernel_launcher", "-f", "{connection_file}"]
        (specs / "python3" / "kernel.json").write_text(
            json.dumps({"argv": argv, "display_name": "lent", "language": "python"}), encoding="utf-8"
        )
        self.manager = type(
            "Lent",
            (AsyncKernelManager,),
            {"kernel_spec_manager": KernelSpecManager(kernel_dirs=[str(specs)])},
        )
        self.folder = folder
        away = ("PYTHONPATH", "VIRTUAL_ENV", "KIT_LANE", "KIT_TASK")
        self.environment = {name: value for name, value in os.environ.items() if name not in away} | {
            "COLAB_RELEASE_TAG": "simulated",
            "OPEN_LLM_KIT_HOME": str(home),
            "HF_HUB_OFFLINE": "1",
            "PATH": f"{python.parent}{os.pathsep}{os.environ['PATH']}",
            "GIT_CONFIG_COUNT": "1",
            "GIT_CONFIG_KEY_0": f"url.file://{source}.insteadOf",
            "GIT_CONFIG_VALUE_0": ADDRESS,
        }

    def execute(self, cells: list) -> list[str]:
        """What each code cell printed."""
        notebook = nbformat.v4.new_notebook(cells=cells)
        place = {"metadata": {"path": str(self.folder)}}
        NotebookClient(
            notebook, kernel_name="python3", kernel_manager_class=self.manager, timeout=500, resources=place
        ).execute(env=self.environment)
        return ["".join(output.get("text", "") for output in cell.outputs) for cell in code_cells(notebook)]


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    """A bare clone of what is committed here."""
    if not shutil.which("git") or not (PROJECT / ".git").exists():
        pytest.skip("not a git checkout")
    bare = tmp_path_factory.mktemp("source") / "kit.git"
    run("git", "clone", "--quiet", "--bare", PROJECT, bare)
    return bare


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_first_lesson_runs_in_a_lent_runtime_and_a_lost_session_finds_its_models_again(
    runtime, source, tmp_path
):
    lesson, drive, before = read(PATHS[0]), tmp_path / "drive", list_versions(runtime)
    assert before["torch"] == TORCH and before["numpy"] == NUMPY and "trl" not in before

    printed = Session(runtime, source, tmp_path / "content", drive).execute(lesson.cells)
    assert (
        f"As they were: torch {TORCH}, numpy {NUMPY}." in printed[0] and "No restart is needed." in printed[0]
    )
    assert "there already: nothing." in printed[0]
    after = list_versions(runtime)
    assert {name: after[name] for name in before} == before and "trl" in after and "jupyterlab" not in after
    weights = drive / "models" / "SmolLM2-135M-Instruct" / "model.safetensors"
    fetched = weights.stat().st_mtime_ns
    assert (tmp_path / "content" / "open-llm-kit" / ".git").is_dir()

    fetch = next(
        i for i, cell in enumerate(lesson.cells) if "weights.fetch(" in cell.source
    )  # the session is lost: another folder, the same drive
    printed = Session(runtime, source, tmp_path / "next", drive).execute(lesson.cells[: fetch + 1])
    assert (
        "Installing" not in printed[0]
        and "models/SmolLM2-135M-Instruct" in printed[0].split("there already:")[1]
    )
    assert weights.stat().st_mtime_ns == fetched and list_versions(runtime) == after


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_reader_of_gptq_goes_in_beside_another_numpy_and_runs_a_layer(runtime, source, tmp_path):
    before = list_versions(runtime)
    cells = [code_cells(read(PATHS[0]))[0], nbformat.v4.new_code_cell(ADD_GPTQ)]
    words = Session(runtime, source, tmp_path / "content", tmp_path / "drive").execute(cells)[-1]
    assert (
        words.strip() == "gptqmodel is here and has run a layer: GPTQ weights can be loaded."
    )  # though gptqmodel asks for another numpy
    after = list_versions(runtime)
    assert {name: after[name] for name in before} == before and "gptqmodel" in after
