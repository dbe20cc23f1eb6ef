"""The talk: what its cells say about themselves, and the deck itself in a browser without a network, at 1280 by 720."""

import jupytext
import nbformat
import pytest
from support.browser import needs_chromium

from helpers import PROJECT, KitError
from helpers.common.command import run_command
from tools.slides import (
    HEIGHT,
    MINUTES,
    WIDTH,
    build_deck,
    find_source,
    join_notebooks,
    list_minutes,
    main,
    read_type,
)

PATHS = sorted((PROJECT / "notebooks").glob("0*.ipynb"))
TYPES = {"slide", "-", "fragment", "notes", "skip"}
# What of the slide shown is out of the window or hidden inside a box, with its place: the number of pixels that lack.
FIND_OVERFLOW = """() => {
    const found = [], section = Reveal.getCurrentSlide();
    for (const part of [section, ...section.querySelectorAll('*:not(aside *)')]) {
        const box = part.getBoundingClientRect(), range = document.createRange();
        if (!box.width || part.closest('aside') || getComputedStyle(part).visibility === 'collapse') continue;
        const out = Math.max(box.bottom - innerHeight, box.right - innerWidth, -box.top, -box.left, part.scrollWidth - part.clientWidth - 1);
        if (out > 1 && getComputedStyle(part).display !== 'inline') found.push(`${part.tagName}.${part.className}: ${Math.round(out)} px`);
    }
    return found;
}"""


def open_deck(browser, path):
    """The deck in a window of its own, without a network; the list grows with each address that it asks for."""
    context = browser.new_context(viewport={"width": WIDTH, "height": HEIGHT}, offline=True)
    page, asked = context.new_page(), []
    context.on("request", lambda request: asked.append(request.url))
    page.goto(path.as_uri())
    page.wait_for_function("window.Reveal && Reveal.isReady()")
    return page, asked


def show_slides(page):
    """Shows the slides one after the other, with all their fragments; yields each one's first heading."""
    for number in range(page.evaluate("Reveal.getTotalSlides()")):
        page.evaluate(f"Reveal.slide({number}, 0, 99)")
        yield page.evaluate("(Reveal.getCurrentSlide().querySelector('h1, h2, h3') ?? {}).textContent")


@pytest.fixture(scope="module")
def talk(tmp_path_factory):
    """The deck, made by the command."""
    path = tmp_path_factory.mktemp("talk") / "slides.html"
    assert run_command(main, ["--output", str(path)]) in (0, None)
    return path


@pytest.mark.parametrize("path", PATHS, ids=lambda path: path.stem)
def test_every_cell_says_whether_it_is_on_a_slide_in_notebook_and_text_pair(path):
    notebook, text = (
        nbformat.read(path, as_version=4),
        jupytext.read(PROJECT / "notebooks" / "text" / f"{path.stem}.py"),
    )
    types = [cell.metadata.get("slideshow", {}).get("slide_type") for cell in notebook.cells]
    unmarked = [
        cell.source.splitlines()[0]
        for cell, kind in zip(notebook.cells, types, strict=True)
        if kind not in TYPES
    ]
    assert unmarked == []
    assert types == [cell.metadata.get("slideshow", {}).get("slide_type") for cell in text.cells]
    assert types[0] == "slide"


@pytest.mark.parametrize("path", PATHS, ids=lambda path: path.stem)
def test_every_slide_has_a_heading_and_one_note_with_minutes(path):
    cells = [cell for cell in nbformat.read(path, as_version=4).cells if read_type(cell) != "skip"]
    starts = [number for number, cell in enumerate(cells) if read_type(cell) == "slide"]
    for start, end in zip(starts, [*starts[1:], len(cells)], strict=True):
        assert cells[start].source.startswith("#")
        notes = [cell for cell in cells[start:end] if read_type(cell) == "notes"]
        assert len(notes) == 1 and MINUTES.match(notes[0].source), cells[start].source.splitlines()[0]


def test_talk_has_25_to_35_slides_for_45_minutes():
    notebook = join_notebooks(PATHS)
    assert 25 <= sum(read_type(cell) == "slide" for cell in notebook.cells) <= 35
    assert sum(list_minutes(notebook)) == 45


def test_missing_file_of_reveal_is_said():
    with pytest.raises(KitError, match="carries no dist/none.js"):
        find_source("dist/none.js")


@needs_chromium
@pytest.mark.long
def test_no_slide_overflows_and_none_asks_for_the_network(browser, talk):
    page, asked = open_deck(browser, talk)
    found = {heading: page.evaluate(FIND_OVERFLOW) for heading in show_slides(page)}
    assert (
        len(found) == page.evaluate("Reveal.getTotalSlides()")
        and {heading: parts for heading, parts in found.items() if parts} == {}
    )
    assert [url for url in asked if not url.startswith(("file:", "data:", "blob:"))] == []


@needs_chromium
@pytest.mark.long
@pytest.mark.parametrize(
    "source", ["# Too long\n\n" + "- a line\n" * 40, "# Too wide\n\n|" + "x" * 400 + "|\n|---|\n|x|"]
)
def test_slide_with_too_much_on_it_is_found(browser, tmp_path, source):
    cell = nbformat.v4.new_markdown_cell(source, metadata={"slideshow": {"slide_type": "slide"}})
    path = tmp_path / "slides.html"
    path.write_text(build_deck(nbformat.v4.new_notebook(cells=[cell])), encoding="utf-8")
    page, _ = open_deck(browser, path)
    assert page.evaluate(FIND_OVERFLOW)


@needs_chromium
@pytest.mark.long
def test_speaker_view_shows_the_notes(browser, talk):
    page, _ = open_deck(browser, talk)
    page.evaluate("Reveal.slide(1)")
    with page.expect_popup() as popup:
        page.keyboard.press("s")
    notes = popup.value.locator(".speaker-controls-notes .value")
    notes.wait_for()
    assert "To the speaker, 2 min." in notes.inner_text()
