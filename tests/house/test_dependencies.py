"""Each part of the project imports only what is declared for it, and the base declares nothing else."""

import ast
import importlib.util
from collections.abc import Iterator
from importlib import metadata
from pathlib import Path
from sys import stdlib_module_names

import pytest
from packaging.utils import canonicalize_name
from support.pins import read_base, read_extras

from helpers import PROJECT
from tools.rooms import ROOMS

MOST_IN_THE_BASE = 29
# Rooms of the base import these inside functions that handle their absence.
OPTIONAL = {"xllamacpp", "gptqmodel", "optimum", "bitsandbytes", "tensorboard", "openpyxl"}
OWN = {"helpers", "tools", "benchmarks", "support"}
BASE_ROOMS = [room for room in ROOMS if room != "tutorial"]
# Folder or file -> the extras that it may import besides the base.
EXTRAS_OF = {
    "helpers/__init__.py": (),
    **{f"helpers/{room}": () for room in BASE_ROOMS},
    "helpers/tutorial": ("lab",),
    "benchmarks": (),
    "tools": ("lab", "dev"),
    "tests": ("lab", "dev"),
}


def is_for_type_checkers(node: ast.AST) -> bool:
    """True for `if TYPE_CHECKING:`, whose imports are never executed."""
    return isinstance(node, ast.If) and ast.unparse(node.test).endswith("TYPE_CHECKING")


def name_modules(node: ast.AST) -> list[str]:
    """The modules that a statement imports by name, or that `import_module("name")` imports."""
    if isinstance(node, ast.Import):
        return [alias.name for alias in node.names]
    if isinstance(node, ast.ImportFrom) and node.module and not node.level:
        return [node.module]
    if isinstance(node, ast.Call) and ast.unparse(node.func).endswith("import_module") and node.args:
        first = node.args[0]
        return [first.value] if isinstance(first, ast.Constant) and isinstance(first.value, str) else []
    return []


def find_imports(node: ast.AST, in_function: bool = False) -> Iterator[tuple[str, bool]]:
    """Each import at or below `node`: (top-level name of the module, whether it is inside a function)."""
    for module in name_modules(node):
        yield module.split(".")[0], in_function
    if is_for_type_checkers(node):
        return
    inside = in_function or isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda)
    for child in ast.iter_child_nodes(node):
        yield from find_imports(child, inside)


def find_third_party(place: Path) -> set[tuple[str, bool]]:
    """`find_imports` of a file or of a folder's files, without the standard library and our own modules."""
    found = set()
    for path in [place] if place.is_file() else place.rglob("*.py"):
        found |= set(find_imports(ast.parse(path.read_text(encoding="utf-8"))))
    return {(module, inside) for module, inside in found if module not in stdlib_module_names | OWN}


def list_declared(*extras: str) -> set[str]:
    """Canonical names of the base and of these extras."""
    declared = list(read_base())
    for extra in extras:
        declared += read_extras()[extra]
    return {canonicalize_name(requirement.name) for requirement in declared}


@pytest.fixture(scope="module")
def distributions():
    """Top-level module -> canonical names of the installed distributions that have it."""
    found = metadata.packages_distributions()
    return {module: {canonicalize_name(name) for name in names} for module, names in found.items()}


@pytest.mark.parametrize("place", EXTRAS_OF)
def test_everything_imported_is_declared(place, distributions):
    declared = list_declared(*EXTRAS_OF[place])
    undeclared = set()
    for module, inside in find_third_party(PROJECT / place):
        if place == "tests" and importlib.util.find_spec(module) is None:
            continue  # a module that a test writes for itself
        owners = distributions.get(module, {canonicalize_name(module)})
        if not owners & declared and not (inside and module in OPTIONAL):
            undeclared.add(module)
    assert undeclared == set()


def test_base_is_small():
    assert len(read_base()) <= MOST_IN_THE_BASE


def test_base_holds_only_what_its_rooms_import(distributions):
    used = set()
    for room in BASE_ROOMS:
        for module, _ in find_third_party(PROJECT / "helpers" / room):
            used |= distributions.get(module, set())
    assert list_declared() - used == set()


def test_optional_packages_are_in_an_extra():
    assert OPTIONAL <= list_declared(*read_extras()) - list_declared()


def test_search_for_imports_finds_every_form():
    code = """
from typing import TYPE_CHECKING
import one.part, two
from three.part import name
from . import neighbour
if TYPE_CHECKING:
    import never
def load():
    import four
    return importlib.import_module("five.part"), importlib.import_module(name)
"""
    found = set(find_imports(ast.parse(code)))
    assert found == {
        ("typing", False),
        ("one", False),
        ("two", False),
        ("three", False),
        ("four", True),
        ("five", True),
    }
