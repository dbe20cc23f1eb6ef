"""Keeps the lessons' files in order: one set-up cell, one address, no trace of a machine, text pairs in step.

`python -m tools.tidy_notebooks` fixes what can be fixed; with --check it only lists the files. The
repository's address is in pyproject.toml, [project.urls]. From there it comes into the set-up cells, badges
and clone lines.
"""

import re
import sys
from pathlib import Path

import jupytext
import nbformat
from nbformat import NotebookNode

from helpers.common.command import CommandParser, run_command
from helpers.common.files import write_text
from helpers.common.paths import PROJECT
from helpers.tutorial.notebook_files import clean_notebook
from helpers.tutorial.setup import read_project
from tools._private import combine_pair
from tools.files import differs

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

TEXT = {"extension": ".py", "format_name": "percent"}  # the format of the text pairs, as jupytext names it
PAGES = ("README.md", "notebooks/GUIDE.md")  # pages that name the address

# The versions of the program that wrote a text pair: a new version does not change the lesson.
VERSIONS = re.compile(r"^# +(format|jupytext)_version: .*\n", flags=re.MULTILINE)
BADGE = re.compile(r"https://colab\.research\.google\.com/github/[\w.-]+/[\w.-]+/blob/main/notebooks/")
CLONE = re.compile(
    r"(git clone (?:--quiet )?(?:--depth 1 )?)"  # kept
    r"https://\S+/[\w.-]+"  # the address
    r"(?= (?:\{kit\}|open-llm-kit\b))"  # other repositories are cloned into other folders
)


def main(arguments: list[str]) -> int:
    """`python -m tools.tidy_notebooks [--check]`. Returns 1 if a file was not in order, or else 0.

    Without --check, all files are in order afterwards.
    """
    parser = CommandParser(
        prog="python -m tools.tidy_notebooks",
        description="Fixes the lessons' files: set-up cell, address, metadata, text pairs.",
    )
    parser.add_argument("--check", action="store_true", help="only list the files that are not in order")
    options = parser.parse_args(arguments)
    address = read_address()
    files: dict[Path, str] = {}
    for notebook in sorted((PROJECT / "notebooks").glob("0*.ipynb")):
        files |= build_pair(notebook, address)
    for page in (PROJECT / name for name in PAGES):
        if page.is_file():
            files[page] = put_address(page.read_text(encoding="utf-8"), address)
    changed = [path for path, text in files.items() if differs(path, text)]
    for path in changed:
        if not options.check:
            write_text(path, files[path])
        print(f"{path.name}: {'not in order' if options.check else 'fixed'}", file=sys.stderr)
    return 1 if changed else 0


def read_address() -> str:
    """The repository's address, https://github.com/OWNER/NAME, from pyproject.toml."""
    return read_project()["urls"]["Repository"]


def build_setup_cell(address: str) -> str:
    """The source of the first code cell of every lesson."""
    return SETUP.replace("{address}", address)


def put_address(text: str, address: str) -> str:
    """The text, with badges and clone lines that lead to `address`."""
    colab = address.replace("https://github.com", "https://colab.research.google.com/github")
    text = BADGE.sub(f"{colab}/blob/main/notebooks/", text)
    return CLONE.sub(rf"\g<1>{address}", text)


def build_pair(path: Path, address: str) -> dict[Path, str]:
    """What a lesson's notebook and its text pair should hold: {path: text}."""
    notebook = update_from_text(nbformat.read(path, as_version=4), path)
    tidy_notebook(notebook, address)
    text = VERSIONS.sub("", jupytext.writes(notebook, fmt=TEXT))
    return {path: nbformat.writes(notebook) + "\n", name_pair(path): text}


def name_pair(path: Path) -> Path:
    """The path of a notebook's text pair."""
    return path.parent / "text" / f"{path.stem}.py"


def update_from_text(notebook: NotebookNode, path: Path) -> NotebookNode:
    """The notebook, with the cells of its text pair if that is newer; outputs of unchanged cells stay."""
    pair = name_pair(path)
    if not pair.is_file() or pair.stat().st_mtime <= path.stat().st_mtime:
        return notebook
    return combine_pair(pair.read_text(encoding="utf-8"), notebook, TEXT)


def tidy_notebook(notebook: NotebookNode, address: str) -> None:
    """Cleans a notebook, and corrects its set-up cell and addresses."""
    clean_notebook(notebook, notebook.metadata)
    for cell in notebook.cells:
        cell.source = put_address(cell.source, address)
    code_cells = [cell for cell in notebook.cells if cell.cell_type == "code"]
    if code_cells:
        code_cells[0].source = build_setup_cell(address)


if __name__ == "__main__":
    raise SystemExit(run_command(main))
