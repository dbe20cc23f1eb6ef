"""The pictures of the lessons: drawn by the code that is committed with them, and readable."""

import xml.etree.ElementTree as ElementTree
from functools import cache

import numpy as np
import pytest
from support.browser import needs_chromium

from helpers.common.paths import PROJECT
from tools.pictures import rounding
from tools.pictures.__main__ import FOLDER, PICTURES, draw_all
from tools.pictures.facts import MODEL, measure_facts, read_facts
from tools.pictures.svg import SMALLEST, Picture

SVG = "{http://www.w3.org/2000/svg}"
READABLE = 4.5  # WCAG's contrast of text with its ground, level AA
WIDEST = 1000  # pixels

# Runs in the page of a picture. Of each text: its words, its box, its colour, whether a shape lies on it, and
# the fill of the shape below its middle that was drawn last before it: black where there is none, since a
# page may be dark.
LIST_TEXTS = """() => {
  const shapes = [...document.querySelectorAll('rect, circle, polygon')].filter(
    shape => shape.getAttribute('fill') !== 'none');
  const follows = (shape, text) => shape.compareDocumentPosition(text) & Node.DOCUMENT_POSITION_FOLLOWING;
  return [...document.querySelectorAll('svg text')].map(text => {
    const box = text.getBBox(), right = box.x + box.width, bottom = box.y + box.height;
    const has = (shape, x, y) => shape.isPointInFill(new DOMPoint(x, y));
    const middle = [box.x + box.width / 2, box.y + box.height / 2];
    const below = shapes.filter(shape => follows(shape, text) && has(shape, ...middle));
    const covers = shape => !follows(shape, text) &&
      [box.x + 1, middle[0], right - 1].some(x => has(shape, x, middle[1]));
    return {words: text.textContent, x: box.x, y: box.y, right, bottom, covered: shapes.some(covers),
            ink: getComputedStyle(text).fill,
            ground: below.length ? getComputedStyle(below.at(-1)).fill : 'rgb(0, 0, 0)'};
  });
}"""


@cache
def draw(name):
    """A picture, drawn once."""
    return PICTURES[name]()


def each_picture(function):
    """Runs a test for each of the pictures."""
    return pytest.mark.parametrize("name", PICTURES)(function)


@pytest.fixture(scope="module")
def page(browser):
    """A page of the browser, for one picture after the other."""
    page = browser.new_page()
    yield page
    page.close()


def list_texts(page, picture):
    """What LIST_TEXTS finds in a picture."""
    page.set_content(f'<body style="margin: 0">{picture.render()}</body>')
    return page.evaluate(LIST_TEXTS)


def find_overlaps(texts):
    """The pairs of texts whose boxes share a place; a line's box may reach 2 pixels into the next line's."""
    return [
        (one["words"], other["words"])
        for number, one in enumerate(texts)
        for other in texts[:number]
        if min(one["right"], other["right"]) - max(one["x"], other["x"]) > 0.5
        and min(one["bottom"], other["bottom"]) - max(one["y"], other["y"]) > 2
    ]


def find_outside(texts, picture):
    """The texts that do not lie in the card with 5 pixels around them."""
    return [
        text["words"]
        for text in texts
        if text["x"] < 5
        or text["y"] < 1
        or text["right"] > picture.width - 5
        or text["bottom"] > picture.height - 1
    ]


def measure_contrast(first, second):
    """WCAG's contrast of two colours such as rgb(1, 2, 3)."""
    lightness = []
    for colour in (first, second):
        parts = [int(part) / 255 for part in colour.removeprefix("rgb(").removesuffix(")").split(",")]
        linear = [part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in parts]
        lightness.append(0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2])
    return (max(lightness) + 0.05) / (min(lightness) + 0.05)


@each_picture
def test_committed_file_is_what_the_code_draws(name):
    path = FOLDER / f"{name}.svg"
    assert path.read_text(encoding="utf-8") == draw(name).render(), "run: python -m tools.pictures"


def test_folder_has_no_drawing_that_no_code_draws():
    assert {path.stem for path in FOLDER.glob("*.svg")} == set(PICTURES)


def test_second_drawing_changes_no_file(tmp_path):
    assert len(draw_all(tmp_path)) == len(PICTURES)
    assert draw_all(tmp_path) == []


@each_picture
def test_picture_has_a_title_and_says_what_it_shows(name):
    root = ElementTree.fromstring(draw(name).render())
    title, description = root.find(f"{SVG}title"), root.find(f"{SVG}desc")
    assert root.get("role") == "img" and title is not None and description is not None
    assert root.get("aria-labelledby") == f"{title.get('id')} {description.get('id')}"
    assert title.text and description.text == draw(name).alt
    assert len(draw(name).alt) >= 80
    assert not draw(name).alt.lower().startswith(("image", "picture", "figure"))
    assert not set("[]\n") & set(draw(name).alt), "Markdown's ![...] cannot hold it"


@each_picture
def test_picture_is_no_wider_than_a_page_and_its_text_no_smaller_than_can_be_read(name):
    root = ElementTree.fromstring(draw(name).render())
    assert int(root.attrib["width"]) <= WIDEST
    sizes = [float(text.attrib["font-size"]) for text in root.iter(f"{SVG}text")]
    assert sizes and min(sizes) >= SMALLEST


@each_picture
def test_picture_needs_nothing_from_elsewhere(name):
    allowed = {"svg", "title", "desc", "g", "rect", "circle", "polygon", "polyline", "text"}
    root = ElementTree.fromstring(draw(name).render())
    assert {element.tag.removeprefix(SVG) for element in root.iter()} <= allowed
    assert not [key for element in root.iter() for key in element.attrib if key.endswith("href")]


@needs_chromium
@each_picture
def test_every_text_lies_inside_the_card_and_nothing_lies_on_it(page, name):
    texts = list_texts(page, draw(name))
    assert texts and find_outside(texts, draw(name)) == [] and find_overlaps(texts) == []
    assert [text["words"] for text in texts if text["covered"]] == []


@needs_chromium
@each_picture
def test_every_text_can_be_read_on_what_lies_below_it(page, name):
    weak = [
        text["words"]
        for text in list_texts(page, draw(name))
        if measure_contrast(text["ink"], text["ground"]) < READABLE
    ]
    assert weak == []


@needs_chromium
def test_search_for_bad_texts_finds_them(page):
    picture = Picture("Bad", "", 200, 100)
    picture.text(20, 50, "one")
    picture.text(25, 52, "two", fill="#cccccc")
    picture.text(190, 90, "three")
    picture.text(120, 50, "four")
    picture.rect(80, 30, 50, 30)
    texts = list_texts(page, picture)
    assert find_overlaps(texts) == [("two", "one")] and find_outside(texts, picture) == ["three"]
    weak = [measure_contrast(text["ink"], text["ground"]) < READABLE for text in texts]
    assert weak == [False, True, True, False]
    assert [text["covered"] for text in texts] == [False, False, False, True]


def test_rounding_moves_no_weight_by_more_than_half_a_level():
    _, step = rounding.find_grid()
    assert np.abs(rounding.round_each().errors).max() <= step / 2
    assert {0, rounding.LEVELS - 1} <= set(rounding.round_each().codes)


def test_gptq_changes_the_output_less_than_rounding_each_weight():
    gptq, moves = rounding.round_as_gptq()
    assert gptq.measure_output_error() < rounding.round_each().measure_output_error()
    assert moves[0] == 0 and (moves[1:] * rounding.round_each().errors[0] > 0).all()


@pytest.mark.skipif(not (PROJECT / "models" / MODEL).is_dir(), reason=f"{MODEL} is not here: run lesson 1")
def test_facts_are_those_of_the_model_and_the_data(monkeypatch):
    monkeypatch.setenv("OPEN_LLM_KIT_HOME", str(PROJECT))
    assert measure_facts() == read_facts()
