"""What a date and a time look like in an answer."""

import datetime
import json
import random

import pytest
from llguidance import LLMatcher, LLTokenizer

from helpers.generation.lark import write_lark
from helpers.generation.schemas import adapt_schema

BYTES = LLTokenizer("byte")


def accepts(form, text):
    """Whether the grammar of the format takes the text."""
    grammar = write_lark("json_schema", json.dumps({"type": "string", "format": form}), True)
    matcher = LLMatcher(BYTES, LLMatcher.grammar_from_lark(grammar))
    data = json.dumps(text).encode()
    return matcher.try_consume_tokens(list(data)) == len(data) and matcher.is_accepting()


def is_date(text):
    try:
        return bool(datetime.date.fromisoformat(text))
    except ValueError:
        return False


def test_dates_are_those_of_the_calendar():
    chance = random.Random(1)
    years = [0, 1, 4, 100, 400, 1900, 2000, 2023, 2024, 2100, 9999, *chance.choices(range(10_000), k=20)]
    texts = [f"{year:04}-{month:02}-{day:02}" for year in years for month, day in [(2, 28), (2, 29), (2, 30)]]
    texts += [f"2023-{month:02}-{day:02}" for month in range(14) for day in (0, 1, 30, 31, 32)]
    assert [text for text in texts if accepts("date", text) != is_date(text)] == []


@pytest.mark.parametrize(
    ("text", "right"),
    [
        ("12:00:00Z", True), ("23:59:59.123456+02:00", True), ("23:59:60Z", False), ("24:00:00Z", False),
        ("12:00:00", False), ("12:00:00+24:00", False),
    ],
)  # fmt: skip
def test_times_are_those_that_libraries_read(text, right):
    assert accepts("time", text) == right
    assert accepts("date-time", f"2024-02-29T{text}") == right
    assert not accepts("date-time", f"2023-02-29T{text}")


def test_values_and_names_that_look_like_a_format_stay():
    schema = {
        "properties": {
            "format": {"type": "string"},
            "maxItems": {"const": {"format": "date", "maxItems": 1e9}},
        },
        "enum": [{"format": "date"}],
    }
    assert adapt_schema(schema) == schema


def test_pattern_beside_a_format_stays():
    schema = {"type": "string", "format": "date", "pattern": "^2024"}
    assert adapt_schema(schema) == schema
