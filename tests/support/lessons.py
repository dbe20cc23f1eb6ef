"""The lessons' files as tests read them."""

import nbformat

from helpers import PROJECT

PATHS = sorted((PROJECT / "notebooks").glob("0*.ipynb"))
NAMES = ["01_weights", "02_loading", "03_api", "04_training", "05_lora_loading"]


def read(path):
    return nbformat.read(path, as_version=4)


def code_cells(notebook):
    return [cell for cell in notebook.cells if cell.cell_type == "code"]
