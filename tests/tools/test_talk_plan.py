"""The guide's plan of the talk has each lesson with its slides and their minutes."""

import nbformat
import pytest

from helpers.common.errors import UsageError
from tools.talk_plan import HEAD, build_plan, put_plan_into_guide

PAGE = "# Guide\n\n<!-- talk -->\nold\n<!-- end of talk -->\n\nThe rest.\n"


def make_lesson(*slides):
    """A notebook with a Markdown cell for each (heading, minutes); without minutes, one for learners only."""
    cells = []
    for heading, minutes in slides:
        notes = {} if minutes is None else {"minutes": minutes, "speaker": "Say it."}
        cells.append(nbformat.v4.new_markdown_cell(f"{heading}\n\nText.", metadata=notes))
    return nbformat.v4.new_notebook(cells=cells)


@pytest.fixture
def lessons():
    """A lesson of two slides, and a notebook that is not in the talk."""
    first = make_lesson(("# Lesson 1: a | b", 0.5), ("## Aside", None), ("## The [hub](https://hub)", 1))
    return {"01_a.ipynb": first, "02_extra.ipynb": make_lesson(("# Appendix", None))}


def test_lesson_has_the_sum_of_its_slides_and_each_of_them(lessons):
    line = r"| 1.5 | [Lesson 1: a \| b](01_a.ipynb) | Title (0.5); The hub (1) |"
    assert build_plan(lessons) == [*HEAD, line, "| 43.5 | Questions | What you have seen |"]


def test_only_the_table_of_a_page_changes(lessons):
    page = put_plan_into_guide(PAGE, lessons)
    table = "\n".join(build_plan(lessons))
    assert page == PAGE.replace("old", table)
    assert put_plan_into_guide(page, lessons) == page


def test_page_without_a_place_for_the_table_stays_as_it_is(lessons):
    assert put_plan_into_guide("# Guide\n", lessons) == "# Guide\n"


def test_slide_without_minutes_is_an_error():
    lesson = make_lesson(("# Lesson", 1))
    del lesson.cells[0].metadata["minutes"]
    with pytest.raises(UsageError, match="# Lesson"):
        build_plan({"01.ipynb": lesson})
