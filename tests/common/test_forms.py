"""Where a value that was read has another form."""

from typing import Any, NotRequired, TypedDict

import pytest

from helpers.common.errors import DamagedError
from helpers.common.files import read_json
from helpers.common.forms import find_misfit


class Part(TypedDict):
    """Has a name, and perhaps a number."""

    name: str
    share: NotRequired[float | None]


class Whole(TypedDict, total=False):
    """Has any of these."""

    parts: list[Part]
    sizes: dict[str, int]
    ends: tuple[float, float] | None
    free: Any


@pytest.mark.parametrize(
    "value",
    [
        {},
        {"parts": [{"name": "x", "share": 1}, {"name": "y", "share": None}]},
        {"sizes": {"a": 1}, "ends": [0, 0.5], "free": [object], "other": object},
        {"ends": None},
    ],
    ids=str,
)
def test_value_of_the_form_has_no_misfit(value):
    assert find_misfit(value, Whole) == ""


@pytest.mark.parametrize(
    ("value", "place"),
    [
        (3, "it is 3, not an object"),
        ({"parts": {}}, "parts is {}, not a list"),
        ({"parts": [{"share": 1}]}, "parts/0 has no name"),
        ({"parts": [{"name": "x", "share": "half"}]}, "parts/0/share is 'half', not a number or null"),
        ({"sizes": {"a": True}}, "sizes/a is True, not a whole number"),
        ({"sizes": {"a": 10**400}}, "sizes/a is 1000"),
        ({"ends": [1]}, "ends is [1], not a list or null"),
        ({"ends": [1, None]}, "ends/1 is None, not a number"),
    ],
    ids=str,
)
def test_misfit_says_where_it_is(value, place):
    assert find_misfit(value, Whole).startswith(place)


def test_file_of_another_form_is_damaged(tmp_path):
    (tmp_path / "x.json").write_text('{"sizes": [1]}')
    with pytest.raises(DamagedError, match="x.json.*sizes"):
        read_json(tmp_path / "x.json", "Do that.", Whole)


def test_half_a_character_is_damage(tmp_path):
    (tmp_path / "x.json").write_text(r'{"x": "\ud83d"}')
    with pytest.raises(DamagedError, match="x.json"):
        read_json(tmp_path / "x.json", "Do that.")
