"""A scoreboard's figures as plain JSON, and the one way in which lessons, report and terminal write them."""

from collections.abc import Iterator
from typing import Any, TypedDict, TypeGuard

from helpers.common.forms import find_misfit

ANSWER, SIDE = "right answer", "right side"  # the columns
NOT_MEASURED = "not measured"


class Share(TypedDict):
    """The share of the rows that is right, with its 95% interval."""

    value: float
    low: float
    high: float
    n: int  # rows


class GainFigure(TypedDict):
    """How much higher a share is than the rival's, with its 95% interval."""

    value: float
    low: float
    high: float


class LineFigures(TypedDict):
    """A way to answer. A column in which it was not measured is in neither dictionary."""

    name: str
    what: str  # what it is, in one sentence
    shares: dict[str, Share]  # by column
    gains: dict[str, GainFigure]  # by column, over the rival; the rival has none


class BoardFigures(TypedDict):
    """A scoreboard."""

    rows: str  # which rows the figures are of, in one sentence
    rival: str  # the line that the gains are over
    columns: list[str]
    lines: list[LineFigures]


def is_board(value: Any) -> TypeGuard[BoardFigures]:
    """True for what Scoreboard.list_figures returns, after a way through JSON."""
    return not find_misfit(value, BoardFigures) and bool(value["lines"])


def list_cells(line: LineFigures, columns: list[str]) -> Iterator[tuple[str, str]]:
    """(Share, gain) of a line in words, for each column."""
    for column in columns:
        share, gain = line["shares"].get(column), line["gains"].get(column)
        yield describe_share(share) if share else NOT_MEASURED, describe_gain(gain) if gain else ""


def describe_share(share: Share) -> str:
    """A share with its interval: "63.2% [58, 68]"."""
    return f"{share['value']:.1%} [{100 * share['low']:.0f}, {100 * share['high']:.0f}]"


def describe_gain(gain: GainFigure) -> str:
    """A gain in percentage points with its interval: "+16.8 [+9.1, +24.9]"."""
    value, low, high = (100 * gain[end] for end in ("value", "low", "high"))
    return f"{value:+.1f} [{low:+.1f}, {high:+.1f}]"


def write_board(board: BoardFigures) -> str:
    """The board in Markdown, for a page and for a terminal: its rows, the table, and what each line is."""
    heads = ["", *(head for column in board["columns"] for head in (column, f"gain over {board['rival']}"))]
    table = [heads]
    for line in board["lines"]:
        cells = (cell for pair in list_cells(line, board["columns"]) for cell in pair)
        table.append([line["name"], *cells])
    widths = [max(map(len, column)) for column in zip(*table, strict=True)]
    lines = [align(cells, widths) for cells in table]
    lines.insert(1, "|" + "|".join(":" + "-" * (width + 1) for width in widths) + "|")
    what = [f"- {line['name']}: {line['what']}" for line in board["lines"]]
    return "\n".join([board["rows"], "In brackets: 95% intervals.", "", *lines, "", *what])


def align(cells: list[str], widths: list[int]) -> str:
    """A line of a Markdown table, its columns as wide as `widths`."""
    texts = (cell.replace("|", r"\|").ljust(width) for cell, width in zip(cells, widths, strict=True))
    return f"| {' | '.join(texts)} |"
