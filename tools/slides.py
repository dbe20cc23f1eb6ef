"""The talk: the slide cells of all notebooks as one reveal.js deck, a single file that needs no network.

nbconvert makes the slides. reveal.js is the copy that jupyterlab-rise brings for slides in JupyterLab: bundled there, but its source maps
carry the files as they were published.
"""

import copy
import json
import re
from collections.abc import Iterator
from importlib import resources
from pathlib import Path

import nbformat
from nbconvert import SlidesExporter
from nbformat import NotebookNode
from traitlets.config import Config

from helpers import PROJECT, KitError, find_home
from helpers.common.command import CommandParser, run_command
from helpers.common.files import replace_when_complete

WIDTH, HEIGHT = 1280, 720  # of a slide, in CSS pixels


REMOTE = re.compile(
    r"\[?!\[[^\]]*\]\(https?://[^)]*\)(\]\([^)]*\))?\n*"
)  # an image from the network, such as the Colab badge


BETWEEN = re.compile(r"\[([^\]]+)\]\(0\w+\.ipynb\)")  # a link from lesson to lesson


MINUTES = re.compile(r"\*\*To the speaker, ([\d.]+) min\.\*\*")  # how a note begins


TEMPLATE = """{% extends 'reveal/index.html.j2' %}
{% block header %}<!DOCTYPE html>
<html lang="en"><head><meta charset="utf-8"><title>Open LLM Kit: the talk</title>
{% for css in resources.inlining.css %}<style>{{ css }}</style>{% endfor %}
{{ self.notebook_css() }}
<style>{{ resources.deck.css }}</style></head>{% endblock %}
{% block footer_js %}<script type="module">{{ resources.deck.script }}</script>{% endblock %}"""


STYLE = """
:root { --jp-code-font-size: 17px; --jp-code-font-family: "DejaVu Sans Mono", Consolas, Menlo, monospace }
.reveal { font: 22px/1.4 system-ui, "Segoe UI", Roboto, "DejaVu Sans", sans-serif; color: #111; background: #fff }
.reveal .slides { text-align: left }
.reveal .slides, .reveal .slides * { box-sizing: border-box }
.reveal .slides > section { padding: 0 } .reveal .slides > section > section { padding: 20px 56px 8px }
.reveal h1 { font-size: 46px } .reveal h2 { font-size: 34px } .reveal h3 { font-size: 28px }
.reveal :is(h1, h2, h3) { line-height: 1.2; margin: 0 0 10px; color: #1b4f72 }
.reveal .jp-Cell { padding: 0; margin: 0 0 6px }
.reveal .jp-Cell :is(p, ol, ul, table) { margin: 0 0 10px } .reveal .jp-Cell pre { margin: 0 0 4px }
.reveal :is(.jp-InputPrompt, .jp-OutputPrompt, .jp-Collapser) { display: none }
.reveal .jp-RenderedHTMLCommon { font-size: 22px; color: #111; padding: 0 } .reveal .jp-RenderedHTMLCommon:has(h1) { font-size: 27px }
.reveal .jp-RenderedHTMLCommon table { font-size: 18px; margin-left: 0 }
.reveal .jp-RenderedHTMLCommon :is(td, th) { text-align: left; max-width: 620px; white-space: normal }
.reveal :is(p, li, td) code { white-space: nowrap }
.reveal .jp-Cell pre, .reveal .jp-Cell pre code { white-space: pre-wrap; word-break: normal; overflow-wrap: anywhere }
.reveal .highlight { margin: 0 } .reveal .highlight pre { margin: 0; padding: 6px 12px }
.reveal :is(.jp-Cell-outputWrapper, .jp-OutputArea, .jp-OutputArea-child, .jp-OutputArea-output) { display: block; width: 100% }
.reveal .jp-OutputArea-output { padding-left: 12px; border-left: 4px solid #b9770e }
.reveal img { max-height: 340px; max-width: 100% }
"""


def find_source(name: str) -> str:
    """A file of reveal.js such as dist/reveal.esm.js, out of the source maps in jupyterlab-rise; of a style sheet, its own text."""
    wanted = f"/reveal.js/{name}"
    for path in list_maps():
        data = path.read_bytes()
        if wanted.encode() not in data:
            continue
        found = json.loads(data)
        for source, text in zip(found["sources"], found["sourcesContent"], strict=True):
            if source.endswith(
                wanted
            ):  # a style sheet stands in a script that loads it, with a source map of its own
                return (
                    text
                    if name.endswith(".js")
                    else json.JSONDecoder().raw_decode(text[text.index('{"version":3') :])[0][
                        "sourcesContent"
                    ][0]
                )
    raise KitError(
        f"The installed jupyterlab-rise carries no {name} of reveal.js.",
        "Install the tested version: make setup",
    )


def list_maps() -> list[Path]:
    """The source maps of jupyterlab-rise."""
    try:
        return sorted(Path(str(resources.files("jupyterlab_rise"))).glob("static/*.map"))
    except ModuleNotFoundError:
        raise KitError(
            "jupyterlab-rise is not installed; its reveal.js makes the slides.", "Install it: make setup"
        ) from None


def build_script() -> str:
    """The deck's script, a module without imports: reveal.js, its speaker notes (press S), and their start."""
    files = {"Reveal": "dist/reveal.esm.js", "Notes": "plugin/notes/notes.esm.js"}
    parts = [
        f"const {name} = (() => {{\n{find_source(file).replace('export default', 'return', 1)}\n}})();"
        for name, file in files.items()
    ]
    settings = dict(
        width=WIDTH,
        height=HEIGHT,
        margin=0,
        center=False,
        controls=False,
        hash=True,
        slideNumber="c/t",
        transition="none",
    )
    start = f"Reveal.initialize({{...{json.dumps(settings)}, plugins: [Notes]}}); window.Reveal = Reveal;"
    return "\n".join([*parts, start]).replace("</script", "<\\/script")


def join_notebooks(paths: list[Path]) -> NotebookNode:
    """One notebook of all cells that belong to slides, below a first slide with the titles of the lessons."""
    cells, titles = [], []
    for path in paths:
        notebook = nbformat.read(path, as_version=4)
        titles.append(notebook.cells[0].source.splitlines()[0].removeprefix("# "))
        cells += [copy.deepcopy(cell) for cell in notebook.cells if read_type(cell) != "skip"]
    words = [
        "# Open LLM Kit",
        "",
        "From the weights to your own LoRA over an API",
        "",
        *(f"- {title}" for title in titles),
    ]
    cells.insert(
        0, nbformat.v4.new_markdown_cell("\n".join(words), metadata={"slideshow": {"slide_type": "slide"}})
    )
    for number, cell in enumerate(cells):
        cell.id = f"cell-{number}"  # unique in the deck
        if cell.cell_type == "markdown":
            cell.source = BETWEEN.sub(r"\1", REMOTE.sub("", cell.source))
    return nbformat.v4.new_notebook(cells=cells, metadata={"title": "Open LLM Kit: the talk"})


def read_type(cell: NotebookNode) -> str:
    """A cell's slide type: slide, -, fragment, notes or skip; skip where it has none."""
    return cell.metadata.get("slideshow", {}).get("slide_type", "skip")


def list_minutes(notebook: NotebookNode) -> Iterator[float]:
    """What the speaker notes say about the time, in minutes, one for each note."""
    return (float(MINUTES.match(cell.source)[1]) for cell in notebook.cells if read_type(cell) == "notes")


def build_deck(notebook: NotebookNode) -> str:
    """The deck as one HTML page."""
    config = Config({"TagRemovePreprocessor": {"enabled": True, "remove_input_tags": {"remove-input"}}})
    exporter = SlidesExporter(config=config, raw_template=TEMPLATE)
    deck = {"css": find_source("dist/reveal.css") + STYLE, "script": build_script()}
    page, _ = exporter.from_notebook_node(notebook, resources={"deck": deck})
    return page.replace("✅", "✔").replace(
        "❌", "✘"
    )  # the first two need an emoji font, which not every machine has


def main(arguments: list[str]) -> None:
    """`python -m tools.slides [--output FILE]`."""
    parser = CommandParser(
        prog="python -m tools.slides",
        description="Builds the talk out of the notebooks: one file that needs no network.",
    )
    parser.add_argument("--output", type=Path, metavar="FILE", help="default: runs/slides.html")
    target = parser.parse_args(arguments).output or find_home() / "runs" / "slides.html"
    notebook = join_notebooks(sorted((PROJECT / "notebooks").glob("0*.ipynb")))
    with replace_when_complete(target) as fresh:
        fresh.write_text(build_deck(notebook), encoding="utf-8")
    slides = sum(read_type(cell) == "slide" for cell in notebook.cells)
    print(
        f"{target}: {slides} slides for {sum(list_minutes(notebook)):g} minutes; press S for the speaker notes"
    )


if __name__ == "__main__":
    raise SystemExit(run_command(main))
