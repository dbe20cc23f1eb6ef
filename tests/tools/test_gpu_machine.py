"""What is carried to a bare machine with a GPU is all that the benchmark imports, in the tested versions."""

import subprocess
import sys

import pytest
from packaging.utils import canonicalize_name

from benchmarks.gpu.plan import HEAD, LLAMA_2, TOKENIZER
from helpers.common.paths import PROJECT
from helpers.common.pins import read_pins
from tools import gpu_machine

# Prints the packages of all modules that the worker and lesson jobs have imported.
LIST_IMPORTED = """
import sys
from importlib.metadata import packages_distributions
from benchmarks.gpu import worker
worker.import_ahead()
import optimum.gptq
owners = packages_distributions()
print(*{name for module in list(sys.modules) for name in owners.get(module.partition(".")[0], [])})
"""


NOT_NEEDED = {
    *"open-llm-kit pip setuptools pytest iniconfig pluggy".split(),
    # jsonschema checks more formats where these are installed.
    *"arrow fqdn isoduration jsonpointer lark rfc3987-syntax uri-template webcolors".split(),
    # setuptools has copies of its own.
    *"backports-tarfile jaraco-context jaraco-functools jaraco-text more-itertools".split(),
}


def test_list_has_the_versions_of_constraints_and_nothing_that_comes_with_torch():
    carried = gpu_machine.list_carried({}, lessons=True)
    versions = {name: pin.version for name, pin in read_pins().items()}
    assert all(versions[name] == version for name, version in (pin.split("==") for pin in carried))
    names = {pin.partition("==")[0] for pin in carried}
    assert {"transformers", "trl", "peft", "gptqmodel", "pypcre", "multiprocess", "nbclient"} <= names
    assert not {"torch", "triton", "sympy", "fsspec", "open-llm-kit", "pytest"} & names


def test_what_the_machine_has_in_a_fitting_version_is_left_out(tmp_path):
    freeze = tmp_path / "freeze.txt"
    there = {"numpy": "1.26.0", "pandas": "2.3.0", "transformers": "5.17.0", "peft": "0.21.2"}
    pins = ["==".join(pin) for pin in there.items()]
    freeze.write_text("\n".join([*pins, "own @ file:///x", ""]))
    carried = gpu_machine.list_carried(gpu_machine.read_freeze(freeze), lessons=False)
    names = {pin.partition("==")[0] for pin in carried}
    assert {"numpy", "transformers"} <= names  # gptqmodel asks for another; the kit for the very version
    assert not {"pandas", "peft"} & names


def test_source_packages_are_listed_apart():
    wheels, built = gpu_machine.split_built(gpu_machine.list_carried({}, lessons=False))
    assert {pin.partition("==")[0] for pin in built} == set(gpu_machine.SOURCES)
    assert not {pin.partition("==")[0] for pin in wheels} & set(gpu_machine.SOURCES)


@pytest.mark.long
def test_all_that_the_jobs_import_is_carried_or_comes_with_torch():
    pytest.importorskip("gptqmodel", reason="gptqmodel is for Linux: pip install -e '.[gptq]'")
    command = [sys.executable, "-c", LIST_IMPORTED]
    done = subprocess.run(command, capture_output=True, text=True, cwd=PROJECT)
    assert done.returncode == 0, done.stderr
    imported = {canonicalize_name(name) for name in done.stdout.splitlines()[-1].split()}
    known = set(gpu_machine.collect([gpu_machine.THERE]))
    known |= {pin.partition("==")[0] for pin in gpu_machine.list_carried({}, lessons=True)}
    assert imported - known - NOT_NEEDED == set()


def test_folder_has_the_lists_and_says_what_is_missing(tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("OPEN_LLM_KIT_HOME", str(tmp_path))
    monkeypatch.setattr(gpu_machine, "LLAMA_FILES", tmp_path)
    llama = tmp_path / "llama2-1.0"
    llama.mkdir()
    (llama / "tokenizer.json").write_text("{}")
    gpu_machine.main([str(tmp_path / "carried")])
    folder, said = tmp_path / "carried", capsys.readouterr().out
    assert (folder / LLAMA_2 / "tokenizer.json").is_file()
    assert (
        f"transformers=={read_pins()['transformers'].version}" in (folder / "wheels.txt").read_text().split()
    )
    assert f"do without: {TOKENIZER}/tokenizer.json, {HEAD}" in said
    assert "python3 -m benchmarks.gpu --carried carried" in said
