"""Copies of the lessons for a class: the exercises and questions are there, their answers are not.

They are made from the lessons themselves. Cells with the tag `solution`, the folded answers below "Check
yourself", all outputs and the speaker's notes are left out.
"""

import re
import shutil
from collections.abc import Callable
from pathlib import Path

import nbformat
from nbformat import NotebookNode

from helpers.common import arguments as types
from helpers.common.command import CommandParser, run_command
from helpers.common.exports import ANOTHER_OUTPUT, is_export, open_export
from helpers.common.outputs import check_output, refuse_kept
from helpers.common.paths import PROJECT, find_home
from helpers.tutorial.notebook_files import clean_notebook, list_notebooks, read_notebook

NOTEBOOKS = PROJECT / "notebooks"
BESIDE = ("glossary.md", "images")  # what the lessons show, or link to

SPEAKER = ("minutes", "speaker")  # in the metadata of cells
SECTION = re.compile(r"^(?=## )", flags=re.MULTILINE)  # where a section of a lesson begins
ANSWER = re.compile(r"\n*<details>.*?</details>", flags=re.DOTALL)
MENTION = re.compile(r"\s*[^.!?]*\bsolutions?\b[^.!?]*[.!?]")  # a sentence about solutions


def main(arguments: list[str]) -> None:
    """`python -m tools.class_copies [--output DIR]`."""
    parser = CommandParser(
        prog="python -m tools.class_copies",
        description="Copies the lessons for a class: without solutions, answers and outputs.",
    )
    parser.add_argument("--output", type=types.path, metavar="DIR", help="default: runs/class")
    target = parser.parse_args(arguments).output or find_home() / "runs" / "class"
    check_output(target, "folder", is_export, remedy=ANOTHER_OUTPUT)
    refuse_kept(target, [NOTEBOOKS])
    names = write_copies(target)
    print(f"{target}: {', '.join(names)}, without solutions, answers and outputs")


def write_copies(target: Path) -> list[str]:
    """Makes the folder `target`, in place of older copies; returns the names of the notebooks.

    Raises AlreadyThereError if anything else is there, even copies that somebody has worked in.
    """
    paths = list_notebooks(NOTEBOOKS)
    with open_export(target) as fresh:
        fresh.mkdir()
        for path in paths:
            text = nbformat.writes(make_copy(read_notebook(path))) + "\n"
            (fresh / path.name).write_text(text, encoding="utf-8")
        for name in BESIDE:
            copy = shutil.copytree if (NOTEBOOKS / name).is_dir() else shutil.copyfile
            copy(NOTEBOOKS / name, fresh / name)
    return [path.stem for path in paths]


def make_copy(notebook: NotebookNode) -> NotebookNode:
    """The notebook for a class; the one that is given changes."""
    clean_notebook(notebook, notebook.metadata)
    notebook.metadata.pop("jupytext", None)  # a copy has no text pair
    notebook.cells = [cell for cell in notebook.cells if "solution" not in cell.metadata.get("tags", [])]
    for cell in notebook.cells:
        for name in SPEAKER:
            cell.metadata.pop(name, None)
        if cell.cell_type == "code":
            cell.outputs, cell.execution_count = [], None
    edit_sections([cell for cell in notebook.cells if cell.cell_type == "markdown"])
    return notebook


def edit_sections(cells: list[NotebookNode]) -> None:
    """Applies EDITS to Markdown cells. A section goes on in the cells below, up to the next heading."""
    heading = ""
    for cell in cells:
        parts = []
        for part in SECTION.split(cell.source):
            if part.startswith("## "):
                heading = part.partition("\n")[0]
            parts.append(EDITS[heading](part) if heading in EDITS else part)
        cell.source = "".join(parts).strip()


def remove_answers(text: str) -> str:
    """Markdown without its folded parts."""
    return ANSWER.sub("", text)


def remove_mentions(text: str) -> str:
    """Markdown without the sentences that speak of solutions."""
    return "\n\n".join(MENTION.sub("", paragraph) for paragraph in text.split("\n\n"))


# What is done to a section, by its heading.
EDITS: dict[str, Callable[[str], str]] = {
    "## Exercises": remove_mentions,
    "## Check yourself": remove_answers,
}

if __name__ == "__main__":
    raise SystemExit(run_command(main))
