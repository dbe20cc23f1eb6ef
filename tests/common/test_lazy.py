"""Packages that import what they export only when it is asked for."""

import importlib
import subprocess
import sys

import pytest

from helpers.common.lazy import read_exports

INIT = '''"""A package."""

from typing import TYPE_CHECKING

from helpers.common.lazy import export_lazily

if TYPE_CHECKING:
    from sleepy.numbers import ONE as ONE
    from sleepy.numbers import TWO as TWO
    from sleepy.words import HELLO as HELLO

__getattr__, __dir__, __all__ = export_lazily(__name__)
'''


@pytest.fixture
def sleepy(tmp_path, monkeypatch):
    """A package with lazy exports from two modules, freshly imported."""
    folder = tmp_path / "sleepy"
    folder.mkdir()
    (folder / "__init__.py").write_text(INIT)
    (folder / "numbers.py").write_text("ONE = 1\nTWO = 2\n")
    (folder / "words.py").write_text("HELLO = 'hello'\n")
    monkeypatch.syspath_prepend(tmp_path)
    yield importlib.import_module("sleepy")
    for name in ("sleepy", "sleepy.numbers", "sleepy.words"):
        sys.modules.pop(name, None)


def test_module_is_imported_when_one_of_its_names_is_asked_for(sleepy):
    assert "sleepy.numbers" not in sys.modules
    assert sleepy.ONE == 1
    assert "sleepy.numbers" in sys.modules and "sleepy.words" not in sys.modules


def test_name_is_looked_up_once(sleepy):
    assert "TWO" not in vars(sleepy)
    assert sleepy.TWO == 2
    assert vars(sleepy)["TWO"] == 2


def test_exports_are_listed(sleepy):
    assert dir(sleepy) == sleepy.__all__ == ["HELLO", "ONE", "TWO"]


def test_name_that_is_not_exported_is_missing(sleepy):
    assert not hasattr(sleepy, "THREE")


def test_names_belong_to_the_modules_that_define_them(sleepy, tmp_path):
    assert read_exports(tmp_path / "sleepy" / "__init__.py") == {
        "ONE": "sleepy.numbers",
        "TWO": "sleepy.numbers",
        "HELLO": "sleepy.words",
    }


def test_room_is_imported_without_the_libraries_behind_it():
    code = (
        "import sys, helpers.common; print('torch' in sys.modules, 'helpers.common.machine' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["False", "False"]
