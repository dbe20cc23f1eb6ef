"""The form of a lesson: what stands at its top and at its end, and the words that it explains."""

import re

import nbformat
import pytest

from helpers import PROJECT
from tools.cost_boxes import TAG

PATHS = sorted((PROJECT / "notebooks").glob("0*.ipynb"))
FIELDS = {"max_seq_len", "gpu-split", "ctx-size", "gpu-layers"}  # bold because they are fields of a page
lessons = pytest.mark.parametrize("path", PATHS, ids=lambda path: path.stem)


def read_cells(path):
    """The lesson's cells without the speaker's notes."""
    cells = nbformat.read(path, as_version=4).cells
    return [cell for cell in cells if cell.metadata.get("slideshow", {}).get("slide_type") != "notes"]


@lessons
def test_lesson_begins_with_goals_prerequisites_box_and_one_set_up_cell(path):
    title, box, setup, first = read_cells(path)[:4]
    goals = re.findall(r"^\d\. [A-Z]", title.source, flags=re.M)
    assert (
        title.source.startswith("# Lesson") and "## What you will do" in title.source and 3 <= len(goals) <= 5
    )
    assert "\nPrerequisites: " in title.source and TAG in box.metadata.tags
    assert [setup.cell_type, first.cell_type] == ["code", "code"] and "setup.set_up()" in setup.source


@lessons
def test_lesson_ends_with_recap_questions_freed_memory_and_the_way_on(path):
    *cells, free, last = read_cells(path)
    text = "\n".join(cell.source for cell in cells if cell.cell_type == "markdown")
    recap, _, questions = text.partition("\n## Recap\n")[2].partition("## Check yourself")
    assert recap.count("\n- ") >= 3 and questions.count("<details><summary>") >= 2
    assert "machine.free_memory()" in free.source and ".ipynb)" in last.source


@lessons
def test_words_that_a_lesson_introduces_stand_in_the_glossary(path):
    glossary = (PROJECT / "notebooks" / "glossary.md").read_text(encoding="utf-8").lower()
    text = re.sub(
        r"```.*?```",
        "",
        "\n".join(cell.source for cell in read_cells(path) if cell.cell_type == "markdown"),
        flags=re.S,
    )
    words = {word for word in re.findall(r"\*\*([a-z][^*\n:]*)\*\*", text) if len(word.split()) <= 2} - FIELDS
    assert [
        word for word in sorted(words) if word not in glossary and word.removesuffix("s") not in glossary
    ] == []
