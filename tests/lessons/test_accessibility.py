"""People who cannot see the figures, or not their colours, can follow: pages, links, figures, colours."""

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
from support.lessons import NOTEBOOKS, PATHS, each_lesson, list_code_cells, read_notebook
from support.lessons import read_markdown as join_markdown

from helpers.common.paths import PROJECT
from helpers.evaluation import Scoreboard
from helpers.tasks.template import Template
from helpers.tutorial import plots
from helpers.tutorial.checks import confirm

PAGES = [
    *(PROJECT / f"{name}.md" for name in ("README", "CONTRIBUTING", "CHANGELOG", "SECURITY")),
    *sorted(NOTEBOOKS.glob("*.md")),
    *sorted((PROJECT / "data").glob("*/README.md")),
    PROJECT / "launch" / "README.md",
]
VAGUE = {"here", "click here", "this", "this page", "link", "more", "read more", "see", "page", "website"}
LINK = re.compile(r"(?<!!)\[((?:!\[[^\]]*\]\([^)]*\)|[^\]\[])+)\]\(([^)\s]+)\)")
ELSEWHERE = re.compile(r"https?:|#|mailto:")  # how a target begins that is not another file of the project

READABLE = 4.5  # WCAG's contrast of text with its ground, level AA
DIFFERENT = 2  # contrast of two marks that a reader can distinguish

# Colours as people with each of the three colour blindnesses see them, at full severity, on linear RGB.
# Source: Machado, Oliveira and Fernandes, 2009.
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
NORMS = pd.DataFrame({"q_proj": [0.1, 0.2], "up_proj": [0.4, 0.3]})
POINTS = [("live", 2.5, 0.42, 300), ("long", 15.0, 0.72, 300)]
BASELINES = {"majority": 0.26, "base": 0.28, "bag of words": 0.46}


def make_board():
    """A scoreboard of two lines."""
    rows = [{"text": str(number), "label": number % 3} for number in range(30)]
    board = Scoreboard(rows, Template("t", "", "{text}", {0: "none", 1: "A", 2: "B"}), pair=(1, 2))
    board.add_majority()
    board.add_scores("LoRA", "", [{0: -2.0, 1: -1.0, 2: -3.0} for _ in rows])
    return board


FIGURES = {
    "draw_scoreboard": lambda: plots.draw_scoreboard(make_board()),
    "draw_loss": lambda: plots.draw_loss([3.0, 2.0, 1.5, 1.2]),
    "draw_accuracy_over_minutes": lambda: plots.draw_accuracy_over_minutes(POINTS, BASELINES),
    "draw_formats": lambda: plots.draw_formats(FORMATS),
    "draw_relative_norms": lambda: plots.draw_relative_norms(NORMS / 10),
    "draw_shares": lambda: plots.draw_shares({"Blue": 0.7, "Red": 0.2}, "probability"),
}


def to_linear(colour) -> np.ndarray:
    """A colour of sRGB, as matplotlib or CSS names it, in linear RGB."""
    rgb = np.array(matplotlib.colors.to_rgb(colour))
    return np.where(rgb <= 0.04045, rgb / 12.92, ((rgb + 0.055) / 1.055) ** 2.4)


def luminance(colour, sight: str = "none") -> float:
    """Relative luminance, as WCAG defines it, of a colour as it is seen."""
    seen = np.clip(np.array(BLINDNESS[sight]) @ to_linear(colour), 0, 1)
    return float(seen @ [0.2126, 0.7152, 0.0722])


def contrast(first, second, sight: str = "none") -> float:
    """WCAG's contrast ratio, from 1 to 21."""
    low, high = sorted((luminance(first, sight), luminance(second, sight)))
    return (high + 0.05) / (low + 0.05)


def smallest_contrast(first, second) -> float:
    """The contrast of two colours for those who see it worst."""
    return min(contrast(first, second, sight) for sight in BLINDNESS)


def test_contrast_is_computed_as_wcag_does():
    assert contrast("#000", "#fff") == pytest.approx(21)
    assert contrast("#777777", "#ffffff") == pytest.approx(4.48, abs=0.01)


def test_every_figure_of_the_kit_is_tested():
    assert set(FIGURES) == {name for name in vars(plots) if name.startswith("draw_")}


@pytest.fixture(params=FIGURES)
def figure(request):
    """Each of the figures."""
    drawn = FIGURES[request.param]()
    drawn.canvas.draw()
    yield drawn
    plt.close(drawn)


def list_marks(axes) -> list[tuple[str, tuple]]:
    """(colour, shape) of the lines, points and bars in one axes; of a bar, the stronger of edge and face."""
    marks = [(line.get_color(), (line.get_linestyle(), line.get_marker())) for line in axes.lines]
    for patch in axes.patches:
        face, edge = patch.get_facecolor()[:3], patch.get_edgecolor()[:3]
        seen = face if contrast(face, "white") >= contrast(edge, "white") else edge
        marks.append((seen, ("bar", patch.get_hatch())))
    return marks


def test_words_of_a_figure_can_be_read_on_its_white_ground(figure):
    assert matplotlib.colors.to_hex(figure.get_facecolor()) == "#ffffff"
    words = [text for text in figure.findobj(Text) if text.get_text().strip() and text.get_visible()]
    assert words and all(contrast(text.get_color(), "white") >= READABLE for text in words)


def test_marks_of_a_figure_can_be_seen_by_every_eye(figure):
    for axes in figure.axes:
        assert all(smallest_contrast(colour, "white") >= READABLE for colour, _ in list_marks(axes))


def test_marks_of_two_colours_differ_in_lightness_and_in_shape(figure):
    for axes in figure.axes:
        for (one, shape), (other, another) in itertools.combinations(list_marks(axes), 2):
            if not matplotlib.colors.same_color(one, other):
                assert shape != another and smallest_contrast(one, other) >= DIFFERENT


def test_every_bar_has_its_value_in_digits(figure):
    for axes in figure.axes:
        bars = [patch for patch in axes.patches if patch.get_width() and patch.get_height()]
        labels = [text for text in axes.texts if re.search(r"\d", text.get_text())]
        assert len(labels) >= len(bars)


def read_texts(axes) -> dict[str, float]:
    """{words: height} of the texts in one axes."""
    return {text.get_text(): text.get_position()[1] for text in axes.texts}


def test_every_baseline_and_every_point_is_named_with_its_value():
    drawn = FIGURES["draw_accuracy_over_minutes"]()
    texts = read_texts(drawn.axes[0])
    plt.close(drawn)
    assert set(texts) == {"majority 26%", "base 28%", "bag of words 46%", "live 42%", "long 72%"}


def test_names_of_baselines_that_lie_close_do_not_lie_on_each_other():
    drawn = FIGURES["draw_accuracy_over_minutes"]()
    drawn.canvas.draw()
    boxes = [text.get_window_extent() for text in drawn.axes[0].texts]
    plt.close(drawn)
    assert not any(one.overlaps(other) for one, other in itertools.combinations(boxes, 2))


def test_interval_of_a_point_has_its_accuracy_inside():
    drawn = FIGURES["draw_accuracy_over_minutes"]()
    upright = [line.get_ydata() for line in drawn.axes[0].lines if len(set(line.get_xdata())) == 1]
    plt.close(drawn)
    assert len(upright) == len(POINTS)
    accuracies = [accuracy for _, _, accuracy, _ in POINTS]
    assert all(low < share < high for (low, high), share in zip(upright, accuracies, strict=True))


def test_panels_of_relative_norms_have_one_scale_and_name_the_mean_of_each_module():
    drawn = FIGURES["draw_relative_norms"]()
    panels = [axes for axes in drawn.axes if axes.lines]
    titles, limits = [axes.get_title() for axes in panels], {axes.get_ylim() for axes in panels}
    plt.close(drawn)
    assert titles == ["q_proj, mean 1.50%", "up_proj, mean 3.50%"]
    assert len(limits) == 1 and next(iter(limits))[0] == 0


class StyleFinder(HTMLParser):
    """Collects every style attribute of a page in `found`."""

    def __init__(self, page: str):
        super().__init__()
        self.found: list[str] = []
        self.feed(page)

    def handle_starttag(self, tag, attrs):
        self.found += [value for name, value in attrs if name == "style"]


def check_style(style: str) -> None:
    """Colour and ground are set together, since a notebook may be dark, and their contrast suffices."""
    rules = dict(re.findall(r"(?<![\w-])(color|background|background-color):\s*(#\w+|[a-z]+)", style))
    colour, ground = rules.get("color"), rules.get("background") or rules.get("background-color")
    assert (colour is None) == (ground is None), style
    assert colour is None or contrast(colour, ground) >= READABLE, style


def test_learned_tokens_are_framed_bold_and_counted_in_words(monkeypatch):
    shown: list[HTML] = []
    monkeypatch.setattr(plots, "display", shown.append)
    plots.show_tokens(["I ", "prefer ", "B"], [False, False, True])
    [style] = StyleFinder(shown[0].data).found
    check_style(style)
    assert "border:" in style and "bold" in style
    words = shown[0].data.rpartition("<p>")[2]
    assert re.findall(r"\d+", words) == ["1", "3"] and words.endswith("B</p>")


@pytest.mark.parametrize("path", sorted((PROJECT / "helpers").rglob("*.py")), ids=lambda path: path.stem)
def test_colours_that_the_package_writes_into_pages_can_be_read(path):
    source = path.read_text(encoding="utf-8")
    source = re.sub(r"\{(DARK|MIDDLE|PALE|LIT)\}", lambda found: getattr(plots, found[1]), source)
    rule = r"(?<![\w-])(?:color|background(?:-color)?):\s*[#a-z]"
    for style in re.findall(rf"[\"'][^\"'\n]*{rule}[^\"'\n]*[\"']", source):
        check_style(style)


def test_checkpoints_can_be_told_apart_without_their_signs(capsys):
    for passed in (True, False):
        confirm(passed, "it holds", "do this")
    passed, failed = (line.strip("✅❌ ") for line in capsys.readouterr().out.splitlines())
    assert passed == "it holds" != failed and "do this" in failed


def list_links(text: str) -> list[tuple[str, str]]:
    """(what a link says, where it goes). A picture that is a link says its alt text."""
    text = re.sub(r"```.*?```|`[^`\n]*`", "", text, flags=re.DOTALL)
    picture = r"!\[([^\]]*)\]\([^)]*\)"
    return [(re.sub(picture, r"\1", words), target) for words, target in LINK.findall(text)]


def read_markdown(path: Path) -> str:
    """A page, or the Markdown cells of a notebook."""
    if path.suffix == ".md":
        return path.read_text(encoding="utf-8")
    return join_markdown(read_notebook(path))


def list_anchors(path: Path) -> list[str]:
    """The anchors of a page that lead to a heading wherever the page is read.

    GitHub writes all of a heading in lower case, JupyterLab keeps its capitals. A heading with capitals
    therefore has a place of its own, `<a id="..."></a>`. README.md and the like are not read in JupyterLab.
    """
    text = read_markdown(path)
    headings = re.findall(r"^#+ (.*)$", text, flags=re.MULTILINE)
    anchors = [re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings]
    if path.parent != NOTEBOOKS:
        return anchors
    same = [anchor for anchor, heading in zip(anchors, headings, strict=True) if heading == heading.lower()]
    return same + re.findall(r'^#+ .*<a id="([^"]+)"></a>$', text, flags=re.MULTILINE)


@pytest.mark.parametrize("path", [*PATHS, *PAGES], ids=lambda path: f"{path.parent.name}-{path.stem}")
def test_links_say_where_they_go(path):
    for words, _ in list_links(read_markdown(path)):
        words = words.strip()
        assert words.lower() not in VAGUE and len(words) > 2 and "://" not in words


@pytest.mark.parametrize("path", [*PATHS, *PAGES], ids=lambda path: f"{path.parent.name}-{path.stem}")
def test_links_lead_to_a_file_and_a_heading_that_exist(path):
    for _, target in list_links(read_markdown(path)):
        if ELSEWHERE.match(target):
            continue
        file, _, anchor = target.partition("#")
        page = path.parent / file
        assert page.exists() and (not anchor or anchor in list_anchors(page)), target


def test_same_words_lead_to_the_same_place():
    places: dict[str, set[str]] = {}
    for path in [*PATHS, *PAGES]:
        for words, target in list_links(read_markdown(path)):
            if "colab.research.google.com" in target:  # a badge leads to its own lesson
                continue
            place = target if ELSEWHERE.match(target) else (path.parent / target).resolve().name
            places.setdefault(words.lower(), set()).add(place)
    assert {words: found for words, found in places.items() if len(found) > 1} == {}


@pytest.mark.parametrize("path", PAGES, ids=lambda path: f"{path.parent.name}-{path.stem}")
def test_pages_have_one_title_skip_no_level_and_describe_their_pictures(path):
    text = re.sub(r"```.*?```", "", path.read_text(encoding="utf-8"), flags=re.DOTALL)
    levels = [len(marks) for marks in re.findall(r"^(#+) ", text, flags=re.MULTILINE)]
    assert levels[0] == 1 and levels.count(1) == 1
    assert all(below - above <= 1 for above, below in itertools.pairwise(levels))
    assert all(len(words) >= 20 for words in re.findall(r"!\[([^\]]*)\]", text))


def list_pictures(cell) -> list[str]:
    """The alt texts of the pictures in a code cell's outputs; an empty one for a picture without."""
    alts = []
    for output in cell.outputs:
        page = "".join(output.get("data", {}).get("text/html", ""))
        for tag in re.findall(r"<img[^>]*>", page):
            alts += re.findall(r'alt="([^"]*)"', tag) or [""]
    return alts


def read_words(cell) -> str:
    """What a code cell shows besides pictures."""
    shown = []
    for output in cell.outputs:
        shown.append(output.get("text", "") or "".join(output.get("data", {}).get("text/html", "")))
    return re.sub(r"<img[^>]*>", "", "\n".join(shown))


def is_plot(cell) -> bool:
    """True for a cell that draws a figure."""
    return "plots.show(" in cell.source or "LiveLoss(" in cell.source


@each_lesson
def test_every_plot_has_an_alt_text_that_says_more_than_that_it_is_a_picture(path):
    for cell in filter(is_plot, list_code_cells(read_notebook(path))):
        alts = list_pictures(cell)
        assert alts and all(len(alt) >= 40 for alt in alts)
        assert not any(alt.lower().startswith(("image", "picture", "figure")) for alt in alts)


@each_lesson
def test_every_other_picture_has_an_alt_text(path):
    for cell in itertools.filterfalse(is_plot, list_code_cells(read_notebook(path))):
        assert all(len(alt) >= 20 for alt in list_pictures(cell))


@each_lesson
def test_every_plot_has_its_numbers_beside_it(path):
    cells = list_code_cells(read_notebook(path))
    for before, cell in itertools.pairwise(cells):
        if is_plot(cell):
            words = read_words(cell)
            if "above" in list_pictures(cell)[0]:
                words += read_words(before)
            assert len(re.findall(r"\d+(?:\.\d+)?", words)) >= 2, cell.source
