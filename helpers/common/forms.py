"""The form of what a file holds, written as a type, and where a value that was read has another one.

A form is int, float, str, bool, None, Any, list[FORM], tuple[FORM, FORM] (a list of that length),
dict[FORM, FORM], a TypedDict or a union of forms.
"""

import types
import typing
from collections.abc import Iterable
from typing import Any

from helpers.common.arguments import shorten

LARGEST = 2**63  # no file of the kit holds a larger number, and float() cannot take much larger ones
NAMES = {int: "a whole number", float: "a number", str: "a text", bool: "true or false", type(None): "null"}
SHOWN = 40  # characters of a value


def find_misfit(value: Any, form: Any, place: str = "") -> str:
    """Where `value` has another form, in words such as "loss/3 is 'x', not a number"; empty if nowhere."""
    kind, inner = typing.get_origin(form) or form, typing.get_args(form)
    if form is Any:
        return ""
    if kind in (typing.Union, types.UnionType):
        return find_in_union(value, inner, place)
    if typing.is_typeddict(form):
        return find_in_fields(value, typing.get_type_hints(form), form.__required_keys__, place)
    if kind is dict and isinstance(value, dict):
        return find_in_fields(value, dict.fromkeys(value, inner[1] if inner else Any), (), place)
    if kind is list and isinstance(value, list):
        each = inner[0] if inner else Any
        return find_first(find_misfit(one, each, f"{place}/{i}") for i, one in enumerate(value))
    if kind is tuple and isinstance(value, list) and len(value) == len(inner):
        return find_first(find_misfit(value[i], one, f"{place}/{i}") for i, one in enumerate(inner))
    return "" if is_plain(value, kind) else describe(value, (form,), place)


def find_in_union(value: Any, forms: tuple[Any, ...], place: str) -> str:
    """The same for a value that has one of several forms."""
    misfits = [find_misfit(value, form, place) for form in forms]
    whole = f"{name(place)} is "
    deeper = find_first(misfit for misfit in misfits if not misfit.startswith(whole))
    return "" if "" in misfits else deeper or describe(value, forms, place)


def find_in_fields(value: Any, fields: dict[str, Any], required: Iterable[str], place: str) -> str:
    """The same for an object with these fields; others may be there."""
    if not isinstance(value, dict):
        return describe(value, (dict,), place)
    if lacking := [field for field in required if field not in value]:
        return f"{name(place)} has no {min(lacking)}"
    there = (field for field in fields if field in value)
    return find_first(find_misfit(value[field], fields[field], f"{place}/{field}") for field in there)


def find_first(misfits: Iterable[str]) -> str:
    """The first that is not empty."""
    return next(filter(None, misfits), "")


def is_plain(value: Any, kind: Any) -> bool:
    """Whether a value that is neither list nor object is of this kind. A whole number is a number too."""
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        return kind in NAMES and type(value) is kind
    return (kind is float or type(value) is kind) and (isinstance(value, float) or abs(value) < LARGEST)


def describe(value: Any, forms: tuple[Any, ...], place: str) -> str:
    """Which value is where, and what it should be."""
    kinds = dict.fromkeys(typing.get_origin(form) or form for form in forms)
    wanted = [NAMES.get(kind, "a list" if kind in (list, tuple) else "an object") for kind in kinds]
    shown = shorten(value, 10_000).encode("ascii", "backslashreplace").decode()
    shown = shown if len(shown) <= SHOWN else f"{shown[:SHOWN]}..."
    return f"{name(place)} is {shown}, not {' or '.join(wanted)}"


def name(place: str) -> str:
    """A place in words."""
    return place.lstrip("/") or "it"
