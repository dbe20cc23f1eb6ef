"""The README's table of answers, written from what lesson 5 published."""

import nbformat

from helpers.tutorial.checks import MIME
from tools.answers_table import put_answers_into_readme

TEXT = "Before\n<!-- table of answers -->\nold\n<!-- end of table -->\nafter\n"
LINE = {"question": "Whose\nside?", "truth": "Elm", "base": "✘ I", "LoRA: mine": "✔ Elm"}


def make_lesson(*lines):
    data = {MIME: {"name": "table", "value": list(lines)}, "text/plain": ""}
    cell = nbformat.v4.new_code_cell("x", outputs=[nbformat.v4.new_output("display_data", data=data)])
    return nbformat.v4.new_notebook(cells=[cell])


def test_table_is_between_the_two_comments_with_a_line_for_each_question():
    text = put_answers_into_readme(TEXT, make_lesson(LINE))
    assert "| Whose<br>side? | Elm | ✘ I | ✔ Elm |" in text and "old" not in text
    assert text.startswith("Before\n<!-- table of answers -->\n\n| question | truth | base | LoRA: mine |")
    assert put_answers_into_readme(text, make_lesson(LINE)) == text


def test_lesson_that_published_nothing_changes_nothing():
    assert put_answers_into_readme(TEXT, make_lesson()) == TEXT
