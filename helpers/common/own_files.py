"""JSON files that the kit may replace: those of the form in which it writes them, and no others."""

import json
import typing
from functools import partial
from pathlib import Path
from typing import Any

from helpers.common.errors import KitError
from helpers.common.files import read_text
from helpers.common.forms import find_misfit
from helpers.common.outputs import ANOTHER_NAME, check_output


def check_own_file(path: Path, form: Any, remedy: str = ANOTHER_NAME) -> Path:
    """The path, if a JSON file of this form can be written there; call it before the work.

    `form` is a TypedDict, or a list of one. A file may replace one that has the form and nothing beside it:
    an AlreadyThereError for any other. Further errors as check_output.
    """
    return check_output(path, "file", partial(has_form, form=form), remedy=remedy)


def has_form(path: Path, form: Any) -> bool:
    """Whether a file holds JSON of this form, and no other fields."""
    try:
        value = json.loads(read_text(path, ANOTHER_NAME))
        if find_misfit(value, form):
            return False
    except (KitError, ValueError, RecursionError):
        return False
    is_list = typing.get_origin(form) is list
    fields = typing.get_type_hints(typing.get_args(form)[0] if is_list else form)
    return all(each.keys() <= fields.keys() for each in (value if is_list else [value]))
