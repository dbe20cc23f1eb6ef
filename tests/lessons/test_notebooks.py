import json
import re
import statistics

import jupytext
import pytest
from support.lessons import NAMES, PATHS, code_cells, read

from helpers import PROJECT

TAUGHT = {
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


def test_there_are_five_lessons():
    assert [path.stem for path in PATHS] == NAMES


@pytest.mark.parametrize("path", PATHS, ids=lambda path: path.stem)
def test_notebook_and_text_pair_are_in_step(path):
    text = jupytext.read(PROJECT / "notebooks" / "text" / f"{path.stem}.py")
    cells = [(cell.cell_type, cell.source.strip()) for cell in read(path).cells]
    assert cells == [(cell.cell_type, cell.source.strip()) for cell in text.cells]


@pytest.mark.parametrize("path", PATHS, ids=lambda path: path.stem)
def test_code_cells_are_short(path):
    lengths = [len(cell.source.splitlines()) for cell in code_cells(read(path))]
    assert max(lengths) <= 25 and statistics.median(lengths) <= 5


@pytest.mark.parametrize("path", PATHS, ids=lambda path: path.stem)
def test_outputs_are_there_in_order_and_without_an_error(path):
    cells = code_cells(read(path))
    assert [cell.execution_count for cell in cells] == list(range(1, len(cells) + 1))
    assert any(cell.outputs for cell in cells) and all(
        output.output_type != "error" for cell in cells for output in cell.outputs
    )


@pytest.mark.parametrize("path", PATHS, ids=lambda path: path.stem)
def test_file_has_no_widget_state_no_place_of_this_machine_and_no_token(path):
    text = path.read_text(encoding="utf-8")
    assert "widgets" not in json.loads(text)["metadata"] and str(PROJECT) not in text
    assert not re.search(r"/(root|home)/\w|hf_[A-Za-z0-9]{20}", text) and path.stat().st_size < 500_000


@pytest.mark.parametrize("path", PATHS, ids=lambda path: path.stem)
def test_headings_have_one_title_and_skip_no_level(path):
    markdown = "\n".join(cell.source for cell in read(path).cells if cell.cell_type == "markdown")
    levels = [
        len(found)
        for found in re.findall(r"^(#+) ", re.sub(r"```.*?```", "", markdown, flags=re.S), flags=re.M)
    ]
    assert (
        levels[0] == 1
        and levels.count(1) == 1
        and all(b - a <= 1 for a, b in zip(levels, levels[1:], strict=False))
    )


@pytest.mark.parametrize("path", PATHS, ids=lambda path: path.stem)
def test_every_picture_has_alt_text(path):
    notebook = read(path)
    markdown = "\n".join(cell.source for cell in notebook.cells if cell.cell_type == "markdown")
    assert not re.search(r"!\[\s*\]\(", markdown)
    for output in (output for cell in code_cells(notebook) for output in cell.outputs):
        data = output.get("data", {})
        assert "image/png" not in data
        assert all('alt="' in tag for tag in re.findall(r"<img[^>]*>", "".join(data.get("text/html", ""))))


@pytest.mark.parametrize(("name", "lines"), TAUGHT.items())
def test_taught_lines_are_visible_and_executed(name, lines):
    source = "\n".join(cell.source for cell in code_cells(read(PROJECT / "notebooks" / f"{name}.ipynb")))
    for line in lines:
        assert line in source


def tagged(notebook, tag):
    return [cell for cell in notebook.cells if tag in cell.metadata.get("tags", [])]


def read_output(cell):
    return "".join(output.get("text", "") for output in cell.outputs)


@pytest.mark.parametrize("path", PATHS, ids=lambda path: path.stem)
def test_exercises_do_not_pass_as_they_stand_and_their_hidden_solutions_do(path):
    notebook = read(path)
    exercises, solutions = tagged(notebook, "exercise"), tagged(notebook, "solution")
    assert len(exercises) == len(solutions) >= 3
    for exercise, solution in zip(exercises, solutions, strict=True):
        assert notebook.cells.index(solution) == notebook.cells.index(exercise) + 1
        assert (
            solution.metadata.jupyter.source_hidden
            and solution.metadata.cellView == "form"
            and solution.source.startswith("# @title Solution")
        )
        assert read_output(exercise).startswith("❌") and read_output(solution).startswith("✅")
        for cell in (exercise, solution):  # nbval, in make test, holds what it sees against these outputs
            assert "nbval-check-output" in cell.metadata.tags and read_output(cell).count("\n") == 1


@pytest.mark.parametrize("name", ["02_loading", "04_training", "05_lora_loading"])
def test_there_is_a_bug_to_find(name):
    assert any("Find the bug" in cell.source for cell in read(PROJECT / "notebooks" / f"{name}.ipynb").cells)


@pytest.mark.parametrize("path", PATHS, ids=lambda path: path.stem)
def test_there_are_two_to_four_guesses_each_set_beside_what_was_found(path):
    source = [cell.source for cell in code_cells(read(path))]
    guesses, answers = (
        sum(text.count(word) for text in source) for word in ("guess = ", "checks.compare_guess(")
    )
    assert 2 <= guesses == answers <= 4


def test_set_up_cell_is_the_same_everywhere():
    assert len({code_cells(read(path))[0].source for path in PATHS}) == 1


def test_printed_commands_have_no_comment_after_a_backslash():
    for path in PATHS:
        for cell in read(path).cells:
            assert not re.search(r"\\[ \t]*#|\\[ \t]+$", cell.source, flags=re.M) or cell.cell_type == "code"
