"""The form of a lesson: what is at its top and at its end, and the words that it explains."""

import re

from support.lessons import ALL_PATHS, NOTEBOOKS, each_lesson, read_notebook

from tools.cost_boxes import TAG

FIELDS = {"max_seq_len", "gpu-split", "ctx-size", "gpu-layers"}  # bold because they are fields of a page


def join_markdown(cells):
    """The Markdown of some cells."""
    return "\n".join(cell.source for cell in cells if cell.cell_type == "markdown")


@each_lesson
def test_lesson_begins_with_goals_prerequisites_box_and_one_set_up_cell(path):
    title, box, setup, first = read_notebook(path).cells[:4]
    assert title.source.startswith("# Lesson") and "## What you will do" in title.source
    assert 3 <= len(re.findall(r"^\d\. [A-Z]", title.source, flags=re.MULTILINE)) <= 5
    assert "\nPrerequisites: " in title.source
    assert TAG in box.metadata.tags
    assert setup.cell_type == "code" and "setup.set_up()" in setup.source
    assert first.cell_type == "code"


@each_lesson
def test_lesson_ends_with_recap_questions_freed_memory_and_the_next_lesson(path):
    *cells, free, last = read_notebook(path).cells
    recap, _, questions = join_markdown(cells).partition("\n## Recap\n")[2].partition("## Check yourself")
    assert recap.count("\n- ") >= 3 and questions.count("<details><summary>") >= 2
    assert "machine.free_memory()" in free.source and ".ipynb)" in last.source


@each_lesson
def test_words_that_a_lesson_introduces_are_in_the_glossary(path):
    glossary = (NOTEBOOKS / "glossary.md").read_text(encoding="utf-8").lower()
    text = re.sub(r"```.*?```", "", join_markdown(read_notebook(path).cells), flags=re.DOTALL)
    bold = set(re.findall(r"\*\*([a-z][^*\n:]*)\*\*", text))
    words = {word for word in bold if len(word.split()) <= 2} - FIELDS
    unknown = [
        word
        for word in sorted(map(str.lower, words))
        if word not in glossary and word.removesuffix("s") not in glossary
    ]
    assert unknown == []


def test_every_word_of_the_glossary_is_linked_from_a_lesson():
    glossary = (NOTEBOOKS / "glossary.md").read_text(encoding="utf-8")
    headings = re.findall(r"^### (.*?)(?: <a id=.*)?$", glossary, flags=re.MULTILINE)
    words = {re.sub(r"[^\w-]", "", heading.lower().replace(" ", "-")) for heading in headings}
    text = "".join(join_markdown(read_notebook(path).cells) for path in ALL_PATHS)
    assert words - set(re.findall(r"\(glossary\.md#([\w-]+)\)", text)) == set()
