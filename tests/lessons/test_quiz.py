"""The quiz at the end of a lesson: numbered questions, options, and folded answers that name one of them."""

import re
from dataclasses import dataclass

import pytest
from support.lessons import each_lesson, read_markdown, read_notebook

SAMPLE = """\
## Recap

- Weights are numbers.

## Check yourself

**1. What are weights?**

- a) numbers that a model has learned
- b) words that
  it has read
- c) both

<details><summary>Answer</summary>

**a)** Nothing but numbers. The words (b) are gone after the training.

</details>

**2. Which file can run code when it is opened?**

- a) a safetensors file
- b) a pickle
- c) a GGUF file
- d) a README

<details><summary>Answer</summary>
<b>b.</b> A safetensors file (a) has nothing but numbers in it.
</details>

**3. How many bytes has a float32?**

- a) two
- b) four
- c) eight

<details><summary>Answer</summary>

**b) four.** Two is bfloat16.

</details>

## What comes next

Lesson 2.
"""


@dataclass
class Question:
    """One question of a quiz."""

    number: int
    options: list[str]  # their letters
    right: str | None  # the letter that the folded answer names first in bold; None without an answer


def read_quiz(markdown):
    """The questions below "Check yourself", in order; [] for another form."""
    section = markdown.partition("\n## Check yourself\n")[2]
    section = re.split(r"^## ", section, maxsplit=1, flags=re.MULTILINE)[0]
    _, *parts = re.split(r"^\*\*(\d+)\. [^*\n]+\*\*\s*$", section, flags=re.MULTILINE)
    return [read_question(int(number), body) for number, body in zip(parts[::2], parts[1::2], strict=True)]


def read_question(number, body):
    """A question from what is below its line."""
    shown, _, folded = body.partition("<details><summary>Answer</summary>")
    options = re.findall(r"^- ([a-z])\) \S", shown, flags=re.MULTILINE)
    html, _, markdown = folded.partition("</details>")[0].partition("\n\n")
    # Up to the first empty line, Markdown shows HTML as it is: ** would not be bold there.
    found = re.search(r"<b>([a-z])\b", html) or re.search(r"(?:\*\*|<b>)([a-z])\b", markdown)
    return Question(number, options, found[1] if found else None)


def find_faults(markdown):
    """What is wrong with a quiz, in words."""
    questions = read_quiz(markdown)
    if len(questions) < 3:
        yield f"{len(questions)} questions of the form **1. Why?** below ## Check yourself, and not three"
    for place, question in enumerate(questions, start=1):
        if question.number != place:
            yield f"question {place} has the number {question.number}"
        if question.options not in (list("abc"), list("abcd")):
            yield f"question {place} has the options {question.options}, and not - a) to c) or d)"
        if question.right not in question.options:
            yield f"the answer to question {place} does not name one of its options in bold"


@each_lesson
def test_lesson_ends_with_a_quiz(path):
    assert list(find_faults(read_markdown(read_notebook(path)))) == []


def test_quiz_is_read_with_its_options_and_answers():
    assert list(find_faults(SAMPLE)) == []
    assert [question.right for question in read_quiz(SAMPLE)] == ["a", "b", "b"]
    assert [len(question.options) for question in read_quiz(SAMPLE)] == [3, 4, 3]


@pytest.mark.parametrize(
    ("before", "after", "fault"),
    [
        ("## Check yourself", "## Questions", "0 questions"),
        ("**3. How many bytes has a float32?**", "3. How many bytes has a float32?", "2 questions"),
        ("**3. How", "**4. How", "has the number 4"),
        ("- c) eight\n", "", "question 3 has the options"),
        ("- b) four\n", "- four\n", "question 3 has the options"),
        ("- d) a README\n", "- d) a README\n- e) a folder\n", "question 2 has the options"),
        ("**a)** Nothing", "a) Nothing", "answer to question 1"),
        ("**b) four.**", "**d) four.**", "answer to question 3"),
        ("**b) four.**", "**four.**", "answer to question 3"),
        ("<b>b.</b>", "b.", "answer to question 2"),
        ("<b>b.</b>", "**b.**", "answer to question 2"),
        ("<summary>Answer</summary>\n\n**b)", "<summary>How many?</summary>\n\n**b)", "answer to question 3"),
    ],
)
def test_fault_of_a_quiz_is_found(before, after, fault):
    assert before in SAMPLE
    assert any(fault in found for found in find_faults(SAMPLE.replace(before, after)))
