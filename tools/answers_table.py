"""The README's table of answers: what base and LoRA said over the API when lesson 5 was last run in place.

`python -m tools.tidy_notebooks` writes it from the outputs of the lesson, between two comments.
"""

import re

from nbformat import NotebookNode

from helpers.tutorial.report import collect_results, read_table, write_answers

README = "README.md"
LESSON = "05_lora_loading.ipynb"
BLOCK = re.compile(r"(<!-- table of answers -->\n).*?(<!-- end of table -->)", re.DOTALL)


def put_answers_into_readme(text: str, lesson: NotebookNode) -> str:
    """The README with the table that the lesson published; unchanged if it has published none."""
    table = read_table(collect_results([lesson]))
    if not table:
        return text
    return BLOCK.sub(lambda found: f"{found[1]}\n{write_answers(table)}\n\n{found[2]}", text)
