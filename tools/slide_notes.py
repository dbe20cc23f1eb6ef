"""What the talk has beside the lessons' own slides: the speaker's notes, the first slide and the last."""

import re
from collections.abc import Iterator, Mapping

import nbformat
from nbformat import NotebookNode

from helpers.common.paths import PROJECT
from tools.publication import read_publication

SUBTITLE = "From raw weights to your own LoRA, served over an API"
SENTENCE = re.compile(r"(?<=[.?!]) ")
LIVE = re.compile(r"\b(?:Run|[Tt]hen run) (?:it|the)\b|\bStart the\b|\btype it in\b")  # in a note: do it live
SERVER = "reach_server("  # a cell that starts the lesson's server

WELCOME = (
    "Say who you are, where they can get the kit, and what a LoRA is: a small addition to a model, trained "
    "for one task. The minutes in the notes begin with the next slide."
)
CLOSING = """# What you have seen

- A model is a folder of numbers, and a chat is one text that it goes on writing.
- A LoRA, trained in minutes and small beside its base, can tell whose side a comment is on.
  Counting words can't.
- Served under a name of its own, it answers over the same API as its base.

{where}

# Questions?"""
FAREWELL = (
    "Leave this slide on while you take questions. What to do next: lesson 1 tonight, a table of your own "
    "tomorrow."
)
TALK_MINUTES = 45  # with questions


def read_type(cell: NotebookNode) -> str:
    """A cell's slide type: slide, -, fragment, notes or skip. A cell that has none counts as skip."""
    return cell.metadata.get("slideshow", {}).get("slide_type", "skip")


def make_cell(text: str, slide_type: str) -> NotebookNode:
    """A cell of Markdown for the slides."""
    return nbformat.v4.new_markdown_cell(text, metadata={"slideshow": {"slide_type": slide_type}})


def make_notes(cell: NotebookNode, so_far: float) -> list[NotebookNode]:
    """The speaker's notes of a slide, as nbconvert expects them: a cell of their own, or none.

    `so_far` is the minute at which the slide ends.
    """
    if "speaker" not in cell.metadata:
        return []
    text = f"**{cell.metadata['minutes']:g} min, by now {so_far:g}.** {cell.metadata['speaker']}"
    return [make_cell(text, "notes")]


def make_title_slide(lessons: Mapping[str, NotebookNode]) -> list[NotebookNode]:
    """The first slide: what the talk is called and the lessons; its note says what to prepare."""
    titles = [
        notebook.cells[0].source.splitlines()[0].removeprefix("# ")
        for notebook in lessons.values()
        if read_type(notebook.cells[0]) == "slide"  # the appendix has none
    ]
    lines = ["# Open LLM Kit", "", SUBTITLE, "", *(f"- {title}" for title in titles)]
    notes = [WELCOME, "", "**Before the talk**", "", *list_preparations(lessons)]
    return [make_cell("\n".join(lines), "slide"), make_cell("\n".join(notes), "notes")]


def list_preparations(lessons: Mapping[str, NotebookNode]) -> Iterator[str]:
    """What the speaker has to have ready, as a list in Markdown: found in notes and cells of the slides."""
    yield (
        "- `make lab`. Open these notebooks, run all of their cells above the ones that are shown live, "
        "and clear the outputs of those:"
    )
    for name, notebook in lessons.items():
        for heading, sentences in list_live(notebook):
            yield f"    - {name}, *{heading}*: {sentences}"
    servers = [name for name, notebook in lessons.items() if starts_server(notebook)]
    if servers:
        cell = f"`tutorial.{SERVER}...)` in {' and '.join(servers)}"
        yield f"- To ask a server live, run the cell that starts it: {cell}."
    yield "- Every other output is on the slides. If something fails, continue with those."


def list_live(notebook: NotebookNode) -> Iterator[tuple[str, str]]:
    """(Heading, what to do) of each slide on which the speaker's note says to run something."""
    for cell in notebook.cells:
        found = [words for words in SENTENCE.split(cell.metadata.get("speaker", "")) if LIVE.search(words)]
        if found:
            yield cell.source.splitlines()[0].lstrip("# "), " ".join(found)


def starts_server(notebook: NotebookNode) -> bool:
    """True for a lesson with slides and a cell that starts a server."""
    shown = any(read_type(cell) == "slide" for cell in notebook.cells)
    return shown and any(cell.cell_type == "code" and SERVER in cell.source for cell in notebook.cells)


def make_closing_slide(so_far: float) -> list[NotebookNode]:
    """The last slide: what you have seen, where the kit is, and questions for the minutes that are left."""
    publication = read_publication(PROJECT)
    where = (
        f"The kit: <{publication.repository}>"
        if publication
        else "To get the kit, ask the speaker for its folder."
    )
    return [
        make_cell(CLOSING.format(where=where), "slide"),
        make_cell(f"**{TALK_MINUTES - so_far:g} min, by now {TALK_MINUTES}.** {FAREWELL}", "notes"),
    ]
