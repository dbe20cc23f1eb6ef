"""pyproject.toml (ranges), constraints.txt (the tested set) and environment.yml (conda) say the same, and nothing else says a version."""

import ast
import re
import subprocess
import sys
import tomllib
from importlib import metadata
from pathlib import Path

import pytest
import yaml
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from packaging.version import Version
from support.pins import read_constraints

from helpers import PROJECT
from helpers.weights.embedded import WHEEL

PYPROJECT = tomllib.loads((PROJECT / "pyproject.toml").read_text(encoding="utf-8"))
BASE = [Requirement(line) for line in PYPROJECT["project"]["dependencies"]]
EXTRAS = {
    name: [Requirement(line) for line in lines]
    for name, lines in PYPROJECT["project"]["optional-dependencies"].items()
}
# `make setup` installs these; the extra `gpu` needs CUDA, which the machine that the constraints are made on does not have.
TESTED = [
    *BASE,
    *(requirement for name, requirements in EXTRAS.items() if name != "gpu" for requirement in requirements),
]
RANGES = [*TESTED, *EXTRAS["gpu"], *map(Requirement, PYPROJECT["build-system"]["requires"])]
ENVIRONMENT = yaml.safe_load((PROJECT / "environment.yml").read_text(encoding="utf-8"))["dependencies"]
PIN = re.compile(r"\b[A-Za-z][\w.-]*(\[[\w,-]+\])?===?\d[\w.]*")


def names(requirements) -> list[str]:
    return [str(requirement.name) for requirement in requirements]


@pytest.mark.parametrize("requirement", RANGES, ids=names(RANGES))
def test_dependency_has_a_range_with_both_ends(requirement):
    assert sorted(specifier.operator for specifier in requirement.specifier) == ["<", ">="]


@pytest.mark.parametrize("requirement", TESTED, ids=names(TESTED))
def test_dependency_is_constrained_within_its_range(requirement):
    assert requirement.specifier.contains(read_constraints()[canonicalize_name(requirement.name)])


@pytest.mark.parametrize("requirement", TESTED, ids=names(TESTED))
def test_dependency_is_installed(requirement):
    if requirement.marker and not requirement.marker.evaluate():
        pytest.skip("not for this system")
    assert metadata.version(requirement.name)


def read_installed():
    """Installed versions; the first one on the path counts, since setuptools brings older copies of some packages for itself."""
    return {canonicalize_name(d.name): Version(d.version) for d in reversed(list(metadata.distributions()))}


def test_installed_packages_are_the_constrained_ones():
    constraints, installed = read_constraints(), read_installed()
    shared = constraints.keys() & installed.keys()
    assert {name: Version(installed[name].public) for name in shared} == {
        name: constraints[name] for name in shared
    }


def test_constraints_have_no_local_versions():
    assert not [name for name, version in read_constraints().items() if version.local]


def test_environment_installs_with_the_constraints_and_all_extras_of_the_setup():
    lines = ENVIRONMENT[-1]["pip"]
    assert lines[0] == "-c constraints.txt" and lines[-1] == "-e .[dev,llamacpp,gptq]"
    assert "pip install" not in str(lines) and ".[dev,llamacpp,gptq]" in (PROJECT / "Makefile").read_text(
        encoding="utf-8"
    )


def test_environment_names_no_version_and_only_packages_of_pyproject():
    requirements = [Requirement(line) for line in ENVIRONMENT[-1]["pip"][1:-1]]
    assert not [str(requirement) for requirement in requirements if requirement.specifier]
    assert set(names(requirements)) <= set(names(TESTED))


def test_environment_has_the_packages_of_the_course():
    course = "jupyterlab ipywidgets nbval transformers peft trl datasets pandas matplotlib openai requests gptqmodel optimum".split()
    assert set(course) <= {Requirement(line).name for line in ENVIRONMENT[-1]["pip"][1:-1]}


def test_environment_has_a_python_that_the_project_supports():
    python = Requirement(f"python{PYPROJECT['project']['requires-python']}").specifier
    assert ENVIRONMENT[:2] == [f"python={(version := '3.11')}", "pip"] and python.contains(version)


def find_imports() -> set[str]:
    """Top-level names of the modules that the package imports from elsewhere."""
    nodes = [
        node
        for path in (PROJECT / "helpers").rglob("*.py")
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
    ]
    modules = [alias.name for node in nodes if isinstance(node, ast.Import) for alias in node.names]
    modules += [
        node.module for node in nodes if isinstance(node, ast.ImportFrom) and node.module and not node.level
    ]
    return {module.split(".")[0] for module in modules} - set(sys.stdlib_module_names) - {"helpers"}


def test_every_import_of_the_package_is_a_declared_dependency():
    declared = {canonicalize_name(requirement.name) for requirement in [*TESTED, *EXTRAS["gpu"]]}
    distributions = metadata.packages_distributions()
    assert not [
        module
        for module in find_imports()
        if not declared & set(map(canonicalize_name, distributions.get(module, [])))
    ]


def test_commands_of_the_readme_are_in_the_makefile():
    commands = set(re.findall(r"\bmake ([a-z][a-z-]*)", "\n".join(find_code(PROJECT / "README.md"))))
    targets = set(
        re.findall(
            r"^([a-z][a-z-]*):", (PROJECT / "Makefile").read_text(encoding="utf-8"), flags=re.MULTILINE
        )
    )
    assert {"setup", "tutorial", "lab", "test", "test-slow", "clean", "help"} <= targets
    assert commands and commands <= targets


def find_code(page: Path) -> list[str]:
    """Fenced blocks and code spans of a Markdown page: prose such as "make a copy" is no command."""
    return [
        fenced or span
        for fenced, span in re.findall(
            r"```\w*\n(.*?)```|`([^`\n]+)`", page.read_text(encoding="utf-8"), flags=re.DOTALL
        )
    ]


def test_no_file_pins_a_version_elsewhere():
    listing = subprocess.run(
        ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
        cwd=PROJECT,
        capture_output=True,
        text=True,
    )
    if listing.returncode:
        pytest.skip("not a git checkout")
    pins = []
    for name in sorted(
        set(filter(None, listing.stdout.split("\0"))) - {"constraints.txt", "helpers/weights/embedded.py"}
    ):
        try:
            text = (PROJECT / name).read_text(encoding="utf-8")
        except (UnicodeDecodeError, FileNotFoundError):  # a picture; a file deleted and not yet committed
            continue
        if name.endswith(".ipynb"):  # an output may show where the embedded model came from
            text = text.replace(WHEEL, "")
        pins += [f"{name}: {match[0]}" for match in PIN.finditer(text)]
    assert not pins


def test_search_for_pins_finds_them():
    for text in ("torch" + "==2.1", "'gptqmodel[x]" + "==7.6.0'", "pip install a-b" + "===3"):
        assert PIN.search(text)
    assert not PIN.search("if x == 1 or len(y)==2: z>=1.0")
