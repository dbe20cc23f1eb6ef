"""Primitives of the pictures: cards, boxes, labels and arrows, written as SVG that people can read.

Every shape and every text has its own attributes: no style sheet, no marker and no font to fetch, so that a
picture can be taken apart in any drawing program. Places and sizes are in pixels, from the top left corner.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from xml.sax.saxutils import escape, quoteattr

from helpers.tutorial.plots import DARK, LIT, MIDDLE, PALE

WHITE = "#ffffff"
INK = "#111111"  # of text
QUIET = "#455a64"  # of text that matters less; its contrast with white is 7.2 to 1
FONT = "system-ui, sans-serif"
CODE = "ui-monospace, monospace"
SMALLEST = 13  # pixels, of any text
LINE = 1.35  # from one line of text to the next, in sizes of the text

Point = tuple[float, float]

__all__ = ["CODE", "DARK", "INK", "LIT", "MIDDLE", "PALE", "QUIET", "WHITE", "Picture", "Point"]


@dataclass
class Picture:
    """A card with a drawing on it. `alt` says what it shows; it is also the <desc> of the file."""

    title: str
    alt: str
    width: int
    height: int
    parts: list[str] = field(default_factory=list)
    depth: int = 1  # of the groups that are open

    def add(self, tag: str, **attributes: object) -> None:
        """Adds an element; of the attributes' names, _ becomes -."""
        self.parts.append(f"{'  ' * self.depth}<{tag}{write_attributes(attributes)}/>")

    def open(self, name: str, **attributes: object) -> None:
        """Opens a group; `name` says what is in it."""
        self.parts.append(f"{'  ' * self.depth}<g{write_attributes({'id': name, **attributes})}>")
        self.depth += 1

    def close(self) -> None:
        """Closes the group that was opened last."""
        self.depth -= 1
        self.parts.append(f"{'  ' * self.depth}</g>")

    def text(self, x: float, y: float, words: str, size: int = 15, **attributes: object) -> None:
        """Adds a line of text whose baseline begins at (x, y); `anchor` is start, middle or end."""
        anchor = attributes.pop("anchor", "start")
        given = {"x": x, "y": y, "font_size": size, "fill": INK, **attributes}
        if anchor != "start":
            given["text_anchor"] = anchor
        spaces = ' xml:space="preserve"' if "  " in words or words != words.strip() else ""
        line = f"<text{write_attributes(given)}{spaces}>{escape(words)}</text>"
        self.parts.append("  " * self.depth + line)

    def lines(self, x: float, y: float, lines: Sequence[str], size: int = 15, **attributes: object) -> None:
        """Adds lines of text below each other, the first one's baseline at y."""
        for number, words in enumerate(lines):
            if words:
                self.text(x, y + number * size * LINE, words, size, **attributes)

    def rect(self, x: float, y: float, width: float, height: float, **attributes: object) -> None:
        """Adds a rectangle: white with a dark edge, if nothing else is said."""
        shape = {"x": x, "y": y, "width": width, "height": height}
        self.add(
            "rect", **{**shape, "rx": 6, "fill": WHITE, "stroke": DARK, "stroke_width": 1.5, **attributes}
        )

    def box(
        self,
        place: tuple[float, float, float, float],
        words: Sequence[str],
        size: int = 15,
        ink: str = INK,
        **attributes: object,
    ) -> None:
        """Adds a rectangle (x, y, width, height) with lines of text in its middle, the first one bold."""
        x, y, width, height = place
        self.rect(x, y, width, height, **attributes)
        top = y + height / 2 - (len(words) - 1) * size * LINE / 2 + size * 0.36
        for number, line in enumerate(words):
            weight = {"font_weight": "bold"} if number == 0 else {}
            self.text(
                x + width / 2, top + number * size * LINE, line, size, anchor="middle", fill=ink, **weight
            )

    def line(self, points: Sequence[Point], **attributes: object) -> None:
        """Adds a line through the points."""
        path = " ".join(f"{round_off(x)},{round_off(y)}" for x, y in points)
        self.add(
            "polyline", **{"points": path, "fill": "none", "stroke": DARK, "stroke_width": 2, **attributes}
        )

    def arrow(
        self, points: Sequence[Point], color: str = DARK, width: float = 2, **attributes: object
    ) -> None:
        """Adds a line through the points with a head at its end."""
        (x, y), (end_x, end_y) = points[-2:]
        length = ((end_x - x) ** 2 + (end_y - y) ** 2) ** 0.5
        along_x, along_y = (end_x - x) / length, (end_y - y) / length
        size = 5 + 2 * width
        back_x, back_y = end_x - size * along_x, end_y - size * along_y
        self.line([*points[:-1], (back_x, back_y)], stroke=color, stroke_width=width, **attributes)
        half = size * 0.45
        left = (back_x - half * along_y, back_y + half * along_x)
        right = (back_x + half * along_y, back_y - half * along_x)
        self.polygon([(end_x, end_y), left, right], fill=color)

    def polygon(self, points: Sequence[Point], **attributes: object) -> None:
        """Adds a closed shape."""
        path = " ".join(f"{round_off(x)},{round_off(y)}" for x, y in points)
        self.add("polygon", points=path, **attributes)

    def circle(self, x: float, y: float, radius: float, **attributes: object) -> None:
        """Adds a circle."""
        self.add("circle", **{"cx": x, "cy": y, "r": radius, "fill": WHITE, "stroke": DARK, **attributes})

    def render(self) -> str:
        """The picture as the text of an SVG file, on a light card, which is seen on a dark page too."""
        return "\n".join([*self.list_head(), *self.parts, "</svg>"]) + "\n"

    def list_head(self) -> Iterator[str]:
        """The lines before the drawing: the root, what the picture is called and shows, and the card."""
        size = f'width="{self.width}" height="{self.height}" viewBox="0 0 {self.width} {self.height}"'
        yield f'<svg xmlns="http://www.w3.org/2000/svg" {size}'
        yield f'     role="img" aria-labelledby="title description" font-family="{FONT}">'
        yield f'  <title id="title">{escape(self.title)}</title>'
        yield f'  <desc id="description">{escape(self.alt)}</desc>'
        edge = f'width="{self.width - 2}" height="{self.height - 2}" rx="10" fill="{WHITE}" stroke="{PALE}"'
        yield f'  <rect x="1" y="1" {edge} stroke-width="2"/>'


def write_attributes(attributes: dict[str, object]) -> str:
    """Attributes as XML, numbers with two decimals at most."""
    written = []
    for name, value in attributes.items():
        text = round_off(value) if isinstance(value, float) else str(value)
        written.append(f" {name.replace('_', '-')}={quoteattr(text)}")
    return "".join(written)


def round_off(value: float) -> str:
    """A number with two decimals at most, and without zeros at its end."""
    text = f"{value:.2f}".rstrip("0").rstrip(".")
    return "0" if text == "-0" else text
