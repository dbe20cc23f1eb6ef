"""Versions agree: ranges in pyproject.toml, the tested set in constraints.txt, no pin in any other file."""

import re
import subprocess
from importlib import metadata

import pytest
import yaml
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from packaging.version import Version
from support.pins import read_base, read_constraints, read_extras, read_pyproject

from helpers import PROJECT
from helpers.common.pins import HASHES, read_pins
from helpers.weights.embedded import WHEEL
from tools.pins import EXTRAS as EXTRAS_OF_SETUP

EXTRAS = read_extras()
# `make setup` installs these. The extra `gpu` needs CUDA; constraints.txt is made on a machine without it.
TESTED = [*read_base(), *(found for name, group in EXTRAS.items() if name != "gpu" for found in group)]
BUILD = [Requirement(line) for line in read_pyproject()["build-system"]["requires"]]
ENVIRONMENT = yaml.safe_load((PROJECT / "environment.yml").read_text(encoding="utf-8"))["dependencies"]
PIN = re.compile(r"\b[A-Za-z][\w.-]*(\[[\w,-]+\])?===?\d[\w.]*")
INSTALLED_BY_SETUP = ".[dev,lab,llamacpp,gptq]"
COURSE = """
    jupyterlab ipywidgets nbval matplotlib pandas datasets transformers peft trl
    gptqmodel optimum openai requests
""".split()


def list_names(requirements: list[Requirement]) -> list[str]:
    return [requirement.name for requirement in requirements]


def read_named_packages() -> list[Requirement]:
    """The packages that environment.yml names between the constraints and the kit itself."""
    return [Requirement(line) for line in ENVIRONMENT[-1]["pip"][1:-1]]


@pytest.mark.parametrize("requirement", [*TESTED, *EXTRAS["gpu"], *BUILD], ids=lambda found: found.name)
def test_dependency_has_a_range_with_both_ends(requirement):
    assert sorted(specifier.operator for specifier in requirement.specifier) == ["<", ">="]


@pytest.mark.parametrize("requirement", TESTED, ids=lambda found: found.name)
def test_dependency_is_constrained_within_its_range(requirement):
    assert requirement.specifier.contains(read_constraints()[canonicalize_name(requirement.name)])


@pytest.mark.parametrize("requirement", TESTED, ids=lambda found: found.name)
def test_dependency_is_installed(requirement):
    if requirement.marker and not requirement.marker.evaluate():
        pytest.skip("not for this system")
    assert metadata.version(requirement.name)


def read_installed() -> dict[str, Version]:
    """The installed versions. If a name occurs twice, the first one on the path counts.

    setuptools brings older copies of some packages for its own use.
    """
    distributions = reversed(list(metadata.distributions()))
    return {canonicalize_name(found.name): Version(found.version) for found in distributions}


def test_installed_packages_are_the_constrained_ones():
    constraints, installed = read_constraints(), read_installed()
    shared = constraints.keys() & installed.keys()
    assert {name: Version(installed[name].public) for name in shared} == {
        name: constraints[name] for name in shared
    }


def test_constraints_have_no_local_versions():
    assert [name for name, version in read_constraints().items() if version.local] == []


def test_environment_installs_what_make_setup_installs():
    lines = ENVIRONMENT[-1]["pip"]
    assert lines[0] == "-c constraints.txt" and lines[-1] == f"-e {INSTALLED_BY_SETUP}"
    assert INSTALLED_BY_SETUP == f".[{','.join(EXTRAS_OF_SETUP)}]"


def test_every_constrained_version_has_its_hashes():
    pins = read_pins()
    assert {name: Version(pins[name].version) for name in read_constraints()} == read_constraints()
    assert not [pin.name for pin in pins.values() if not pin.hashes]


def test_every_requirement_of_the_kit_and_of_its_build_has_hashes_in_its_range():
    pins = read_pins()
    wrong = [
        str(found)
        for found in [*TESTED, *BUILD]
        if pins[canonicalize_name(found.name)].version not in found.specifier
    ]
    assert wrong == []


def test_hashes_have_what_other_systems_and_a_cuda_build_of_torch_need():
    assert {"appnope", "pywinpty", "nvidia-cublas", "triton"} <= read_pins().keys()


def test_makefile_asks_the_torch_index_for_torch_alone():
    makefile = (PROJECT / "Makefile").read_text(encoding="utf-8")
    assert "-m tools.install $(if $(TORCH_INDEX),--torch-index $(TORCH_INDEX))" in makefile
    assert "extra-index-url" not in makefile and "pip install" not in makefile


def test_environment_names_no_version_and_only_packages_of_pyproject():
    named = read_named_packages()
    assert [str(requirement) for requirement in named if requirement.specifier] == []
    assert set(list_names(named)) <= set(list_names(TESTED))


def test_environment_has_the_packages_of_the_course():
    assert set(COURSE) <= set(list_names(read_named_packages()))


def test_environment_has_a_python_that_the_project_supports():
    python, pip, _ = ENVIRONMENT
    supported = Requirement(f"python{read_pyproject()['project']['requires-python']}").specifier
    assert pip == "pip" and supported.contains(python.removeprefix("python="))


def list_files() -> list[str]:
    """The files that git knows or would add; the test is skipped outside a checkout."""
    command = ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
    listing = subprocess.run(command, cwd=PROJECT, capture_output=True, text=True)
    if listing.returncode:
        pytest.skip("not a git checkout")
    return sorted(filter(None, listing.stdout.split("\0")))


def test_no_file_pins_a_version_elsewhere():
    pins = []
    vendored = {
        name for name in list_files() if name.startswith("tools/reveal/")
    }  # JavaScript compares with ==
    clients = {f"tests/clients/real/requirements{kind}.txt" for kind in ("", "-instructor")}
    allowed = {"constraints.txt", HASHES, "helpers/weights/embedded.py"} | clients
    for name in set(list_files()) - allowed - vendored:
        try:
            text = (PROJECT / name).read_text(encoding="utf-8")
        except (UnicodeDecodeError, FileNotFoundError, IsADirectoryError):
            continue  # a picture; a file that is deleted but not yet committed; a link to a folder
        if name.endswith(".ipynb"):  # an output may show where the embedded model came from
            text = text.replace(WHEEL, "")
        pins += [(name, match[0]) for match in PIN.finditer(text)]
    assert pins == []


def test_search_for_pins_finds_them():
    for text in ("torch" + "==2.1", "'gptqmodel[x]" + "==7.6.0'", "pip install a-b" + "===3"):
        assert PIN.search(text)
    assert not PIN.search("if x == 1 or len(y)==2: z>=1.0")
