"""Texts inside the cells of a table: `answers.text.0` is the first of the texts in the column `answers`."""

from collections.abc import Iterable
from dataclasses import replace
from typing import Any

from helpers.tasks.files.tables import Table


def add_inner_columns(table: Table, names: Iterable[str]) -> Table:
    """The table with a column for each of these names that leads into a cell: COLUMN.KEY, or COLUMN.NUMBER.

    Numbers count from 0. Where a row has nothing at that place, the cell is empty; a name that leads to
    nothing in any row is not a column.
    """
    known = set(table.columns)
    inner = [
        name
        for name in names
        if name not in known
        and name.split(".")[0] in known
        and any(reach_inside(row, name) for row in table.rows)
    ]
    if not inner:
        return table
    rows = [{**row, **{name: reach_inside(row, name) for name in inner}} for row in table.rows]
    return replace(table, columns=[*table.columns, *inner], rows=rows)


def reach_inside(row: dict[str, Any], name: str) -> Any:
    """The text at a place such as `answers.text.0`; lists and objects stay what they are."""
    found: Any = row
    for step in name.split("."):
        if isinstance(found, dict):
            found = found.get(step, "")
        elif isinstance(found, list) and step.isdigit():
            found = found[int(step)] if int(step) < len(found) else ""
        else:
            return ""
    if isinstance(found, str | list | dict):
        return found
    return "" if found is None else str(found)
