"""The base of the package is enough: commands, the embedded model and a training run, without any extra.

The package is installed as a user installs it, from a copy of its sources into an empty virtual environment.
That takes minutes, and a package index.
"""

import json
import os
import shutil
import subprocess
import sys
import venv
from dataclasses import dataclass
from pathlib import Path

import pytest
from packaging.utils import canonicalize_name
from support.pins import read_base, read_extras

from helpers import PROJECT

pytestmark = [pytest.mark.long, pytest.mark.timeout(1500)]

SOURCES = ("pyproject.toml", "README.md", "LICENSE", "helpers")
INSTALL = ("-m", "pip", "install", "--quiet", "--disable-pip-version-check")
# Variables that lead to the checkout and its settings.
LEFT_OUT = ("PYTHONPATH", "VIRTUAL_ENV", "OPEN_LLM_KIT_HOME", "KIT_LANE")
MODEL = "SmolLM2-135M-Instruct"
COMMANDS = ("weights", "adapters", "training", "server", "evaluation")
SETTINGS = "max_rows: 16\nepochs: 1\nbatch_size: 8\nlora_r: 8\n"


@dataclass
class Installation:
    """A virtual environment with the base of the kit, and a home that nothing else uses."""

    python: Path
    home: Path

    def run(self, *words: str | Path) -> str:
        """What Python prints for these arguments; the test fails if its exit code is not 0."""
        kept = {name: value for name, value in os.environ.items() if name not in LEFT_OUT}
        environment = {**kept, "OPEN_LLM_KIT_HOME": str(self.home), "HF_HUB_OFFLINE": "1"}
        command = [str(self.python), *map(str, words)]
        done = subprocess.run(command, cwd=self.home, env=environment, capture_output=True, text=True)
        assert done.returncode == 0, f"{' '.join(map(str, words))}\n{done.stderr[-3000:]}"
        return done.stdout


def skip_without_index(folder: Path) -> None:
    """Skips the test if pip cannot download a small package of the base."""
    wanted = next(str(requirement) for requirement in read_base() if requirement.name == "filelock")
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--dest", str(folder), wanted]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        pytest.skip(f"no package index can be reached: {done.stderr.strip().splitlines()[-1]}")


def copy_sources(folder: Path) -> Path:
    """A copy of what the package is built from, so that the build leaves nothing in the checkout."""
    folder.mkdir()
    for name in SOURCES:
        if (PROJECT / name).is_dir():
            shutil.copytree(PROJECT / name, folder / name, ignore=shutil.ignore_patterns("__pycache__"))
        else:
            shutil.copy(PROJECT / name, folder / name)
    return folder


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    """The installed base; its 2 GB are deleted afterwards."""
    folder = tmp_path_factory.mktemp("base")
    skip_without_index(folder / "download")
    venv.create(folder / "venv", with_pip=True)
    (folder / "home").mkdir()
    binaries = "Scripts" if os.name == "nt" else "bin"
    installation = Installation(folder / "venv" / binaries / "python", folder / "home")
    installation.run(*INSTALL, "-c", PROJECT / "constraints.txt", copy_sources(folder / "project"))
    yield installation
    shutil.rmtree(folder)


def test_installed_base_has_nothing_that_only_an_extra_names(base):
    listing = json.loads(base.run("-m", "pip", "list", "--format", "json", "--disable-pip-version-check"))
    installed = {canonicalize_name(entry["name"]) for entry in listing}
    extras = {canonicalize_name(found.name) for group in read_extras().values() for found in group}
    brought_by_the_base = {"accelerate", "packaging"}  # peft and transformers depend on them
    assert "open-llm-kit" in installed and installed & extras <= brought_by_the_base


def test_installed_package_has_its_marker_of_type_hints(base):
    place = base.run("-c", "import helpers; print(helpers.__file__)").strip()
    assert "site-packages" in place and Path(place).with_name("py.typed").is_file()


def test_installed_package_has_the_chat_formats_and_characters_of_the_raw_api(base):
    code = "from helpers.server import raw_templates; print({})"
    assert "turn=" in base.run("-c", code.format("raw_templates.load_instruct('Alpaca')"))
    assert base.run("-c", code.format("raw_templates.load_character('Assistant')[1]")).strip()


@pytest.mark.parametrize("command", COMMANDS)
def test_command_of_the_base_prints_its_help(base, command):
    assert f"helpers.{command}" in base.run("-m", f"helpers.{command}", "--help")


def test_base_fetches_the_embedded_model_and_trains_a_lora_on_it(base):
    base.run("-m", "helpers.weights", "fetch", MODEL.lower())
    (base.home / "settings.yaml").write_text(SETTINGS, encoding="utf-8")
    data = PROJECT / "data" / "college_preferences" / "dataset.csv"
    template = PROJECT / "templates" / "college_preferences.yaml"
    inputs = ("--model", MODEL, "--data", data, "--template", template, "--settings", "settings.yaml")
    base.run("-m", "helpers.training", *inputs, "--output", "loras/mine")
    lora = base.home / "loras" / "mine"
    run = json.loads((lora / "run.json").read_text(encoding="utf-8"))
    assert run["rows"] == 16 and (lora / "adapter_model.safetensors").is_file()
