"""Checks of rows and templates that Python calls are given, each a UsageError with the remedy.

The usual mistake is to leave out `template=` for rows that are not labelled comments.
"""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from helpers.common.arguments import shorten
from helpers.common.errors import UsageError
from helpers.common.values import check_filled, refuse
from helpers.tasks.template import Template

PASS_TEMPLATE = "Pass the template with which they were read: template=..."


def check_template(template: object) -> None:
    """Refuses anything that is not a template. Any object with a template's methods counts as one."""
    if isinstance(template, type) or not hasattr(template, "build_messages"):
        refuse("The template", template, "what load_template(path) returns, or ChatForm() for chats")


def check_labelled(template: object, instead: str) -> None:
    """Refuses anything that is not a template with labels; `instead` names what to use for other kinds."""
    check_template(template)
    if not isinstance(template, Template) or not template.label:
        name = getattr(template, "name", "")
        raise UsageError(f"The template {name} has no labels.", f"For free answers and chats, use {instead}.")


def check_rows(
    rows: object, columns: Iterable[str], remedy: str = PASS_TEMPLATE, what: str = "rows", empty: bool = False
) -> None:
    """Refuses rows that lack one of the columns, and no rows unless there may be none (`empty`)."""
    if not isinstance(rows, Sequence) or isinstance(rows, str | bytes):
        refuse(what, rows, "a list of rows, as load_rows returns it")
    needed = list(columns)
    for number, row in enumerate(rows, start=1):
        if not isinstance(row, Mapping):
            raise UsageError(
                f"Row {number} of {what} is {shorten(row)}.", "Give rows as load_rows returns them."
            )
        for column in needed:
            if column not in row:
                there = ", ".join(map(str, row))
                raise UsageError(f"Row {number} of {what} has no {column} (it has {shorten(there)}).", remedy)
    if not empty:
        check_filled(what, rows)


def list_columns(template: Any) -> list[str]:
    """The columns without which the template cannot make a prompt."""
    return [
        name for name in getattr(template, "columns", ()) if name not in getattr(template, "optional", ())
    ]


def list_group_columns(template: Any | None) -> Sequence[str]:
    """The columns that say which rows belong together; `text` without a template."""
    return ("text",) if template is None else getattr(template, "group_columns", ())
