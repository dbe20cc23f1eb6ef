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

REVEAL = Path(__file__).parent / "reveal"  # reveal.js, see the README there
WIDTH, HEIGHT = 1280, 720  # of a slide, in CSS pixels
TITLE = "Open LLM Kit: the talk"

IMAGE = r"!\[[^\]]*\]\(https?://[^)]*\)"  # from the network: ![...](https://...)
REMOTE_IMAGE = re.compile(rf"(\[{IMAGE}\]\([^)]*\)|{IMAGE})\n*")  # linked, as the Colab badge is, or not
LESSON_LINK = re.compile(r"\[([^\]]+)\]\(0\w+\.ipynb\)")  # from lesson to lesson

# The blocks are those of nbconvert's template. `resources.deck` comes from build_deck.
TEMPLATE = """{% extends 'reveal/index.html.j2' %}
{% block header %}<!DOCTYPE html>
<html lang="en"><head><meta charset="utf-8"><title>{{ resources.deck.title }}</title>
{% for css in resources.inlining.css %}<style>{{ css }}</style>{% endfor %}
{{ self.notebook_css() }}
{% for css in resources.deck.styles %}<style>{{ css }}</style>{% endfor %}</head>{% endblock %}
{% block footer_js %}
{% for script in resources.deck.scripts %}<script>{{ script }}</script>{% endfor %}{% endblock %}"""

STYLE = """
:root {
  --jp-code-font-size: 17px;
  --jp-code-font-family: "DejaVu Sans Mono", Consolas, Menlo, monospace;
}
.reveal {
  font: 22px/1.4 system-ui, "Segoe UI", Roboto, "DejaVu Sans", sans-serif;
  color: #111;
  background: #fff;
}
.reveal .slides { text-align: left }
.reveal .slides, .reveal .slides * { box-sizing: border-box }
.reveal .slides > section { padding: 0 }
.reveal .slides > section > section { padding: 16px 56px 6px }

.reveal h1 { font-size: 46px }
.reveal h2 { font-size: 34px }
.reveal h3 { font-size: 28px }
.reveal :is(h1, h2, h3) { line-height: 1.2; margin: 0 0 10px; color: #1b4f72 }

.reveal .jp-Cell { padding: 0; margin: 0 0 6px }
.reveal .jp-Cell :is(p, ol, ul, table) { margin: 0 0 10px }
.reveal .jp-Cell pre { margin: 0 0 4px }
.reveal :is(.jp-InputPrompt, .jp-OutputPrompt, .jp-Collapser) { display: none }

.reveal .jp-RenderedHTMLCommon { font-size: 22px; color: #111; padding: 0 }
.reveal .jp-RenderedHTMLCommon:has(h1) { font-size: 27px }
.reveal .jp-RenderedHTMLCommon:has(h1):has(img) { font-size: 20px }
.reveal .jp-RenderedHTMLCommon table { font-size: 17px; margin-left: 0 }
.reveal .jp-RenderedHTMLCommon :is(td, th) { text-align: left; max-width: 620px; white-space: normal }

.reveal :is(p, li, td) code { white-space: nowrap }
.reveal .jp-Cell pre, .reveal .jp-Cell pre code {
  white-space: pre-wrap;
  word-break: normal;
  overflow-wrap: anywhere;
}
.reveal .highlight { margin: 0 }
.reveal .highlight pre { margin: 0; padding: 6px 12px }

.reveal :is(.jp-Cell-outputWrapper, .jp-OutputArea, .jp-OutputArea-child, .jp-OutputArea-output) {
  display: block;
  width: 100%;
}
.reveal .jp-OutputArea-output { padding-left: 12px; border-left: 4px solid #b9770e }
.reveal img { max-height: 320px; max-width: 100% }
.reveal img[src^="data:image/svg"] { max-height: 425px }
.reveal .jp-OutputArea-output img {
  width: 100%;
  max-height: 340px;
  object-fit: contain;
  object-position: left;
}
.reveal .jp-OutputArea-output :is(td, th) { padding: 3px 8px; font-size: 16px; line-height: 1.25 }
.reveal .jp-OutputArea-output p { font-size: 17px; line-height: 1.25; margin: 0 0 6px }
.reveal .jp-RenderedHTMLCommon:has(h1) img { max-height: 280px }
"""

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
    print(f"{target}: {slides} slides for {minutes:g} minutes; press S for the speaker notes")


def is_deck(path: Path) -> bool:
    """True for a file that build_deck made: it starts reveal.js in the very same words."""
    return START.encode() in path.read_bytes()


def join_notebooks(paths: list[Path]) -> NotebookNode:
    """One notebook with all cells that belong to slides, below a first slide with the lessons' titles."""
    cells, titles = [], []
    for path in paths:
        notebook = read_notebook(path)
        if read_type(notebook.cells[0]) == "slide":  # the appendix has none
            titles.append(notebook.cells[0].source.splitlines()[0].removeprefix("# "))
        for cell in notebook.cells:
            if read_type(cell) != "skip":
                cells += [copy.deepcopy(cell), *make_notes(cell)]
    cells.insert(0, make_title_slide(titles))
    for number, cell in enumerate(cells):
        cell.id = f"cell-{number}"  # unique in the page
        if cell.cell_type == "markdown":
            cell.source = remove_links(cell.source)
    return nbformat.v4.new_notebook(cells=cells, metadata={"title": TITLE})


def make_title_slide(titles: list[str]) -> NotebookNode:
    """The first slide: what the talk is called, and the lessons."""
    lines = ["# Open LLM Kit", "", "From the weights to your own LoRA over an API", ""]
    lines += [f"- {title}" for title in titles]
    return nbformat.v4.new_markdown_cell("\n".join(lines), metadata={"slideshow": {"slide_type": "slide"}})


def make_notes(cell: NotebookNode) -> list[NotebookNode]:
    """The speaker's notes of a slide, as nbconvert expects them: a cell of their own, or none."""
    if "speaker" not in cell.metadata:
        return []
    text = f"**{cell.metadata['minutes']:g} min.** {cell.metadata['speaker']}"
    return [nbformat.v4.new_markdown_cell(text, metadata={"slideshow": {"slide_type": "notes"}})]


def remove_links(text: str) -> str:
    """Markdown without images from the network, and with lessons named instead of linked."""
    return LESSON_LINK.sub(r"\1", REMOTE_IMAGE.sub("", text))


def read_type(cell: NotebookNode) -> str:
    """A cell's slide type: slide, -, fragment, notes or skip. A cell that has none counts as skip."""
    return cell.metadata.get("slideshow", {}).get("slide_type", "skip")


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
    """The page's scripts, in order: reveal.js, its speaker notes (press S), and what starts them."""
    start = f"{START}...{json.dumps(SETTINGS)}, plugins: [RevealNotes]}});"
    return [escape_script(script) for script in (read_reveal("reveal.js"), read_reveal("notes.js"), start)]


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
