"""The lessons' files, as tests read them."""

from pathlib import Path

import nbformat
import pytest
from nbformat import NotebookNode

from helpers.common.paths import PROJECT

NOTEBOOKS = PROJECT / "notebooks"
NAMES = ["01_weights", "02_loading", "03_api", "04_training", "05_lora_loading"]
PATHS = [NOTEBOOKS / f"{name}.ipynb" for name in NAMES]
ALL_PATHS = sorted(NOTEBOOKS.glob("0*.ipynb"))  # the appendix among them

# Runs a test once for each lesson, or for each notebook, with its `path`.
each_lesson = pytest.mark.parametrize("path", PATHS, ids=lambda path: path.stem)
each_notebook = pytest.mark.parametrize("path", ALL_PATHS, ids=lambda path: path.stem)


def read_notebook(path: Path) -> NotebookNode:
    """A notebook."""
    return nbformat.read(path, as_version=4)


def read_lesson(name: str) -> NotebookNode:
    """The notebook of a lesson, such as "03_api"."""
    return read_notebook(NOTEBOOKS / f"{name}.ipynb")


def name_pair(path: Path) -> Path:
    """The path of a notebook's text pair."""
    return path.parent / "text" / f"{path.stem}.py"


def list_code_cells(notebook: NotebookNode) -> list[NotebookNode]:
    """A notebook's code cells."""
    return [cell for cell in notebook.cells if cell.cell_type == "code"]


def list_tagged_cells(notebook: NotebookNode, tag: str) -> list[NotebookNode]:
    """A notebook's cells that have a tag."""
    return [cell for cell in notebook.cells if tag in cell.metadata.get("tags", [])]


def read_slide_type(cell: NotebookNode) -> str | None:
    """A cell's slide type, as its metadata says it."""
    return cell.metadata.get("slideshow", {}).get("slide_type")


def read_markdown(notebook: NotebookNode) -> str:
    """A notebook's Markdown cells as one text."""
    return "\n\n".join(cell.source for cell in notebook.cells if cell.cell_type == "markdown")


def read_printed(cell: NotebookNode) -> str:
    """What a code cell printed."""
    return "".join(output.get("text", "") for output in cell.outputs)
