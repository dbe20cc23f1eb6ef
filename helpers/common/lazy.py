"""Rooms that cost nothing to import: what a room's `__init__` lists is imported when it is first asked for.

A room lists its public names once, as imports under `if TYPE_CHECKING:`, where type checkers read them too.
"""

import ast
import importlib
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any


def export_lazily(package: str) -> tuple[Callable[[str], Any], Callable[[], list[str]], list[str]]:
    """`__getattr__`, `__dir__` and `__all__` of a package, from the imports under its `if TYPE_CHECKING:`.

    Example: after `__getattr__, __dir__, __all__ = export_lazily(__name__)`, `helpers.weights.fetch` imports
    `helpers.weights.fetching` the first time. The idea is that of scientific Python's lazy_loader.
    """
    homes = read_exports(Path(sys.modules[package].__file__ or ""))

    def find(name: str) -> Any:
        if name not in homes:
            raise AttributeError(f"module {package!r} has no attribute {name!r}")
        value = getattr(importlib.import_module(homes[name]), name)
        setattr(sys.modules[package], name, value)  # the next time Python finds it by itself
        return value

    return find, lambda: sorted(homes), sorted(homes)


def read_exports(path: Path) -> dict[str, str]:
    """{public name: the module that defines it} of a package's `__init__.py`."""
    guarded = [node for node in ast.parse(path.read_text(encoding="utf-8")).body if isinstance(node, ast.If)]
    imports = [node for block in guarded for node in block.body if isinstance(node, ast.ImportFrom)]
    return {alias.name: node.module or "" for node in imports for alias in node.names}
