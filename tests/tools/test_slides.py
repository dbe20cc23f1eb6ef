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
from helpers.tutorial import checks
from tools import slide_notes
from tools.publication import Publication
from tools.slide_notes import make_closing_slide, make_title_slide, read_type
from tools.slide_page import HEIGHT, WIDTH
from tools.slides import (
    REVEAL,
    build_deck,
    escape_script,
    hide_guess,
    join_notebooks,
    list_minutes,
    main,
    remove_links,
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
    assert (
        len(minutes) == sum(read_type(cell) == "slide" for cell in notebook.cells) - 2
    )  # the first and last
    left = 45 - sum(minutes)
    assert 2 <= left <= 10  # for questions
    notes = [cell.source for cell in notebook.cells if read_type(cell) == "notes"]
    assert notes[-2].startswith(f"**{minutes[-1]:g} min, by now {sum(minutes):g}.** ")
    assert notes[-1].startswith(f"**{left:g} min, by now 45.** ")


def test_slide_of_a_lesson_s_title_has_its_heading_and_the_map_only():
    titles = [cell for cell in join_notebooks(PATHS).cells if cell.source.startswith("# Lesson")]
    assert len(titles) == 5
    for cell in titles:
        heading, picture = cell.source.split("\n\n")
        assert heading.startswith("# Lesson") and re.fullmatch(r"!\[.*\]\(images/map-\d\.svg\)", picture)


def make_lesson(*cells):
    """A lesson with slides of these (source, speaker's note), the first its title."""
    parts = [
        nbformat.v4.new_markdown_cell(
            source, metadata={"slideshow": {"slide_type": "slide"}, "speaker": note, "minutes": 1}
        )
        for source, note in cells
    ]
    return nbformat.v4.new_notebook(cells=parts)


def test_note_of_the_first_slide_lists_what_is_shown_live_and_the_servers():
    quiet = make_lesson(("# Lesson 1: a", "Look at it."))
    live = make_lesson(("# Lesson 2: b", "Wait."), ("### See", "Guess first. Then run it live. Go on."))
    live.cells.append(nbformat.v4.new_code_cell("server = tutorial.reach_server('x')"))
    slide, note = make_title_slide({"01_a.ipynb": quiet, "02_b.ipynb": live})
    assert "- Lesson 1: a\n- Lesson 2: b" in slide.source and slide_notes.SUBTITLE in slide.source
    assert "02_b.ipynb, *See*: Then run it live." in note.source and "Go on." not in note.source
    assert "reach_server(...)` in 02_b.ipynb" in note.source and "01_a.ipynb" not in note.source


def test_last_slide_says_where_the_kit_is(monkeypatch):
    address = "https://github.com/somebody/kit"
    monkeypatch.setattr(slide_notes, "read_publication", lambda _: Publication(address, "v1", "1" * 40))
    slide, _ = make_closing_slide(40)
    assert f"<{address}>" in slide.source and slide.source.endswith("# Questions?")
    assert slide.source.count("\n- ") == 3
    monkeypatch.setattr(slide_notes, "read_publication", lambda _: None)
    assert "ask the speaker" in make_closing_slide(40)[0].source


@pytest.mark.parametrize(
    "found", [(0.1, 0.69, "%"), (70, 138.0, "GB"), (2.0, 2.0), ("same", "different"), (1, 1e9)]
)
def test_guess_of_a_lesson_s_own_run_is_not_on_the_slides(found, capsys):
    checks.compare_guess(*found)
    printed = f"before\n{capsys.readouterr().out}after.\n"
    cell = nbformat.v4.new_code_cell(outputs=[nbformat.v4.new_output("stream", text=printed)])
    before, answer, after = hide_guess(cell).outputs[0].text.splitlines()
    value = checks.describe_value(found[1], found[2] if len(found) > 2 else "")
    assert [before, answer, after] == ["before", f"Answer: {value}.", "after."]


def test_links_to_files_become_text_and_links_to_the_network_and_pictures_stay():
    text = "[base](glossary.md#base) [4](04_x.ipynb) ![map](images/map.svg) [TheBloke](https://hf.co/x)"
    assert remove_links(text) == "base 4 ![map](images/map.svg) [TheBloke](https://hf.co/x)"


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
def test_links_of_the_page_lead_to_the_network_or_to_the_page_itself(browser, talk):
    page, _ = open_deck(browser, talk)
    links = page.evaluate(
        "[...document.querySelectorAll('.slides a')].map((a) => a.getAttribute('href') || '')"
    )
    assert [link for link in links if not link.startswith(("https://", "http://", "#"))] == []


# The least height of a map's letters on a screen of 1080 lines, and whether a short cell has two lines.
LEAST_LETTER = """() => {
    const picture = Reveal.getCurrentSlide().querySelector('img');
    return 14 * picture.getBoundingClientRect().width / picture.naturalWidth * 1080 / innerHeight;
}"""
BROKEN_CELLS = """() => [...Reveal.getCurrentSlide().querySelectorAll('td, th')].filter((cell) => {
    const range = document.createRange();
    range.selectNodeContents(cell);
    const lines = new Set([...range.getClientRects()].map((box) => Math.round(box.bottom)));
    return /^[\\d.%+-]+ \\[/.test(cell.textContent.trim()) && lines.size > 1;
}).map((cell) => cell.textContent)"""


@needs_chromium
@pytest.mark.long
def test_maps_can_be_read_from_the_last_row_and_figures_with_intervals_stay_in_a_line(browser, talk):
    page, _ = open_deck(browser, talk)
    maps = 0
    for _ in show_slides(page):
        assert page.evaluate(BROKEN_CELLS) == []
        if page.evaluate("/^Lesson \\d/.test(Reveal.getCurrentSlide().innerText.trim())"):
            maps += 1
            assert page.evaluate(LEAST_LETTER) >= 24
    assert maps == 5


@needs_chromium
@pytest.mark.long
@pytest.mark.parametrize("rest", ["", "- a line\n" * 8], ids=["alone", "with a list"])
def test_picture_takes_what_is_left_of_its_slide(browser, tmp_path, rest):
    source = f"# The map\n\n{rest}\n![The five lessons](images/map.svg)"
    cell = nbformat.v4.new_markdown_cell(source, metadata={"slideshow": {"slide_type": "slide"}})
    path = tmp_path / "slides.html"
    path.write_text(build_deck(nbformat.v4.new_notebook(cells=[cell])), encoding="utf-8")
    page, _ = open_deck(browser, path)
    page.wait_for_function("Reveal.getCurrentSlide().dataset.fitted")
    assert page.evaluate(FIND_OVERFLOW) == []
    box = page.locator(".present img").first.bounding_box()
    wide, low = box["width"] > WIDTH - 150, box["y"] + box["height"] > HEIGHT - 40
    assert wide or low


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
    assert notes.inner_text().startswith("2 min, by now 2.") and text in notes.inner_text()


def test_deck_never_takes_the_place_of_a_folder_or_pipe(tmp_path, capsys):
    (tmp_path / "precious").touch()
    os.mkfifo(tmp_path / "pipe")
    for place in (str(tmp_path), str(tmp_path / "pipe")):
        assert run_command(main, ["--output", place]) == 2
        assert len(capsys.readouterr().err.splitlines()) == 1
    assert (tmp_path / "precious").is_file()
