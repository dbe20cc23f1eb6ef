"""The talk: what its cells say about themselves, and the page itself in a browser without a network."""

import base64
import os
import re

import jupytext
import nbformat
import pytest
from support.browser import needs_chromium
from support.lessons import PATHS, each_lesson, name_pair, read_notebook, read_slide_type

from helpers.common.command import run_command
from helpers.common.errors import UsageError
from helpers.common.files import hash_file
from helpers.common.paths import PROJECT
from tools.slides import (
    HEIGHT,
    REVEAL,
    WIDTH,
    build_deck,
    escape_script,
    join_notebooks,
    list_minutes,
    main,
    read_type,
)

TYPES = {"slide", "-", "fragment", "skip"}

# The elements of the current slide that are partly outside the window, or hidden inside a box, each with the
# number of pixels that are missing.
FIND_OVERFLOW = """() => {
    const found = [], section = Reveal.getCurrentSlide();
    for (const part of [section, ...section.querySelectorAll('*:not(aside *)')]) {
        const box = part.getBoundingClientRect(), style = getComputedStyle(part);
        if (!box.width || part.closest('aside') || style.visibility === 'collapse') continue;
        const below = box.bottom - innerHeight, right = box.right - innerWidth;
        const hidden = part.scrollWidth - part.clientWidth - 1;
        const missing = Math.max(below, right, -box.top, -box.left, hidden);
        if (missing > 1 && style.display !== 'inline')
            found.push(`${part.tagName}.${part.className}: ${Math.round(missing)} px`);
    }
    return found;
}"""


def open_deck(browser, path):
    """The page in a window of its own, without a network, and the list of addresses that it asks for."""
    context = browser.new_context(viewport={"width": WIDTH, "height": HEIGHT}, offline=True)
    page, asked = context.new_page(), []
    context.on("request", lambda request: asked.append(request.url))
    page.goto(path.as_uri())
    page.wait_for_function("window.Reveal && Reveal.isReady()")
    return page, asked


def show_slides(page):
    """Shows the slides one after the other, with all their fragments; yields the number of each."""
    for number in range(page.evaluate("Reveal.getTotalSlides()")):
        page.evaluate(f"Reveal.slide({number}, 0, 99)")
        yield number


@pytest.fixture(scope="module")
def talk(tmp_path_factory):
    """The talk, built by the command."""
    path = tmp_path_factory.mktemp("talk") / "slides.html"
    assert run_command(main, ["--output", str(path)]) == 0
    return path


@each_lesson
def test_every_cell_says_whether_it_is_on_a_slide(path):
    types = [read_slide_type(cell) for cell in read_notebook(path).cells]
    assert set(types) <= TYPES and types[0] == "slide"
    assert types == [read_slide_type(cell) for cell in jupytext.read(name_pair(path)).cells]


@each_lesson
def test_every_slide_has_a_heading_and_the_speaker_s_notes(path):
    cells = [cell for cell in read_notebook(path).cells if read_type(cell) != "skip"]
    starts = [number for number, cell in enumerate(cells) if read_type(cell) == "slide"]
    for start, end in zip(starts, [*starts[1:], len(cells)], strict=True):
        assert cells[start].source.startswith("#")
        assert cells[start].metadata["speaker"], cells[start].source.splitlines()[0]
        assert not [cell for cell in cells[start + 1 : end] if "speaker" in cell.metadata]


def test_talk_has_25_to_35_slides_for_45_minutes():
    notebook = join_notebooks(PATHS)
    minutes = list_minutes(notebook)
    assert 25 <= sum(read_type(cell) == "slide" for cell in notebook.cells) <= 35
    assert len(minutes) == sum(read_type(cell) == "slide" for cell in notebook.cells) - 1  # the title
    assert sum(minutes) == 45


def test_note_without_minutes_is_an_error():
    cell = nbformat.v4.new_markdown_cell("# Weights", metadata={"speaker": "Speak up."})
    with pytest.raises(UsageError, match="# Weights"):
        list_minutes(nbformat.v4.new_notebook(cells=[cell]))


def test_files_of_reveal_are_those_that_its_readme_names():
    table = (REVEAL / "README.md").read_text(encoding="utf-8")
    named = dict(re.findall(r"^\| (\S+) \| \S+ \| ([0-9a-f]{64}) \|$", table, flags=re.MULTILINE))
    scripts = [path for path in REVEAL.iterdir() if path.suffix in (".js", ".css")]
    assert named == {path.name: hash_file(path) for path in scripts}


@pytest.mark.parametrize("text", ["<script>", "</script>", "<!-- a comment", "</SCRIPT>"])
def test_script_cannot_end_its_element(text):
    assert text not in escape_script(f"const text = '{text}';")


def test_picture_of_a_lesson_is_in_the_deck_itself():
    source = "# The map\n\n![The five lessons, from weights to LoRA](images/map.svg)"
    cell = nbformat.v4.new_markdown_cell(source, metadata={"slideshow": {"slide_type": "slide"}})
    page = build_deck(nbformat.v4.new_notebook(cells=[cell]))
    picture = base64.b64encode((PROJECT / "notebooks" / "images" / "map.svg").read_bytes()).decode()
    assert f"data:image/svg+xml;base64,{picture}" in page and "images/map.svg" not in page
    assert 'alt="The five lessons, from weights to LoRA"' in page


def test_comparison_in_a_script_stays():
    assert escape_script("if (a<b && b</c/.length) d();") == "if (a<b && b</c/.length) d();"


@needs_chromium
@pytest.mark.long
def test_no_slide_overflows_and_none_asks_for_the_network(browser, talk):
    page, asked = open_deck(browser, talk)
    found = {number: page.evaluate(FIND_OVERFLOW) for number in show_slides(page)}
    assert len(found) >= 25 and {number: parts for number, parts in found.items() if parts} == {}
    assert [url for url in asked if not url.startswith(("file:", "data:", "blob:"))] == []


@needs_chromium
@pytest.mark.long
@pytest.mark.parametrize(
    "source", ["# Too long\n\n" + "- a line\n" * 40, "# Too wide\n\n|" + "x" * 400 + "|\n|---|\n|x|"]
)
def test_search_for_overflow_finds_it(browser, tmp_path, source):
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
    text = read_notebook(PATHS[0]).cells[0].metadata["speaker"]
    assert notes.inner_text().startswith("2 min.") and text in notes.inner_text()


def test_deck_never_takes_the_place_of_a_folder_or_pipe(tmp_path, capsys):
    (tmp_path / "precious").touch()
    os.mkfifo(tmp_path / "pipe")
    for place in (str(tmp_path), str(tmp_path / "pipe")):
        assert run_command(main, ["--output", place]) == 2
        assert len(capsys.readouterr().err.splitlines()) == 1
    assert (tmp_path / "precious").is_file()
