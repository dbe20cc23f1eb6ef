"""The page for a learner's own data: kept in order like a lesson, and run from top to bottom."""

import re
import statistics

import jupytext
import nbformat
import pytest
from support.lessons import (
    NOTEBOOKS,
    PATHS,
    list_code_cells,
    list_tagged_cells,
    name_pair,
    read_markdown,
    read_notebook,
)
from support.tiny import make_tiny_model

from helpers.common.lanes import LANES
from helpers.tutorial.execution import execute_notebook, find_notebooks
from helpers.tutorial.notebook_files import list_notebooks

PAGE = NOTEBOOKS / "your_turn.ipynb"
LABELS = """
name, data, template = "mine", "data/repair_notes/dataset.csv", "templates/repair_notes.yaml"
source, licence = "a café", "CC BY 4.0"
rows_to_train, passes, rows_to_judge = 18, 1, 8
"""
FREE_ANSWERS = """
name, data, template = "mine", "data/clock_house/dataset.csv", None
source, licence = "a museum", "CC BY 4.0"
rows_to_train, passes, rows_to_judge = 18, 1, 8
"""
LINES = {
    LABELS: ["majority", "bag of words", "base", "LoRA"],
    FREE_ANSWERS: ["most frequent answer", "nearest neighbour", "base", "LoRA"],
}


def test_page_is_kept_in_order_and_is_not_a_lesson():
    assert PAGE in list_notebooks(NOTEBOOKS) and PAGE not in PATHS
    assert PAGE not in find_notebooks([])


def test_page_and_its_text_pair_are_in_step():
    cells = [(cell.cell_type, cell.source.strip()) for cell in read_notebook(PAGE).cells]
    pair = jupytext.read(name_pair(PAGE))
    assert cells == [(cell.cell_type, cell.source.strip()) for cell in pair.cells]


def test_page_is_short_and_has_the_lessons_set_up_cell():
    codes, lesson = list_code_cells(read_notebook(PAGE)), list_code_cells(read_notebook(PATHS[0]))
    assert codes[0].source == lesson[0].source
    lengths = [len(cell.source.splitlines()) for cell in codes[1:]]
    assert max(lengths) <= 10 and statistics.median(lengths) <= 5
    assert len(read_markdown(read_notebook(PAGE)).split()) <= 500


def test_page_is_empty_until_a_learner_runs_it():
    assert not any(cell.outputs or cell.execution_count for cell in list_code_cells(read_notebook(PAGE)))


def test_links_of_the_page_lead_to_files_that_exist():
    targets = re.findall(r"\]\(([^)\s#]+)", read_markdown(read_notebook(PAGE)))
    assert targets and [target for target in targets if not (NOTEBOOKS / target).is_file()] == []


def write_page(folder, named):
    """A copy of the page in which a learner has named a file."""
    notebook = read_notebook(PAGE)
    (cell,) = list_tagged_cells(notebook, "yours")
    cell.source = named.strip()
    path = folder / PAGE.name
    nbformat.write(notebook, path)
    return path


@pytest.mark.long
@pytest.mark.parametrize("named", [LABELS, FREE_ANSWERS], ids=["labels", "free answers"])
def test_page_runs_from_top_to_bottom(home, monkeypatch, named):
    monkeypatch.setenv("KIT_LANE", "tiny")
    make_tiny_model(home / "models" / LANES["tiny"].folder)
    assert execute_notebook(write_page(home, named)).problem == ""
    assert (home / "loras" / "mine" / "run.json").is_file()
    page = (home / "runs" / "your_turn" / "results.md").read_text(encoding="utf-8")
    assert [line for line in LINES[named] if f"\n| {line} | " not in page] == []
    assert "18 rows, 3 steps" in page and "| licence | CC BY 4.0 |" in page
