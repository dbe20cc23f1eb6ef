"""Tables in Markdown."""

from collections.abc import Iterable, Sequence


def write_table(heads: Sequence[str], lines: Iterable[Sequence[str]]) -> str:
    """A table: a cell has one line, and a bar in it does not end it."""
    return "\n".join([join_cells(heads), "|---" * len(heads) + "|", *map(join_cells, lines)])


def join_cells(cells: Iterable[str]) -> str:
    """A line of a table."""
    texts = (" ".join(cell.split()).replace("|", r"\|") for cell in cells)
    return f"| {' | '.join(texts)} |"
