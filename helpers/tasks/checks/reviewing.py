"""A table with its template, opened to look at it: without a template, the suggested one will do."""

from dataclasses import dataclass
from pathlib import Path

from helpers.tasks.chats import find_chats
from helpers.tasks.checks.suggesting import suggest_for
from helpers.tasks.files.tables import Table, read_table
from helpers.tasks.nested import add_inner_columns
from helpers.tasks.rows import AnyTemplate, open_data, refuse_empty


@dataclass(frozen=True)
class Opened:
    """A table, its template, and whether that is only suggested."""

    table: Table
    template: AnyTemplate
    suggested: bool = False


def open_for_review(data: str | Path, template: str | Path | None = None) -> Opened:
    """The table and the template. Raises what open_data and suggest_for raise."""
    if template:
        return Opened(*open_data(data, template))
    table = refuse_empty(read_table(data))
    if find_chats(table):
        return Opened(*open_data(data, None))
    found = suggest_for(table).template
    return Opened(add_inner_columns(table, found.needed), found, suggested=True)
