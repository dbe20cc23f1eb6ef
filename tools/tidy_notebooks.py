"""The notebooks' files: one set-up cell and one address in all of them, no trace of a machine or a widget, text pairs in step.

`python -m tools.tidy_notebooks` mends what can be mended; with --check it only says what it would. The repository's address stands in
pyproject.toml, [project.urls], and comes from there into set-up cells, badges and clone lines.
"""

import re
import sys
import tomllib
from pathlib import Path

import nbformat
from nbformat import NotebookNode

from helpers import PROJECT
from helpers.common.command import CommandParser, run_command
from helpers.common.files import replace_when_complete
from helpers.tutorial.notebook_files import clean_notebook

SETUP = """\
# @title Set-up: run this cell first
import importlib.util, os, sys

# Where this Python does not know the kit, it is in the folder above, or git brings it.
if not importlib.util.find_spec("helpers"):
    kit = ".." if os.path.isdir("../helpers") else "open-llm-kit"
    if not os.path.isdir(kit):
        !git clone --quiet --depth 1 {address} {kit}
    sys.path.insert(0, os.path.abspath(kit))

from helpers.tutorial import setup

setup.set_up()"""


TEXT = {"extension": ".py", "format_name": "percent"}


VERSIONS = re.compile(
    r"^# +(format|jupytext)_version: .*\n", flags=re.M
)  # of the program that wrote a text pair: no change of the lesson


BADGE = re.compile(r"https://colab\.research\.google\.com/github/[\w.-]+/[\w.-]+/blob/main/notebooks/")


CLONE = re.compile(
    r"(git clone (?:--quiet )?(?:--depth 1 )?)https://\S+/[\w.-]+(?= (?:\{kit\}|open-llm-kit\b))"
)


PAGES = ("README.md", "notebooks/GUIDE.md")


def read_address() -> str:
    """The repository's address, https://github.com/OWNER/NAME, out of pyproject.toml."""
    return tomllib.loads((PROJECT / "pyproject.toml").read_text(encoding="utf-8"))["project"]["urls"][
        "Repository"
    ]


def build_setup_cell(address: str) -> str:
    """The source of the first code cell of every notebook."""
    return SETUP.replace("{address}", address)


def put_address(text: str, address: str) -> str:
    """A text whose badges and clone lines lead to `address`."""
    text = BADGE.sub(
        f"{address.replace('https://github.com', 'https://colab.research.google.com/github')}/blob/main/notebooks/",
        text,
    )
    return CLONE.sub(rf"\g<1>{address}", text)


def tidy_notebook(notebook: NotebookNode, address: str) -> None:
    """Cleans a notebook and puts set-up cell and address right."""
    clean_notebook(notebook, notebook.metadata)
    for cell in notebook.cells:
        cell.source = put_address(cell.source, address)
    setup = next((cell for cell in notebook.cells if cell.cell_type == "code"), None)
    if setup is not None:
        setup.source = build_setup_cell(address)


def update_from_text(notebook: NotebookNode, path: Path) -> NotebookNode:
    """The notebook with the cells of its text pair when that is the newer file; outputs stay where the source did."""
    text = path.parent / "text" / f"{path.stem}.py"
    if not text.is_file() or text.stat().st_mtime <= path.stat().st_mtime:
        return notebook
    import jupytext  # of the extra dev, which `make tutorial` can do without
    from jupytext.combine import combine_inputs_with_outputs

    return combine_inputs_with_outputs(jupytext.read(text), notebook, fmt=TEXT)


def tidy_pair(path: Path, address: str, check: bool) -> list[str]:
    """Mends a notebook and its text pair; returns the names of the files that were not as they should be."""
    import jupytext

    notebook = update_from_text(nbformat.read(path, as_version=4), path)
    tidy_notebook(notebook, address)
    text = VERSIONS.sub("", jupytext.writes(notebook, fmt=TEXT))
    pair = {path: nbformat.writes(notebook) + "\n", path.parent / "text" / f"{path.stem}.py": text}
    return [file.name for file, content in pair.items() if write_text(file, content, check)]


def write_text(path: Path, content: str, check: bool) -> bool:
    """Writes a file that has another content, unless `check`; True when it had."""
    if path.is_file() and path.read_text(encoding="utf-8") == content:
        return False
    if not check:
        with replace_when_complete(path) as fresh:
            fresh.write_text(content, encoding="utf-8")
    return True


def main(arguments: list[str]) -> int:
    """`python -m tools.tidy_notebooks [--check]`. Exit code 1 when a file was not in order; it is now, unless --check was given."""
    parser = CommandParser(
        prog="python -m tools.tidy_notebooks",
        description="Mends the notebooks' files: set-up cell, address, metadata, text pairs.",
    )
    parser.add_argument("--check", action="store_true", help="only say which files are not in order")
    options = parser.parse_args(arguments)
    address, found = read_address(), []
    for path in sorted((PROJECT / "notebooks").glob("0*.ipynb")):
        found += tidy_pair(path, address, options.check)
    for page in filter(Path.is_file, (PROJECT / name for name in PAGES)):
        found += [page.name] * write_text(
            page, put_address(page.read_text(encoding="utf-8"), address), options.check
        )
    for name in found:
        print(f"{name}: {'not in order' if options.check else 'mended'}", file=sys.stderr)
    return 1 if found else 0


if __name__ == "__main__":
    raise SystemExit(run_command(main))
