"""The notebooks' files: one set-up cell and one address in all of them, no trace of a machine or a widget, text pairs in step.

`python -m tools.tidy_notebooks` mends what can be mended; with --check it only says what it would. The repository's address stands in
pyproject.toml, [project.urls], and comes from there into set-up cells, badges and clone lines.
"""

import copy

import nbformat
from nbformat import NotebookNode

KERNELSPEC = {"name": "python3", "display_name": "Python 3 (ipykernel)", "language": "python"}


WIDGET = "application/vnd.jupyter.widget-view+json"


def clean_notebook(notebook: NotebookNode, metadata: NotebookNode) -> None:
    """Leaves nothing in an executed notebook that a widget, a clock or this computer wrote: metadata as before, outputs without widgets."""
    notebook.metadata = copy.deepcopy(metadata)
    notebook.metadata.kernelspec = nbformat.from_dict(KERNELSPEC)
    for name in ("widgets", "language_info", "colab", "accelerator"):
        notebook.metadata.pop(name, None)
    for cell in notebook.cells:
        for name in ("execution", "outputId", "colab"):
            cell.metadata.pop(name, None)
        if cell.cell_type == "code":
            cell.outputs = list(filter(take_widget_out, cell.outputs))


def take_widget_out(output: NotebookNode) -> bool:
    """Takes the widget out of an output; False when nothing to read is left, which a panel has in its place."""
    return output.get("data", {}).pop(WIDGET, None) is None or "text/html" in output.data
