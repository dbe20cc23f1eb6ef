"""The structure of the package in numbers: rooms, imports between them, lengths of modules and functions.

`python -m tools.rooms` prints them. tests/house/test_rooms.py checks that no import points upward.
"""

import ast
import statistics
from collections.abc import Iterator
from pathlib import Path

from helpers.common.command import CommandParser, run_command
from helpers.common.errors import DamagedError
from helpers.common.files import read_text

PACKAGE = Path(__file__).resolve().parents[1] / "helpers"

# Lowest first: a room imports only rooms to its left.
ROOMS: list[str] = [
    "common", "weights", "loading", "tasks", "adapters", "generation",
    "training", "server", "clients", "evaluation", "tutorial",
]  # fmt: skip


def main(arguments: list[str]) -> None:
    """Prints the numbers, then a line for each room with the rooms that it imports."""
    parser = CommandParser(
        prog="python -m tools.rooms", description="Prints the structure of the package in numbers."
    )
    parser.parse_args(arguments)
    for name, value in measure().items():
        print(f"{name:40} {value}")
    arrows = find_arrows()
    for room in ROOMS:
        imported = [other for other in ROOMS if (room, other) in arrows]
        print(f"{room:12} <- {' '.join(imported) or 'nothing'}")


def list_modules(package: Path = PACKAGE) -> list[Path]:
    """Every module of the package, sorted."""
    return sorted(package.rglob("*.py"))


def read_source(path: Path) -> str:
    """The text of a module; a DamagedError for one that Python cannot read."""
    source = read_text(path, "Correct it.")
    try:
        ast.parse(source)
    except (SyntaxError, ValueError, RecursionError) as error:  # a ValueError for a NUL character
        line = getattr(error, "lineno", None)
        place = f"Line {line} of {path}" if line else str(path)
        raise DamagedError(f"{place} is not valid Python ({error}).", "Correct it.") from None
    return source


def list_imports(source: str) -> Iterator[str]:
    """Dotted names of the kit's own modules that a source text imports, even inside functions."""
    for node in ast.walk(ast.parse(source)):
        names = []
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            names = [f"{node.module}.{alias.name}" for alias in node.names]
        yield from (name for name in names if name.split(".")[0] == "helpers")


def find_room(dotted: str) -> str | None:
    """The room of a dotted name: "weights" of "helpers.weights.downloads"; None for the package itself."""
    parts = dotted.split(".")
    return parts[1] if len(parts) > 1 and parts[1] in ROOMS else None


def find_arrows(package: Path = PACKAGE) -> dict[tuple[str, str], list[str]]:
    """{(importing room, imported room): the modules that import it}; imports inside a room are left out."""
    arrows: dict[tuple[str, str], list[str]] = {}
    for path in list_modules(package):
        room, *inside = path.relative_to(package).parts
        if not inside:  # a module of the package itself
            continue
        imported = {find_room(name) for name in list_imports(read_source(path))}
        for other in imported - {room, None}:
            arrows.setdefault((room, str(other)), []).append("/".join([room, *inside]))
    return arrows


def list_function_lengths(source: str) -> Iterator[int]:
    """The number of lines of every function in a source text."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            yield (node.end_lineno or node.lineno) - node.lineno + 1


def measure(package: Path = PACKAGE) -> dict[str, object]:
    """The numbers: modules, arrows, arrows upward, lines of modules and functions, long lines."""
    texts = {path: read_source(path) for path in list_modules(package)}
    modules = [len(text.splitlines()) for path, text in texts.items() if path.name != "__init__.py"]
    functions = [length for text in texts.values() for length in list_function_lengths(text)]
    lines = [line for text in texts.values() for line in text.splitlines()]
    arrows = find_arrows(package)
    upward = [arrow for arrow in arrows if ROOMS.index(arrow[0]) < ROOMS.index(arrow[1])]
    return {
        "packages": len({path.parent for path in texts} - {package}),
        "modules": len(modules),
        "arrows between rooms": len(arrows),
        "arrows upward": len(upward),
        "lines a module, median and longest": (statistics.median(modules), max(modules)),
        "lines a function, median and longest": (statistics.median(functions), max(functions)),
        "lines over 100 characters": sum(len(line) > 100 for line in lines),
        "lines over 110 characters": sum(len(line) > 110 for line in lines),
        "lines": len(lines),
    }


if __name__ == "__main__":
    raise SystemExit(run_command(main))
