"""The guide's plan of the talk: minutes and slides of each lesson, read from the slides themselves.

`python -m tools.tidy_notebooks` writes the table, and everything else that follows from the lessons.
"""

import re
from collections.abc import Mapping

from nbformat import NotebookNode

from tools.slide_notes import TALK_MINUTES
from tools.slides import list_minutes

GUIDE = "notebooks/GUIDE.md"
BLOCK = re.compile(r"(<!-- talk -->\n).*?(<!-- end of talk -->)", re.DOTALL)
HEAD = ["| minutes | lesson | slides, with their minutes |", "|---|---|---|"]


def put_plan_into_guide(text: str, lessons: Mapping[str, NotebookNode]) -> str:
    """The guide, with the table between its two comments; `lessons` are {file name: notebook}, in order."""
    table = "\n".join(build_plan(lessons))
    return BLOCK.sub(lambda found: f"{found[1]}{table}\n{found[2]}", text)


def build_plan(lessons: Mapping[str, NotebookNode]) -> list[str]:
    """The lines of the table: one for each notebook that has slides, and one for questions."""
    lines, left = list(HEAD), float(TALK_MINUTES)
    for name, notebook in lessons.items():
        if minutes := list_minutes(notebook):
            title = read_heading(notebook.cells[0])
            left -= sum(minutes)
            lines.append(f"| {sum(minutes):g} | [{title}]({name}) | {describe_slides(notebook, minutes)} |")
    return [*lines, f"| {left:g} | Questions | What you have seen |"]


def describe_slides(notebook: NotebookNode, minutes: list[float]) -> str:
    """The headings of a lesson's slides, each with its minutes; its first slide shows the title."""
    cells = [cell for cell in notebook.cells if "speaker" in cell.metadata]
    names = ["Title" if cell is notebook.cells[0] else read_heading(cell) for cell in cells]
    return "; ".join(f"{name} ({number:g})" for name, number in zip(names, minutes, strict=True))


def read_heading(cell: NotebookNode) -> str:
    """The heading that a cell begins with, as a cell of a table can hold it."""
    words = cell.source.splitlines()[0].lstrip("# ")
    return re.sub(r"\[([^\]]*)\]\([^)]*\)", r"\1", words).replace("|", r"\|")
