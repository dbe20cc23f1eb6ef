"""Keeps the lessons' files in order: one set-up cell, one address, no trace of a machine, text pairs in step.

The guide's plan of the talk follows the slides (tools.talk_plan), the README's answers the outputs of lesson 5
(tools.answers_table).

`python -m tools.tidy_notebooks` fixes what can be fixed; with --check it only lists the files. The address of
a published repository is in pyproject.toml, from where it comes into the set-up cells, badges and pages.
"""

import re
import sys
from pathlib import Path

import jupytext
import nbformat
from nbformat import NotebookNode

from helpers.common.command import CommandParser, run_command
from helpers.common.errors import DamagedError
from helpers.common.files import write_text
from helpers.common.paths import PROJECT
from helpers.tutorial.notebook_files import clean_notebook, read_notebook
from tools._private import combine_pair
from tools.answers_table import LESSON, README, put_answers_into_readme
from tools.files import RESTORE, differs, read_source
from tools.publication import (
    PAGES,
    Publication,
    build_setup_cell,
    put_badge,
    put_into_page,
    read_publication,
)
from tools.talk_plan import GUIDE, put_plan_into_guide

TEXT = {"extension": ".py", "format_name": "percent"}  # the format of the text pairs, as jupytext names it
# The versions of the program that wrote a text pair: a new version does not change the lesson.
VERSIONS = re.compile(r"^# +(format|jupytext)_version: .*\n", flags=re.MULTILINE)


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
    files = build_files(PROJECT, read_publication())
    changed = [path for path, text in files.items() if differs(path, text)]
    for path in changed:
        if not options.check:
            write_text(path, files[path])
        print(f"{path.name}: {'not in order' if options.check else 'fixed'}", file=sys.stderr)
    return 1 if changed else 0


def build_files(project: Path, publication: Publication | None) -> dict[Path, str]:
    """What the lessons, their text pairs and the pages with an address should hold: {path: text}."""
    files: dict[Path, str] = {}
    notebooks = sorted((project / "notebooks").glob("0*.ipynb"))
    for notebook in notebooks:
        files |= build_pair(notebook, publication)
    for page in (project / name for name in PAGES):
        if page.is_file():
            files[page] = put_into_page(read_source(page), publication)
    lessons = {path.name: nbformat.reads(files[path], as_version=4) for path in notebooks}
    if (guide := project / GUIDE) in files:
        files[guide] = put_plan_into_guide(files[guide], lessons)
    if (readme := project / README) in files and LESSON in lessons:
        files[readme] = put_answers_into_readme(files[readme], lessons[LESSON])
    return files


def build_pair(path: Path, publication: Publication | None) -> dict[Path, str]:
    """What a lesson's notebook and its text pair should hold: {path: text}."""
    notebook = update_from_text(read_notebook(path), path)
    tidy_notebook(notebook, path.stem, publication)
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
    combined = combine_pair(read_source(pair), notebook, TEXT)
    if not combined.cells:
        raise DamagedError(f"{pair} has no cells.", RESTORE)
    return combined


def tidy_notebook(notebook: NotebookNode, name: str, publication: Publication | None) -> None:
    """Cleans the notebook of the lesson `name`, and corrects its badge and its set-up cell."""
    clean_notebook(notebook, notebook.metadata)
    notebook.cells[0].source = put_badge(notebook.cells[0].source, publication, name)
    code_cells = [cell for cell in notebook.cells if cell.cell_type == "code"]
    if code_cells:
        code_cells[0].source = build_setup_cell(publication)


if __name__ == "__main__":
    raise SystemExit(run_command(main))
