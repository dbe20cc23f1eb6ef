"""The notebooks as they are committed: in step with their text pairs, executed, clean, and readable."""

import json
import re
import statistics
from itertools import pairwise

import jupytext
import pytest
from support.lessons import (
    ALL_PATHS,
    NAMES,
    each_lesson,
    each_notebook,
    list_code_cells,
    list_tagged_cells,
    name_pair,
    read_lesson,
    read_markdown,
    read_notebook,
    read_printed,
)

from helpers.common.paths import PROJECT

TAUGHT = {  # calls that a lesson must show
    "02_loading": ["AutoModelForCausalLM.from_pretrained("],
    "03_api": ["requests.post(", "client.chat.completions.create("],
    "04_training": [
        "yaml.safe_load(",
        "apply_chat_template(",
        "LoraConfig(",
        "SFTConfig(",
        "SFTTrainer(",
        ".train()",
        ".save_pretrained(",
    ],
    "05_lora_loading": ["PeftModel.from_pretrained("],
}


def test_there_are_five_lessons_and_an_appendix():
    assert [path.stem for path in ALL_PATHS] == sorted([*NAMES, "04b_training_appendix"])


@each_notebook
def test_notebook_and_text_pair_are_in_step(path):
    cells = [(cell.cell_type, cell.source.strip()) for cell in read_notebook(path).cells]
    pair = jupytext.read(name_pair(path))
    assert cells == [(cell.cell_type, cell.source.strip()) for cell in pair.cells]


@each_notebook
def test_code_cells_are_short(path):
    lengths = [len(cell.source.splitlines()) for cell in list_code_cells(read_notebook(path))]
    assert max(lengths) <= 25 and statistics.median(lengths) <= 5


@each_notebook
def test_cells_were_executed_in_order_and_without_an_error(path):
    cells = list_code_cells(read_notebook(path))
    assert [cell.execution_count for cell in cells] == list(range(1, len(cells) + 1))
    outputs = [output for cell in cells for output in cell.outputs]
    assert outputs and all(output.output_type != "error" for output in outputs)


@each_notebook
def test_file_has_no_widget_state_no_path_of_this_machine_and_no_token(path):
    text = path.read_text(encoding="utf-8")
    assert "widgets" not in json.loads(text)["metadata"]
    assert str(PROJECT) not in text and not re.search(r"/(root|home)/\w|hf_[A-Za-z0-9]{20}", text)
    assert path.stat().st_size < 500_000


@each_notebook
def test_headings_have_one_title_and_skip_no_level(path):
    text = re.sub(r"```.*?```", "", read_markdown(read_notebook(path)), flags=re.DOTALL)
    levels = [len(marks) for marks in re.findall(r"^(#+) ", text, flags=re.MULTILINE)]
    assert levels[0] == 1 and levels.count(1) == 1
    assert all(below - above <= 1 for above, below in pairwise(levels))


@each_notebook
def test_every_picture_has_alt_text(path):
    notebook = read_notebook(path)
    assert not re.search(r"!\[\s*\]\(", read_markdown(notebook))
    for cell in list_code_cells(notebook):
        for output in cell.outputs:
            data = output.get("data", {})
            images = re.findall(r"<img[^>]*>", "".join(data.get("text/html", "")))
            assert "image/png" not in data and all('alt="' in image for image in images)


@pytest.mark.parametrize(("name", "calls"), TAUGHT.items())
def test_taught_calls_are_visible_and_executed(name, calls):
    source = "\n".join(cell.source for cell in list_code_cells(read_lesson(name)))
    assert [call for call in calls if call not in source] == []


@each_lesson
def test_every_exercise_has_its_hidden_solution_below_it(path):
    notebook = read_notebook(path)
    exercises = list_tagged_cells(notebook, "exercise")
    solutions = list_tagged_cells(notebook, "solution")
    assert len(exercises) == len(solutions) >= 3
    for exercise, solution in zip(exercises, solutions, strict=True):
        assert notebook.cells.index(solution) == notebook.cells.index(exercise) + 1
        assert solution.metadata.jupyter.source_hidden and solution.metadata.cellView == "form"
        assert solution.source.startswith("# @title Solution")


@each_lesson
def test_exercises_fail_as_they_are_and_their_solutions_pass(path):
    notebook = read_notebook(path)
    for tag, mark in (("exercise", "❌"), ("solution", "✅")):
        for cell in list_tagged_cells(notebook, tag):
            assert read_printed(cell).startswith(mark) and read_printed(cell).count("\n") == 1
            assert "nbval-check-output" in cell.metadata.tags  # `make test` compares the output with this one


@pytest.mark.parametrize("name", ["02_loading", "04_training", "05_lora_loading"])
def test_there_is_a_bug_to_find(name):
    assert any("Find the bug" in cell.source for cell in read_lesson(name).cells)


@each_lesson
def test_there_are_two_to_four_guesses_and_each_is_compared(path):
    source = "\n".join(cell.source for cell in list_code_cells(read_notebook(path)))
    guesses = source.count("guess = ")
    assert 2 <= guesses <= 4 and source.count("checks.compare_guess(") == guesses


def test_set_up_cell_is_the_same_everywhere():
    assert len({list_code_cells(read_notebook(path))[0].source for path in ALL_PATHS}) == 1


def test_lesson_4_has_at_most_60_cells_and_2000_words():
    notebook = read_lesson("04_training")
    text = re.sub(r"!\[[^\]]*\]", "", read_markdown(notebook))  # descriptions of pictures are for listeners
    assert len(notebook.cells) <= 60 and len(text.split()) <= 2000


@each_notebook
def test_printed_commands_have_nothing_after_a_backslash(path):
    assert not re.search(r"\\[ \t]*#|\\[ \t]+$", read_markdown(read_notebook(path)), flags=re.MULTILINE)
