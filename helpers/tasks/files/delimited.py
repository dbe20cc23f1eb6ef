"""Delimited text: CSV and its relatives. The separator is found out, quoting is strict, lines are counted."""

import csv
import io
import itertools
from collections.abc import Collection
from dataclasses import dataclass, field, replace
from pathlib import Path

from helpers.common.errors import DamagedError
from helpers.tasks.files.raw_table import RawTable

SEPARATORS = {",": "comma", ";": "semicolon", "\t": "tab", "|": "vertical bar"}
START = 200_000  # characters in which the separator is looked for
ROWS = 20  # rows there that are compared with the header


@dataclass(frozen=True)
class Dialect:
    """How a text is divided into cells."""

    separator: str
    quotes: bool = True  # False: a quotation mark is a character like any other
    declared: bool = False  # True: the first line is Excel's "sep=;"

    def __str__(self) -> str:
        return SEPARATORS.get(self.separator, f"'{self.separator}'")


@dataclass
class Records:
    """The records of a text that are not blank; the first of them is the header."""

    lines: list[int] = field(default_factory=list)  # on which each begins, from 1
    cells: list[list[str]] = field(default_factory=list)
    empty: int = 0  # records left out that had separators, but nothing in between
    broken: int | None = None  # the line where the record begins that has a quotation mark out of place

    def fit(self) -> bool:
        """True if all records are as long as the header."""
        return all(len(cells) == len(self.cells[0]) for cells in self.cells)


def read_delimited(path: Path, text: str, columns: Collection[str] = ()) -> RawTable:
    """The header and rows of a delimited text.

    `columns`, names that it should have, help to find the separator. Raises DamagedError for a quotation
    mark out of place and for a row that is longer or shorter than the header, each with its row and line.
    """
    make_room_for_cells(len(text))
    dialect = find_dialect(text, columns)
    records = split_records(text, dialect)
    if dialect.separator == "\t" and (records.broken or '"' in text):
        literal = replace(dialect, quotes=False)
        lines = split_records(text, literal)
        if records.broken or (lines.fit() and len(lines.cells) > len(records.cells)):
            dialect, records = literal, lines
    count = len(records.cells)
    if records.broken:
        place = f"Row {count} (line {records.broken})" if count else "The header"
        remedy = "Close the quote, and write a quotation mark inside a quoted cell twice."
        raise DamagedError(f"{place} of {path} has a quotation mark out of place.", remedy)
    places = [f"row {number} (line {line})" for number, line in enumerate(records.lines[1:], start=1)]
    header, rows = records.cells[0] if count else [], records.cells[1:]
    if not records.fit():
        rows = fit_rows(path, header, rows, places, dialect)
    return RawTable(header, rows, places, describe(dialect, records))


def make_room_for_cells(length: int) -> None:
    """Raises the csv module's limit for the length of a cell, which all readers in the process share."""
    largest = 2**31 - 1  # of a C long on Windows
    csv.field_size_limit(max(csv.field_size_limit(), min(length + 1, largest)))


def split_records(text: str, dialect: Dialect) -> Records:
    """The records of a text, up to the first quotation mark out of place."""
    quoting = csv.QUOTE_MINIMAL if dialect.quotes else csv.QUOTE_NONE
    lines = io.StringIO(text, newline="")
    reader = csv.reader(lines, delimiter=dialect.separator, quoting=quoting, strict=True)
    found, line = Records(), 1
    try:
        if dialect.declared:
            next(reader)
            line = 2
        for cells in reader:
            if any(map(str.strip, cells)):
                found.lines.append(line)
                found.cells.append(cells)
            else:
                found.empty += len(cells) > 1
            line = reader.line_num + 1
    except csv.Error:
        found.broken = line
    return found


def find_dialect(text: str, columns: Collection[str]) -> Dialect:
    """The dialect whose header has most of `columns`; else the one that most rows fit, with most cells."""
    first = text[:10].splitlines()[:1]
    if first and first[0].lower().startswith("sep=") and len(first[0]) > 4:
        return Dialect(first[0][4], declared=True)

    def judge(separator: str) -> tuple[bool, int, int, int]:
        header, *rows = split_records(text[:START], Dialect(separator)).cells or [[]]
        held = len(set(map(str.strip, header)) & set(columns))
        fitting = sum(len(row) == len(header) for row in itertools.islice(rows, ROWS))
        return len(header) > 1, held, fitting, len(header)

    return Dialect(max(SEPARATORS, key=judge))


def fit_rows(
    path: Path, header: list[str], rows: list[list[str]], places: list[str], dialect: Dialect
) -> list[list[str]]:
    """The rows, each as long as the header. Only empty cells without a name may be missing or too many."""
    width = len(header)
    named = max((number for number, name in enumerate(header, start=1) if name.strip()), default=0)
    for row, place in zip(rows, places, strict=True):
        if len(row) < named or any(row[width:]):
            problem = f"{place.capitalize()} of {path} has {len(row)} cells, but the header has {width}."
            reason = f"an unquoted {dialect}" if len(row) > width else f"a missing {dialect}"
            remedy = f"Probably there is {reason} in a text: put each text in double quotes."
            raise DamagedError(problem, remedy)
    return [(row + [""] * width)[:width] for row in rows]


def describe(dialect: Dialect, records: Records) -> list[str]:
    """What was found out about the text, unless it is plain CSV."""
    notes = []
    if dialect.separator != ",":
        notes.append(f"The separator is {'a ' if dialect.separator in SEPARATORS else ''}{dialect}.")
    if not dialect.quotes:
        notes.append("Quotation marks are ordinary characters here.")
    if records.empty:
        notes.append(f"Empty rows were left out: {records.empty}.")
    return notes
