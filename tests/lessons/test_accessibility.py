"""Who cannot see the figures, or sees them without colours, can follow: pages, links, figures, marks and colours, computed and counted."""

import itertools
import re
from html.parser import HTMLParser
from pathlib import Path

import matplotlib.colors
import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest
from IPython.display import HTML
from matplotlib.text import Text
from support.lessons import PATHS, code_cells, read

from helpers import PROJECT
from helpers.tutorial import plots
from helpers.tutorial.checks import confirm
from helpers.tutorial.plots import (
    draw_accuracies,
    draw_formats,
    draw_loss,
    draw_norms,
    draw_shares,
    show_tokens,
)

PAGES = [
    PROJECT / "README.md",
    *sorted((PROJECT / "notebooks").glob("*.md")),
    *sorted((PROJECT / "data").glob("*/README.md")),
    PROJECT / "launch" / "README.md",
]
VAGUE = {"here", "click here", "this", "this page", "link", "more", "read more", "see", "page", "website"}
LINK = re.compile(r"(?<!!)\[((?:!\[[^\]]*\]\([^)]*\)|[^\]\[])+)\]\(([^)\s]+)\)")
# Colours as people with each of the three colour blindnesses see them, at full severity, on linear RGB: Machado, Oliveira and Fernandes 2009.
BLINDNESS = {
    "protan": [
        [0.152286, 1.052583, -0.204868],
        [0.114503, 0.786281, 0.099216],
        [-0.003882, -0.048116, 1.051998],
    ],
    "deutan": [
        [0.367322, 0.860646, -0.227968],
        [0.280085, 0.672501, 0.047413],
        [-0.011820, 0.042940, 0.968881],
    ],
    "tritan": [
        [1.255528, -0.076749, -0.178779],
        [-0.078411, 0.930809, 0.147602],
        [0.004733, 0.691367, 0.303900],
    ],
    "none": np.eye(3).tolist(),
}
FORMATS = [
    {"format": name, "disk_mb": 270.0, "memory_mb": 900.0, "tokens_per_s": 20.0, "perplexity": 24.0}
    for name in ("float32", "bfloat16")
]
FIGURES = {
    "draw_loss": lambda: draw_loss([3.0, 2.0, 1.5, 1.2]),
    "draw_accuracies": lambda: draw_accuracies({"majority": (0.4, 100), "LoRA": (0.75, 100)}),
    "draw_formats": lambda: draw_formats(FORMATS),
    "draw_norms": lambda: draw_norms(pd.DataFrame({"q_proj": [0.1, 0.2], "up_proj": [0.4, 0.3]})),
    "draw_shares": lambda: draw_shares({"Blue": 0.7, "Red": 0.2}, "probability"),
}


def to_linear(colour) -> np.ndarray:
    """sRGB, as matplotlib or CSS names it, to linear RGB."""
    rgb = np.array(matplotlib.colors.to_rgb(colour))
    return np.where(rgb <= 0.04045, rgb / 12.92, ((rgb + 0.055) / 1.055) ** 2.4)


def luminance(colour, sight: str = "none") -> float:
    """Relative luminance, as WCAG defines it, of a colour as it is seen."""
    return float(np.clip(np.array(BLINDNESS[sight]) @ to_linear(colour), 0, 1) @ [0.2126, 0.7152, 0.0722])


def contrast(first, second, sight: str = "none") -> float:
    """WCAG's contrast ratio, from 1 to 21."""
    low, high = sorted((luminance(first, sight), luminance(second, sight)))
    return (high + 0.05) / (low + 0.05)


def test_contrast_is_computed_as_wcag_does():
    assert contrast("#000", "#fff") == pytest.approx(21) and contrast("#777777", "#ffffff") == pytest.approx(
        4.48, abs=0.01
    )


def test_every_figure_of_the_kit_is_looked_at():
    assert set(FIGURES) == {name for name in vars(plots) if name.startswith("draw_")}


@pytest.fixture(params=FIGURES)
def figure(request):
    """Each of the figures."""
    drawn = FIGURES[request.param]()
    drawn.canvas.draw()
    yield drawn
    plt.close(drawn)


def list_marks(axes) -> list[tuple[str, tuple]]:
    """(colour, shape) of what is drawn in one axes: lines and points, and bars, of which one sees the stronger of edge and face."""
    marks = [(line.get_color(), (line.get_linestyle(), line.get_marker())) for line in axes.lines]
    for patch in axes.patches:
        colours = [patch.get_facecolor()[:3], patch.get_edgecolor()[:3]]
        marks.append((max(colours, key=lambda colour: contrast(colour, "white")), ("bar", patch.get_hatch())))
    return marks


def test_words_and_marks_of_figures_stand_out_from_a_white_ground(figure):
    assert matplotlib.colors.to_hex(figure.get_facecolor()) == "#ffffff"
    words = [text for text in figure.findobj(Text) if text.get_text().strip() and text.get_visible()]
    assert words and min(contrast(text.get_color(), "white") for text in words) >= 4.5
    marks = [colour for axes in figure.axes for colour, _ in list_marks(axes)]
    assert all(contrast(colour, "white", sight) >= 4.5 for colour in marks for sight in BLINDNESS)


def test_marks_of_two_colours_differ_in_lightness_for_every_eye_and_in_shape(figure):
    for axes in figure.axes:
        for (one, shape), (other, another) in itertools.combinations(list_marks(axes), 2):
            if not matplotlib.colors.same_color(one, other):
                assert shape != another and all(contrast(one, other, sight) >= 2 for sight in BLINDNESS)


def test_every_bar_has_its_value_in_words(figure):
    for axes in figure.axes:
        bars = [patch for patch in axes.patches if patch.get_width() and patch.get_height()]
        labels = [text for text in axes.texts if re.search(r"\d", text.get_text())]
        assert len(labels) >= len(bars)


def test_heat_map_grows_lighter_with_its_values_for_every_eye_and_names_its_means():
    drawn = FIGURES["draw_norms"]()
    colours = drawn.axes[0].images[0].cmap(np.linspace(0, 1, 64))
    for sight in BLINDNESS:
        assert (np.diff([luminance(colour[:3], sight) for colour in colours]) > 0).all()
    assert [label.get_text() for label in drawn.axes[0].get_xticklabels()] == [
        "q_proj\n0.15",
        "up_proj\n0.35",
    ]
    plt.close(drawn)


class Styles(HTMLParser):
    """Every style attribute of a page."""

    def __init__(self, page: str):
        super().__init__()
        self.found: list[str] = []
        self.feed(page)

    def handle_starttag(self, tag, attributes):
        self.found += [value for name, value in attributes if name == "style"]


def check_style(style: str) -> None:
    """Words and ground are set together, since a notebook may be dark, and stand out from each other."""
    rules = dict(re.findall(r"(?<![\w-])(color|background|background-color):\s*(#\w+|[a-z]+)", style))
    colour, ground = rules.get("color"), rules.get("background") or rules.get("background-color")
    assert (colour is None) == (ground is None), style
    assert colour is None or contrast(colour, ground) >= 4.5, style


def test_learned_tokens_are_framed_bold_and_said_in_words(monkeypatch):
    shown: list[HTML] = []
    monkeypatch.setattr(plots, "display", shown.append)
    show_tokens(["I ", "prefer ", "B"], [False, False, True])
    (style,) = Styles(shown[0].data).found
    check_style(style)
    assert "border:" in style and "bold" in style and "1 of 3 tokens are learned (framed): B" in shown[0].data


@pytest.mark.parametrize("path", sorted((PROJECT / "helpers").rglob("*.py")), ids=lambda path: path.stem)
def test_colours_that_the_package_writes_into_pages_can_be_read(path):
    text = re.sub(
        r"\{(DARK|MIDDLE|PALE)\}", lambda found: getattr(plots, found[1]), path.read_text(encoding="utf-8")
    )
    for style in re.findall(
        r"[\"'][^\"'\n]*(?<![\w-])(?:color|background(?:-color)?):\s*[#a-z][^\"'\n]*[\"']", text
    ):
        check_style(style)


def test_checkpoints_say_without_colour_and_sign_how_it_stands(capsys):
    for passed in (True, False):
        confirm(passed, "it holds", "mend it")
    well, badly = capsys.readouterr().out.splitlines()
    assert well.strip("✅ ") == "it holds" and badly.strip("❌ ") == "not yet: it holds. What to do: mend it"


def list_links(text: str) -> list[tuple[str, str]]:
    """(what a link says, where it goes); the alt text of a picture that is a link."""
    text = re.sub(r"```.*?```|`[^`\n]*`", "", text, flags=re.S)
    return [(re.sub(r"!\[([^\]]*)\]\([^)]*\)", r"\1", words), target) for words, target in LINK.findall(text)]


def read_markdown(path: Path) -> str:
    """A page, or the Markdown cells of a notebook."""
    if path.suffix == ".md":
        return path.read_text(encoding="utf-8")
    return "\n\n".join(cell.source for cell in read(path).cells if cell.cell_type == "markdown")


def list_places(path: Path) -> list[str]:
    """The anchors of a page's headings, as GitHub makes them."""
    headings = re.findall(r"^#+ (.*)$", read_markdown(path), flags=re.M)
    return [re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings]


@pytest.mark.parametrize("path", [*PATHS, *PAGES], ids=lambda path: f"{path.parent.name}-{path.stem}")
def test_links_say_where_they_go(path):
    links = list_links(read_markdown(path))
    for words, target in links:
        assert words.strip().lower() not in VAGUE and len(words.strip()) > 2 and "://" not in words, words
        if not re.match(r"https?:|#|mailto:", target):
            file, _, place = target.partition("#")
            page = path.parent / file if file else path
            assert page.exists() and (not place or place in list_places(page)), target


def test_same_words_lead_to_the_same_place():
    places: dict[str, set[str]] = {}
    for path in [*PATHS, *PAGES]:
        for words, target in list_links(read_markdown(path)):
            if "colab.research.google.com" not in target:
                name = (
                    target
                    if re.match(r"https?:|#|mailto:", target)
                    else (path.parent / target).resolve().name
                )
                places.setdefault(words.lower(), set()).add(name)
    assert {words: found for words, found in places.items() if len(found) > 1} == {}


@pytest.mark.parametrize("path", PAGES, ids=lambda path: f"{path.parent.name}-{path.stem}")
def test_pages_have_one_title_and_skip_no_level_and_describe_their_pictures(path):
    text = re.sub(r"```.*?```", "", path.read_text(encoding="utf-8"), flags=re.S)
    levels = [len(found) for found in re.findall(r"^(#+) ", text, flags=re.M)]
    assert levels[0] == 1 and levels.count(1) == 1 and all(b - a <= 1 for a, b in itertools.pairwise(levels))
    assert all(len(words) >= 20 for words in re.findall(r"!\[([^\]]*)\]", text))


def list_pictures(cell) -> list[str]:
    """The alt texts of the pictures in a code cell's outputs."""
    pages = ["".join(output.get("data", {}).get("text/html", "")) for output in cell.outputs]
    return [
        alt
        for page in pages
        for tag in re.findall(r"<img[^>]*>", page)
        for alt in re.findall(r'alt="([^"]*)"', tag) or [""]
    ]


def read_words(cell) -> str:
    """What a code cell shows besides pictures."""
    shown = [
        output.get("text", "") or "".join(output.get("data", {}).get("text/html", ""))
        for output in cell.outputs
    ]
    return re.sub(r"<img[^>]*>", "", "\n".join(shown))


@pytest.mark.parametrize("path", PATHS, ids=lambda path: path.stem)
def test_every_plot_has_an_alt_text_and_its_numbers_beside_it(path):
    cells = code_cells(read(path))
    for before, cell in zip([None, *cells], cells, strict=False):
        if "plots.show(" in cell.source or "LiveLoss(" in cell.source:
            pictures = list_pictures(cell)
            assert pictures and all(
                len(alt) >= 40 and not alt.lower().startswith(("image", "picture", "figure"))
                for alt in pictures
            )
            numbers = re.findall(
                r"\d+(?:\.\d+)?", read_words(cell) + (read_words(before) if "above" in pictures[0] else "")
            )
            assert len(numbers) >= 2, cell.source
        else:
            assert all(len(alt) >= 20 for alt in list_pictures(cell))
