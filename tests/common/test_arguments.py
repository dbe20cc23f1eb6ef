"""Types of command-line arguments: what they take, and the one line that refuses the rest."""

import pytest

from helpers.common import arguments as types
from helpers.common.arguments import shorten
from helpers.common.command import CommandParser
from helpers.common.errors import UsageError


def parse(kind, given):
    """What the parser makes of `--it GIVEN`."""
    parser = CommandParser(prog="python -m anything")
    parser.add_argument("--it", type=kind)
    return parser.parse_args([f"--it={given}"]).it


@pytest.mark.parametrize("given", ["-", "new/", "a/b/"])
def test_file_to_write_has_the_name_of_a_file(given):
    with pytest.raises(UsageError, match="name of a file"):
        parse(types.new_file, given)


@pytest.mark.parametrize("given", ["not a url", "file:///etc", "https://", "ftp://a.b", "https://a.b/\n"])
def test_address_begins_as_addresses_of_the_web_do(given):
    assert parse(types.address, "https://a.b/whl") == "https://a.b/whl"
    with pytest.raises(UsageError, match="address"):
        parse(types.address, given)


def test_what_a_terminal_would_obey_is_escaped_and_lines_stay():
    assert types.escape("a\x1b[31m\nü\t\u202e\r") == "a\\x1b[31m\nü\t\\u202e\\r"


@pytest.mark.parametrize(
    "text", ["bad; use sys.set_int_max_str_digits()", "bad. Please see the exception.", "bad.\n"]
)
def test_reason_of_a_library_is_one_line_without_its_advice(text):
    assert types.state_reason(ValueError(text)) == "bad"
    assert types.state_reason(MemoryError()) == "MemoryError"


@pytest.mark.parametrize(
    ("kind", "given", "value"),
    [
        (types.count, "1", 1),
        (types.count, str(2**31 - 1), 2**31 - 1),
        (types.count_or_none, "0", 0),
        (types.seed, "0", 0),
        (types.seed, str(2**32 - 1), 2**32 - 1),
        (types.port, "0", 0),
        (types.port, "65535", 65535),
        (types.share, "0.5", 0.5),
        (types.share, "1e-3", 0.001),
        (types.share_or_none, "0", 0),
        (types.epochs, "0.5", 0.5),
        (None, "models/a name", "models/a name"),
        (None, "a" * 255, "a" * 255),
        (types.text, "a" * 300, "a" * 300),
    ],
)
def test_values_in_range_are_taken(kind, given, value):
    assert parse(kind, given) == value


@pytest.mark.parametrize(
    ("kind", "given"),
    [
        *((kind, given) for kind in (types.count, types.seed, types.port) for given in ("-1", "nan", "1.5")),
        *((kind, "inf") for kind in (types.count, types.share, types.epochs, types.minutes)),
        *((kind, "nan") for kind in (types.share, types.share_or_none, types.epochs, types.minutes)),
        (types.count, "0"),
        (types.count, str(2**31)),
        (types.seed, str(2**32)),
        (types.port, "65536"),
        (types.share, "0"),
        (types.share, "0.51"),
        (types.share_or_none, "-0.1"),
        (types.epochs, "0"),
        (types.count, ""),
        (types.count, "9" * 5000),
        (types.count, "9" * 4000),
        (types.share, "9" * 5000),
        *((kind, given) for kind in (None, types.text, types.path) for given in ("", " ", "a\0b", "a\udcff")),
        *((kind, given) for kind in (None, types.path) for given in ("a" * 256, "ä" * 128, "a/" + "b" * 300)),
    ],
    ids=lambda part: repr(part)[:20],
)
def test_other_values_are_refused_in_one_short_line_that_names_the_argument(kind, given):
    with pytest.raises(UsageError, match="--it") as caught:
        parse(kind, given)
    line = str(caught.value)
    assert len(line) < 200
    assert line.isprintable()
    line.encode()  # without halves of characters, so that it can be printed


def test_arguments_of_subcommands_are_checked_too():
    parser = CommandParser(prog="python -m anything")
    parser.add_subparsers(dest="command").add_parser("do").add_argument("name")
    with pytest.raises(UsageError, match="name"):
        parser.parse_args(["do", ""])


def test_value_that_stands_for_billions_is_cut_without_being_written():
    value = ["x"] * 10
    for _ in range(40):
        value = [value] * 10
    assert len(shorten(value)) < 100
    assert shorten({"a": [1, 2]}) == "{'a': [1, 2]}"
    assert "..." in shorten({"a": value})


def test_list_that_holds_itself_is_cut():
    value = []
    value.append(value)
    assert "[" in shorten(value)
