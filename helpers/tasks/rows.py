"""A table in, checked rows out."""

import collections
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from helpers.common.errors import DamagedError, KitError, MismatchError, UsageError
from helpers.tasks import given
from helpers.tasks.chats import ChatForm, find_chats
from helpers.tasks.files.raw_table import name_all
from helpers.tasks.files.tables import Table, read_table
from helpers.tasks.nested import add_inner_columns
from helpers.tasks.template import Label, Row, Template, suggest_column
from helpers.tasks.template_file import load_template

ONLY_LABELS = "Only rows of a template with labels have one; free answers and chats have none."
AnyTemplate = Template | ChatForm


class Fault(NamedTuple):
    """Something wrong in a row of a table."""

    place: str  # such as "row 7 (line 9)"
    error: KitError


def load_rows(path: str | Path, template: AnyTemplate) -> list[Row]:
    """The rows of a table in the template's form. A KitError names the first fault with its place."""
    given.check_template(template)
    return read_rows(open_table(path, template), template)


def open_data(path: str | Path, template: str | Path | None) -> tuple[Table, AnyTemplate]:
    """The table and the template of these files. Chats need no template; a UsageError if it is not chats."""
    if template:
        read = load_template(template)
        return open_table(path, read), read
    table = read_table(path)
    chats = find_chats(table)
    if chats:
        return refuse_empty(chats), ChatForm()
    problem = f"{table.path} holds no chats, so it needs a template (its columns: {name_all(table.columns)})."
    raise UsageError(problem, f"`python -m helpers.tasks suggest {path}` writes a first one.")


def open_table(path: str | Path, template: AnyTemplate) -> Table:
    """The table, with the columns that the template needs; a MismatchError names those that it lacks."""
    table = read_table(path, template.needed)
    if isinstance(template, ChatForm):
        table = find_chats(table) or table
    table = add_inner_columns(table, template.needed)
    missing = [column for column in template.needed if column not in table.columns]
    if missing:
        problem = f"{table.path} has no column {name_all(missing)} (it has {name_all(table.columns)})."
        remedy = suggest_column(missing[0], table.columns)
        raise MismatchError(problem, f"{remedy} The names in the template must be those of the columns.")
    return refuse_empty(table)


def refuse_empty(table: Table) -> Table:
    """The table; a DamagedError if it has no rows."""
    if not table.rows:
        raise DamagedError(f"{table.path} has no rows.", "Add rows to it.")
    return table


def read_rows(table: Table, template: AnyTemplate) -> list[Row]:
    """The rows, all of them right; a KitError names the first fault with its place."""
    rows, faults = check_rows(table, template)
    if faults:
        first, more = faults[0], len(faults) - 1
        others = (
            f" {more} other rows have faults: `python -m helpers.tasks check` lists them." if more else ""
        )
        problem = f"{first.place.capitalize()} of {table.path}: {first.error.problem}"
        raise type(first.error)(problem, first.error.remedy + others)
    return rows


def check_rows(table: Table, template: AnyTemplate) -> tuple[list[Row], list[Fault]]:
    """(the rows that are right, the faults of the others)."""
    rows, faults = [], []
    for place, cells in zip(table.places, table.rows, strict=True):
        try:
            rows.append(template.make_row(cells))
        except KitError as error:
            faults.append(Fault(place, error))
    return rows, faults


def count_labels(rows: Sequence[Row]) -> dict[Label, int]:
    """How many rows each label has, sorted by label."""
    given.check_rows(rows, ["label"], ONLY_LABELS, empty=True)
    return dict(sorted(collections.Counter(row["label"] for row in rows).items()))
