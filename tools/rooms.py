"""The structure of the package in numbers: rooms, the arrows between them, and how long modules and functions are.

`python -m tools.rooms` prints them. tests/house/test_rooms.py holds the order of the rooms.
"""

import argparse
import ast
import statistics
from collections.abc import Iterator
from pathlib import Path

PACKAGE = Path(__file__).resolve().parents[1] / "helpers"
# Lowest first: a room imports only rooms to its left.
ROOMS = """
    common weights loading tasks adapters generation training server clients evaluation tutorial
""".split()


def list_modules(package: Path = PACKAGE) -> list[Path]:
    """Every module of the package, sorted."""
    return sorted(package.rglob("*.py"))


def list_imports(source: str) -> Iterator[str]:
    """Dotted names of the kit's own modules that a source text imports, also inside functions."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] == "helpers":
            yield from (f"{node.module}.{alias.name}" for alias in node.names)
        elif isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names if alias.name.split(".")[0] == "helpers")


def find_room(dotted: str) -> str | None:
    """The room of a dotted name: "weights" of "helpers.weights.hub"; None for the package itself."""
    parts = dotted.split(".")
    return parts[1] if len(parts) > 1 and parts[1] in ROOMS else None


def find_arrows(package: Path = PACKAGE) -> dict[tuple[str, str], list[str]]:
    """{(importing room, imported room): modules that import it}; arrows inside a room are left out."""
    arrows: dict[tuple[str, str], list[str]] = {}
    for path in list_modules(package):
        parts = path.relative_to(package).parts
        if len(parts) < 2:
            continue
        for room in {find_room(name) for name in list_imports(path.read_text(encoding="utf-8"))}:
            if room not in (None, parts[0]):
                arrows.setdefault((parts[0], room), []).append("/".join(parts))
    return arrows


def measure(package: Path = PACKAGE) -> dict[str, object]:
    """The numbers: modules, arrows, arrows upward, lines of modules and functions, long lines."""
    texts = {path: path.read_text(encoding="utf-8") for path in list_modules(package)}
    modules = [len(text.splitlines()) for path, text in texts.items() if path.name != "__init__.py"]
    functions = [
        (node.end_lineno or node.lineno) - node.lineno + 1
        for text in texts.values()
        for node in ast.walk(ast.parse(text))
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
    ]
    lines = [line for text in texts.values() for line in text.splitlines()]
    arrows = find_arrows(package)
    return {
        "packages": len({path.parent for path in texts} - {package}),
        "modules": len(modules),
        "arrows between rooms": len(arrows),
        "arrows upward": sum(ROOMS.index(one) < ROOMS.index(other) for one, other in arrows),
        "lines a module, median and longest": (statistics.median(modules), max(modules)),
        "lines a function, median and longest": (statistics.median(functions), max(functions)),
        "lines over 100 characters": sum(len(line) > 100 for line in lines),
        "lines over 110 characters": sum(len(line) > 110 for line in lines),
        "lines": len(lines),
    }


def main() -> None:
    """Prints the numbers, then a line for each room with the rooms that it imports."""
    argparse.ArgumentParser(
        prog="python -m tools.rooms", description=(__doc__ or "").split("\n")[0]
    ).parse_args()
    for name, value in measure().items():
        print(f"{name:40} {value}")
    arrows = find_arrows()
    for room in ROOMS:
        print(f"{room:12} <- {' '.join(other for other in ROOMS if (room, other) in arrows) or 'nothing'}")


if __name__ == "__main__":
    main()
