"""What is installed was fetched with a known hash, torch too, and as a wheel where there is one."""

import hashlib
import re
import subprocess
import sys
import venv
import zipfile
from pathlib import Path

import pytest

from helpers.common.errors import UsageError
from helpers.common.paths import PROJECT
from helpers.common.pins import SOURCES, read_pin, read_pins
from tools.install import parse_options, sort_pins
from tools.pins import add_hashes

# Installs one package with the command of tools.install into the Python that runs this.
CODE = """
import sys
from helpers.common.command import run_command
from helpers.common.pins import read_pin
from tools import install
line, call = sys.argv[1:3]
run = {"torch": lambda: install.install_torch(read_pin(line)),
       "wheels": lambda: install.install([read_pin(line)], *install.CHECKED)}
raise SystemExit(run_command(lambda _: run[call](), []))
"""


def test_index_of_torch_need_not_be_given():
    assert parse_options([]).torch_index is None
    assert parse_options(["--torch-index", "https://a.b/whl"]).torch_index == "https://a.b/whl"


def test_index_of_torch_is_an_address_of_the_web():
    with pytest.raises(UsageError, match="torch-index"):
        parse_options(["--torch-index", "not a url"])


def test_each_package_is_in_one_step():
    steps = sort_pins(read_pins().values())
    assert sorted(pin.name for step in steps for pin in step) == sorted(read_pins())
    torch, wheels, cuda, sources = ([pin.name for pin in step] for step in steps)
    assert torch == ["torch"] and set(sources) == set(SOURCES)
    assert "nvidia-cublas" in cuda and "transformers" in wheels and "setuptools" in wheels


def test_line_of_a_pin_is_what_pip_takes():
    name = "Some_Package"
    pin = read_pin(f"{name}==1.0 ; sys_platform == 'linux'     --hash=sha256:{'a' * 64}")
    assert pin.name == "some-package" and pin.version == "1.0" and pin.hashes == {"a" * 64}
    assert pin.line == f"{name}==1.0 ; sys_platform == 'linux' --hash=sha256:{'a' * 64}"


def test_hashes_of_another_index_are_added_in_order():
    other, torch = "six", "torch"
    text = f"{other}==1.0 \\\n    --hash=sha256:{'c' * 64}\n{torch}==2.0 \\\n    --hash=sha256:{'b' * 64}\n"
    added = add_hashes(text, "torch", frozenset({"a" * 64}))
    assert re.findall(r"sha256:(.)", added) == ["c", "a", "b"] and added.startswith(text.split("torch")[0])


def make_wheel(folder: Path, name: str) -> Path:
    """A wheel of a package without code."""
    folder.mkdir(exist_ok=True)
    path, info = folder / f"{name}-1.0-py3-none-any.whl", f"{name}-1.0.dist-info"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr(f"{info}/METADATA", f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\n")
        archive.writestr(f"{info}/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n")
        archive.writestr(f"{info}/RECORD", "")
    return path


@pytest.fixture(scope="module")
def python(tmp_path_factory):
    """A Python with pip and nothing else."""
    folder = tmp_path_factory.mktemp("python")
    venv.create(folder, with_pip=True)
    return folder / ("Scripts" if sys.platform == "win32" else "bin") / "python"


@pytest.mark.long
@pytest.mark.parametrize("name", ["torch", "wheels"])
def test_wheel_with_another_hash_is_refused_and_with_its_own_is_installed(
    python, tmp_path, monkeypatch, name
):
    wheel = make_wheel(tmp_path / "wheels", name)
    monkeypatch.setenv("PIP_FIND_LINKS", str(wheel.parent))
    monkeypatch.setenv("PIP_NO_INDEX", "1")

    def call(digest: str) -> subprocess.CompletedProcess:
        command = [python, "-c", CODE, f"{name}==1.0 --hash=sha256:{digest}", name]
        return subprocess.run(command, cwd=PROJECT, capture_output=True, text=True)

    refused = call("0" * 64)
    assert refused.returncode == 2 and "Traceback" not in refused.stderr
    assert call(hashlib.sha256(wheel.read_bytes()).hexdigest()).returncode == 0
    freeze = subprocess.run([python, "-m", "pip", "freeze"], capture_output=True, text=True).stdout
    assert f"{name}==1.0" in freeze.splitlines()
