"""The house: eleven rooms, and a room imports only rooms to its left in tools.rooms.ROOMS."""

import importlib
import subprocess
import sys

import pytest

from helpers.common.lazy import read_exports
from tools.rooms import PACKAGE, ROOMS, find_arrows, list_modules

ALLOWED = {"__init__.py", "py.typed"}


def test_package_holds_the_rooms_and_nothing_beside_them():
    assert {path.name for path in PACKAGE.iterdir() if path.name != "__pycache__"} == {*ROOMS, *ALLOWED}


def test_no_arrow_points_upward():
    assert {
        arrow: by for arrow, by in find_arrows().items() if ROOMS.index(arrow[0]) < ROOMS.index(arrow[1])
    } == {}


@pytest.mark.parametrize("room", ROOMS)
def test_every_exported_name_is_there(room):
    module = importlib.import_module(f"helpers.{room}")
    assert module.__doc__ and [name for name in module.__all__ if not hasattr(module, name)] == []


@pytest.mark.parametrize("room", ROOMS)
def test_no_exported_name_is_hidden_by_a_module_of_that_name(room):
    names = read_exports(PACKAGE / room / "__init__.py")
    assert set(names) & {path.stem for path in list_modules(PACKAGE / room)} == set()


def test_importing_the_rooms_brings_no_heavy_library():
    code = f"import sys, {', '.join(f'helpers.{room}' for room in ROOMS)}\nprint(*sys.modules)"
    loaded = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    ).stdout.split()
    assert {"torch", "transformers", "pandas", "fastapi", "matplotlib", "IPython"} & set(loaded) == set()
