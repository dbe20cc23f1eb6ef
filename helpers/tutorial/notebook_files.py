"""Notebooks as files: which there are, how they are read, and what a computer should not leave in them."""

import copy
from pathlib import Path

import nbformat
from nbformat import NotebookNode, ValidationError
from nbformat.reader import NotJSONError

from helpers.common.errors import DamagedError

KERNELSPEC = {"name": "python3", "display_name": "Python 3 (ipykernel)", "language": "python"}
WIDGET = "application/vnd.jupyter.widget-view+json"  # the type of a widget in a cell's output
UNWANTED = ("widgets", "language_info", "colab", "accelerator")  # in a notebook's metadata
UNWANTED_IN_CELLS = ("execution", "outputId", "colab")


def list_lessons(folder: Path, appendices: bool = False) -> list[Path]:
    """The five lessons in a folder such as notebooks/, in their order; 04b is an appendix."""
    return sorted(folder.glob("0*.ipynb" if appendices else "0[0-9]_*.ipynb"))


def list_notebooks(folder: Path) -> list[Path]:
    """The lessons, their appendices, and the page for a learner's own data; nothing that others added."""
    return [*list_lessons(folder, appendices=True), *folder.glob("your_turn.ipynb")]


def read_notebook(path: Path) -> NotebookNode:
    """A notebook in version 4 of its format. Raises a DamagedError for other files, and without cells."""
    try:
        notebook = nbformat.read(path, as_version=4)
    except (NotJSONError, ValidationError, ValueError, LookupError, AttributeError, TypeError):
        notebook = None
    if notebook is None or not notebook.cells:
        raise DamagedError(f"{path} is not a notebook with cells.", "Restore it, with git for example.")
    return notebook


def clean_notebook(notebook: NotebookNode, metadata: NotebookNode) -> None:
    """Cleans an executed notebook in place: outputs without widgets, `metadata` as it was before the run."""
    notebook.metadata = copy.deepcopy(metadata)
    notebook.metadata.kernelspec = nbformat.from_dict(KERNELSPEC)
    for name in UNWANTED:
        notebook.metadata.pop(name, None)
    for cell in notebook.cells:
        for name in UNWANTED_IN_CELLS:
            cell.metadata.pop(name, None)
        if cell.cell_type == "code":
            cell.outputs = [output for output in cell.outputs if remove_widget(output)]


def remove_widget(output: NotebookNode) -> bool:
    """Removes the widget from an output; False if nothing is left to read.

    A panel leaves a sentence and a picture as HTML. Other widgets, such as progress bars, leave nothing.
    """
    data = output.get("data", {})
    widget = data.pop(WIDGET, None)
    return widget is None or "text/html" in data
