"""The talk: the slide cells of all lessons as one reveal.js page, a single file that needs no network.

What the speaker says is in the metadata of each slide's first cell, where learners do not see it:
`minutes`, a number, and `speaker`, Markdown.

nbconvert makes the slides. Its template loads reveal.js from the network; ours puts the copy in tools/reveal/
into the page.
"""

import copy
import json
import re
from pathlib import Path

import nbformat
from nbconvert import SlidesExporter
from nbformat import NotebookNode
from traitlets.config import Config

from helpers.common import arguments as types
from helpers.common.command import CommandParser, run_command
from helpers.common.errors import UsageError
from helpers.common.files import write_text
from helpers.common.outputs import check_output
from helpers.common.paths import PROJECT, find_home
from helpers.tutorial.notebook_files import list_lessons, read_notebook
from tools.files import read_source
from tools.slide_notes import make_closing_slide, make_notes, make_title_slide, read_type
from tools.slide_page import FIT, HEIGHT, STYLE, WIDTH

REVEAL = Path(__file__).parent / "reveal"  # reveal.js, see the README there
TITLE = "Open LLM Kit: the talk"

IMAGE = r"!\[[^\]]*\]\(https?://[^)]*\)"  # from the network: ![...](https://...)
REMOTE_IMAGE = re.compile(rf"(\[{IMAGE}\]\([^)]*\)|{IMAGE})\n*")  # linked, as the Colab badge is, or not
LOCAL_LINK = re.compile(r"(?<!!)\[([^\]]+)\]\((?!https?://)[^)]*\)")  # to a file that is not with the deck
# What checks.compare_guess prints, such as "Guess: 10.0%. Answer: 69.0%. Too low by a factor of 6.9."
GUESS = re.compile(r"^Guess: .*?\. (Answer: .*\.) [^.]+?(?: by a factor of [\d.]+)?\.$", re.MULTILINE)
PICTURE = re.compile(r"^!\[[^\]]*\]\([^)]*\)$", re.MULTILINE)

# The blocks are those of nbconvert's template. `resources.deck` comes from build_deck.
TEMPLATE = """{% extends 'reveal/index.html.j2' %}
{% block header %}<!DOCTYPE html>
<html lang="en"><head><meta charset="utf-8"><title>{{ resources.deck.title }}</title>
{% for css in resources.inlining.css %}<style>{{ css }}</style>{% endfor %}
{{ self.notebook_css() }}
{% for css in resources.deck.styles %}<style>{{ css }}</style>{% endfor %}</head>{% endblock %}
{% block footer_js %}
{% for script in resources.deck.scripts %}<script>{{ script }}</script>{% endfor %}{% endblock %}"""

SETTINGS = {  # of reveal.js
    "width": WIDTH,
    "height": HEIGHT,
    "margin": 0,
    "center": False,
    "controls": False,
    "hash": True,
    "slideNumber": "c/t",
    "transition": "none",
}

START = "Reveal.initialize({"  # how the page starts reveal.js


def main(arguments: list[str]) -> None:
    """`python -m tools.slides [--output FILE]`."""
    parser = CommandParser(
        prog="python -m tools.slides",
        description="Builds the talk out of the lessons: one file that needs no network.",
    )
    parser.add_argument("--output", type=types.path, metavar="FILE", help="default: runs/slides.html")
    target = parser.parse_args(arguments).output or find_home() / "runs" / "slides.html"
    check_output(target, "file", is_deck)
    notebook = join_notebooks(list_lessons(PROJECT / "notebooks"))
    write_text(target, build_deck(notebook), is_deck)
    slides = sum(read_type(cell) == "slide" for cell in notebook.cells)
    minutes = sum(list_minutes(notebook))
    print(f"{target}: {slides} slides for {minutes:g} minutes, then questions; press S for the speaker notes")


def is_deck(path: Path) -> bool:
    """True for a file that build_deck made: it starts reveal.js in the very same words."""
    return START.encode() in path.read_bytes()


def join_notebooks(paths: list[Path]) -> NotebookNode:
    """One notebook with all cells that belong to slides, between the talk's own first and last slide."""
    cells: list[NotebookNode] = []
    lessons = {path.name: read_notebook(path) for path in paths}
    minutes = 0.0
    for notebook in lessons.values():
        list_minutes(notebook)  # an error if some are missing
        for cell in notebook.cells:
            if read_type(cell) != "skip":
                minutes += cell.metadata.get("minutes", 0)
                cells += [hide_guess(shorten_title(copy.deepcopy(cell))), *make_notes(cell, minutes)]
    cells = [*make_title_slide(lessons), *cells, *make_closing_slide(minutes)]
    for number, cell in enumerate(cells):
        cell.id = f"cell-{number}"  # unique in the page
        if cell.cell_type == "markdown":
            cell.source = remove_links(cell.source)
    return nbformat.v4.new_notebook(cells=cells, metadata={"title": TITLE})


def shorten_title(cell: NotebookNode) -> NotebookNode:
    """A lesson's first cell with its heading and its map only: the list is for reading at home."""
    picture = PICTURE.search(cell.source)
    if cell.source.startswith("# ") and picture:
        cell.source = f"{cell.source.splitlines()[0]}\n\n{picture[0]}"
    return cell


def hide_guess(cell: NotebookNode) -> NotebookNode:
    """A cell whose output has the answer to a guess, without the guess: nobody in the room has made it."""
    for output in cell.get("outputs", []):
        if "text" in output:
            output.text = GUESS.sub(r"\1", output.text)
    return cell


def remove_links(text: str) -> str:
    """Markdown without images from the network, and without links to files that are not with the deck."""
    return LOCAL_LINK.sub(r"\1", REMOTE_IMAGE.sub("", text))


def list_minutes(notebook: NotebookNode) -> list[float]:
    """How many minutes each slide takes, in order. Raises UsageError for notes that do not say."""
    minutes = []
    for cell in notebook.cells:
        if "speaker" not in cell.metadata:
            continue
        found = cell.metadata.get("minutes")
        if not isinstance(found, int | float):
            first_line = cell.source.splitlines()[0]
            problem = f"The speaker's notes of a slide do not say its minutes: {first_line}"
            raise UsageError(problem, 'Add `minutes` to the metadata of its cell, such as "minutes": 2.')
        minutes.append(float(found))
    return minutes


def build_deck(notebook: NotebookNode) -> str:
    """The slides as one HTML page, with the pictures of the lessons in it."""
    config = Config({"TagRemovePreprocessor": {"enabled": True, "remove_input_tags": {"remove-input"}}})
    exporter = SlidesExporter(config=config, raw_template=TEMPLATE, embed_images=True)
    deck = {"title": TITLE, "styles": [read_reveal("reveal.css"), STYLE], "scripts": list_scripts()}
    place = {"path": str(PROJECT / "notebooks")}  # where the names of pictures lead from
    page, _ = exporter.from_notebook_node(notebook, resources={"deck": deck, "metadata": place})
    # ✅ and ❌ need an emoji font, which not every machine has.
    return page.replace("✅", "✔").replace("❌", "✘")


def list_scripts() -> list[str]:
    """The page's scripts: reveal.js, its speaker notes (press S), what starts them, and what fits slides."""
    start = f"{START}...{json.dumps(SETTINGS)}, plugins: [RevealNotes]}});"
    scripts = (read_reveal("reveal.js"), read_reveal("notes.js"), start, FIT)
    return [escape_script(script) for script in scripts]


def read_reveal(name: str) -> str:
    """The text of a file in tools/reveal/."""
    return read_source(REVEAL / name)


def escape_script(script: str) -> str:
    """A script that can be put into a <script> element.

    The HTML standard, "Restrictions for contents of script elements", advises to write < as \\x3C before !--,
    script and /script.
    """
    return re.sub(r"<(?=!--|script|/script)", r"\\x3C", script, flags=re.IGNORECASE)


if __name__ == "__main__":
    raise SystemExit(run_command(main))
