"""Copies for a class: the exercises and questions are all there, and no answer is anywhere in the files."""

import json
import re
import shutil

import nbformat
import pytest
from support.lessons import (
    NOTEBOOKS,
    each_lesson,
    list_code_cells,
    list_tagged_cells,
    read_markdown,
    read_notebook,
    read_printed,
)

from helpers import weights
from helpers.common.command import run_command
from helpers.tutorial.execution import execute_notebook
from helpers.tutorial.notebook_files import list_notebooks
from tools.class_copies import main, make_copy

QUIZ = """\
## Recap

- Weights are numbers.

<details><summary>More</summary>Some of them are zero.</details>

## Check yourself

**1. What are weights?**

- a) numbers
- b) words

<details><summary>Answer</summary>

**a)** Nothing but numbers.

</details>"""


@pytest.fixture(scope="module")
def copies(tmp_path_factory):
    """The folder of the copies, made by the command."""
    folder = tmp_path_factory.mktemp("copies") / "class"
    assert run_command(main, ["--output", str(folder)]) == 0
    return folder


def write_escaped(text):
    """A text as a file of JSON has it."""
    return json.dumps(text, ensure_ascii=False)[1:-1]


def list_solving_lines(notebook):
    """The lines of code that are in a solution and nowhere else in the notebook."""
    solutions = list_tagged_cells(notebook, "solution")
    others = [cell for cell in list_code_cells(notebook) if cell not in solutions]
    known = {line.strip() for cell in others for line in cell.source.splitlines()}
    lines = {line.strip() for cell in solutions for line in cell.source.splitlines()}
    return lines - known


def list_answers(notebook):
    """The lines of the folded answers below the questions."""
    quiz = read_markdown(notebook).partition("## Check yourself")[2]
    folded = re.findall(r"</summary>(.*?)</details>", quiz, flags=re.DOTALL)
    return {line.strip() for text in folded for line in text.splitlines() if line.strip()}


@each_lesson
def test_no_line_of_a_solution_and_of_an_answer_is_in_the_copy(copies, path):
    notebook = read_notebook(path)
    lines, answers = list_solving_lines(notebook), list_answers(notebook)
    assert len(lines) >= 3 and len(answers) >= 2
    text = (copies / path.name).read_text(encoding="utf-8")
    assert [line for line in lines | answers if write_escaped(line) in text] == []


@each_lesson
def test_search_for_answers_finds_them_in_the_lesson(path):
    notebook, text = read_notebook(path), path.read_text(encoding="utf-8")
    lines = list_solving_lines(notebook) | list_answers(notebook)
    assert all(write_escaped(line) in text for line in lines)


@each_lesson
def test_copy_has_every_other_cell_of_the_lesson_in_its_order(copies, path):
    copy, notebook = read_notebook(copies / path.name), read_notebook(path)
    solutions = list_tagged_cells(notebook, "solution")
    assert [cell.source for cell in list_code_cells(copy)] == [
        cell.source for cell in list_code_cells(notebook) if cell not in solutions
    ]
    assert len(copy.cells) == len(notebook.cells) - len(solutions)
    assert len(list_tagged_cells(copy, "exercise")) == len(solutions) >= 3


@each_lesson
def test_copy_is_a_valid_notebook_without_outputs_and_speaker_s_notes(copies, path):
    copy = read_notebook(copies / path.name)
    nbformat.validate(copy)
    assert not any(cell.outputs or cell.execution_count for cell in list_code_cells(copy))
    assert not [cell for cell in copy.cells if {"speaker", "minutes"} & set(cell.metadata)]
    assert "jupytext" not in copy.metadata


@each_lesson
def test_copy_does_not_speak_of_solutions_that_it_lacks(copies, path):
    text = read_markdown(read_notebook(copies / path.name))
    assert "\n## Exercises\n" in text and "\n### 1. " in text
    assert not re.search(r"\bsolution", text.partition("\n## Exercises\n")[2])


@each_lesson
def test_pictures_and_pages_that_a_copy_links_to_are_beside_it(copies, path):
    text = read_markdown(read_notebook(copies / path.name))
    targets = [target for target in re.findall(r"\]\(([^)\s#]+)", text) if "://" not in target]
    assert targets and [target for target in targets if not (copies / target).is_file()] == []


@each_lesson
def test_copy_says_what_to_do_with_the_exercises(copies, path):
    text = read_markdown(read_notebook(copies / path.name))
    introduction = text.partition("\n## Exercises\n")[2].partition("\n### ")[0].strip()
    assert introduction or "## Exercises" not in text  # the appendix has none


def test_every_notebook_is_copied(copies):
    names = [path.name for path in list_notebooks(NOTEBOOKS)]
    assert [path.name for path in list_notebooks(copies)] == names and len(names) > 5


def test_questions_stay_and_what_is_folded_elsewhere_stays():
    copy = make_copy(nbformat.v4.new_notebook(cells=[nbformat.v4.new_markdown_cell(QUIZ)]))
    assert copy.cells[0].source.endswith(
        "## Check yourself\n\n**1. What are weights?**\n\n- a) numbers\n- b) words"
    )
    assert "Some of them are zero." in copy.cells[0].source


def test_quiz_goes_on_in_the_next_cell():
    cells = [nbformat.v4.new_markdown_cell(text) for text in QUIZ.split("\n\n", maxsplit=4)]
    copy = make_copy(nbformat.v4.new_notebook(cells=cells))
    assert "Nothing but numbers" not in read_markdown(copy) and "- b) words" in read_markdown(copy)


def test_only_the_sentence_about_solutions_goes():
    cell = nbformat.v4.new_markdown_cell(
        "## Exercises\n\nTry it. A solution is folded\naway below. Good luck!"
    )
    copy = make_copy(nbformat.v4.new_notebook(cells=[cell]))
    assert copy.cells[0].source == "## Exercises\n\nTry it. Good luck!"


def test_copies_replace_older_ones_that_nobody_has_worked_in(copies, capsys):
    assert run_command(main, ["--output", str(copies)]) == 0
    mine = copies / "01_weights.ipynb"
    mine.write_text(mine.read_text(encoding="utf-8").replace("guess = ", "guess = 7 * "), encoding="utf-8")
    capsys.readouterr()
    assert run_command(main, ["--output", str(copies)]) == 2
    assert len(capsys.readouterr().err.splitlines()) == 1 and "7 * " in mine.read_text(encoding="utf-8")


@pytest.mark.parametrize("place", [NOTEBOOKS, NOTEBOOKS / "class", NOTEBOOKS.parent / "tools"])
def test_copies_take_the_place_of_nothing_else(place, capsys):
    before = sorted(place.rglob("*"))
    assert run_command(main, ["--output", str(place)]) == 2
    assert len(capsys.readouterr().err.splitlines()) == 1 and sorted(place.rglob("*")) == before


@pytest.mark.real
@pytest.mark.long
def test_copy_of_lesson_1_runs_and_its_exercises_wait_for_the_class(
    real_model_name, copies, tmp_path, monkeypatch
):
    for model in (real_model_name, f"{real_model_name}-GGUF"):
        shutil.copytree(weights.models_folder() / model, tmp_path / "models" / model)
    monkeypatch.setenv("OPEN_LLM_KIT_HOME", str(tmp_path))
    execution = execute_notebook(copies / "01_weights.ipynb")
    assert execution.problem == ""
    exercises = list_tagged_cells(execution.notebook, "exercise")
    assert exercises and all(read_printed(cell).startswith("❌ not yet") for cell in exercises)
