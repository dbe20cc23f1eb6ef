"""Rows from JSON lines and from JSON, whichever of the two the content is."""

import contextlib
import io
import json
import re
from collections import Counter
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from helpers.common.arguments import state_reason
from helpers.common.errors import DamagedError
from helpers.common.values import find_surrogates
from helpers.tasks.files.raw_table import RawTable, list_keys, list_places, name_all

LINE_SUFFIXES = {".jsonl", ".ndjson"}
JSON_SUFFIXES = {".json"} | LINE_SUFFIXES
TABLE_SUFFIXES = {".csv", ".tsv", ".tab"}  # the first header in them may begin with a bracket
TURNS = ({"role", "content"}, {"from", "value"})  # keys of a chat's turns
HALF = re.compile(r"\\u[dD][89a-fA-F]")  # how JSON writes one
FORMS = "Give one object a row: a list of objects, or a line for each."


def read_json_rows(path: Path, text: str) -> RawTable | None:
    """The rows of a text in JSON; None if it is not JSON. Raises DamagedError with the row and its line."""
    if text.lstrip()[:1] not in ("{", "["):
        return refuse_single_value(path, text)
    try:
        content = parse(text)
    except ValueError as error:
        if is_in_lines(path, text):
            return read_lines(path, text)
        if TABLE_SUFFIXES & set(map(str.lower, path.suffixes)):
            return None
        raise DamagedError(f"{path} is not valid JSON: {explain(error)}.", "Correct it there.") from None
    if isinstance(content, dict) and LINE_SUFFIXES & set(map(str.lower, path.suffixes)):
        if "\n" not in text.strip():  # one row
            return read_lines(path, text)
    rows, notes = find_rows(path, content)
    return RawTable(list_keys(rows), rows, list_places(len(rows)), notes)


def refuse_single_value(path: Path, text: str) -> None:
    """A DamagedError for a file of JSON that begins with a number, a text, true, false or null."""
    if not JSON_SUFFIXES & set(map(str.lower, path.suffixes)):
        return
    with contextlib.suppress(ValueError):
        refuse_other_rows(path, [parse(text.strip().partition("\n")[0])], list_places(1))


def refuse_half_characters(path: Path, text: str, table: RawTable) -> None:
    """A DamagedError for the first row with half of a character, such as \\ud83d without its other half.

    Only JSON can name one; no tokenizer takes it, and no file in UTF-8 can hold it.
    """
    if not HALF.search(text):
        return
    for place, row in zip(table.places, table.rows, strict=True):
        if find_surrogates(row):
            problem = f"{place.capitalize()} of {path} has half of a character in a text or a name."
            raise DamagedError(problem, "Write the character itself, or both of its halves (\\ud83d\\ude00).")


def parse(text: str) -> Any:
    """The value in a JSON text; ValueError for invalid JSON, a repeated key or too deep nesting."""
    try:
        return json.loads(text, object_pairs_hook=build_object)
    except RecursionError:
        raise ValueError("it is nested too deeply") from None


def build_object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """The dict of a JSON object. ValueError if a key is there twice, since only one value could be kept."""
    found = dict(pairs)
    if len(found) < len(pairs):
        twice = Counter(key for key, _ in pairs).most_common(1)[0][0]
        raise ValueError(f"an object has the key '{name_all([twice])}' twice")
    return found


def explain(error: ValueError) -> str:
    """What is wrong with a JSON text, and where in it."""
    if isinstance(error, json.JSONDecodeError):
        return f"{error.msg} (line {error.lineno}, column {error.colno})"
    return state_reason(error)


def is_in_lines(path: Path, text: str) -> bool:
    """True if the suffix says JSON lines, or if the first line is an object by itself."""
    if LINE_SUFFIXES & set(map(str.lower, path.suffixes)):
        return True
    try:
        return isinstance(parse(text.lstrip().partition("\n")[0]), dict)
    except ValueError:
        return False


def read_lines(path: Path, text: str) -> RawTable:
    """The rows of JSON lines; blank lines are skipped."""
    rows, places = [], []
    # Not splitlines(): it also splits at characters that may be inside a JSON string, such as U+2028.
    for line, part in enumerate(io.StringIO(text, newline=None), start=1):
        if not part.strip():
            continue
        places.append(f"row {len(rows) + 1} (line {line})")
        try:
            rows.append(parse(part.rstrip()))
        except ValueError as error:
            reason = explain(error).replace("(line 1, ", "(")
            problem = f"{places[-1].capitalize()} of {path} is not valid JSON: {reason}."
            is_form = isinstance(error, json.JSONDecodeError)
            remedy = (
                "Write one object to a line, without a comma behind it." if is_form else "Correct it there."
            )
            raise DamagedError(problem, remedy) from None
    refuse_other_rows(path, rows, places)
    return RawTable(list_keys(rows), rows, places)


def refuse_other_rows(path: Path, rows: Iterable[Any], places: list[str]) -> None:
    """DamagedError for the first row that is not an object."""
    for place, row in zip(places, rows, strict=True):
        if not isinstance(row, dict):
            kind = {list: "a list", str: "a text"}.get(type(row), "a single value")
            raise DamagedError(f"{place.capitalize()} of {path} is {kind}, not an object.", FORMS)


def find_rows(path: Path, content: Any) -> tuple[list[dict[str, Any]], list[str]]:
    """(The rows in a JSON value, notes).

    They are the value itself, a list inside it, or the columns of an object as pandas writes them.
    """
    if isinstance(content, list):
        refuse_other_rows(path, content, list_places(len(content)))
        return content, []
    lists = {key: value for key, value in content.items() if is_list_of_rows(value)}
    if lists:
        key = next(iter(lists)) if len(lists) == 1 else "train"
        if key not in lists:
            raise DamagedError(f"{path} has several lists of rows: {name_all(lists)}.", "Keep one of them.")
        refuse_other_rows(path, lists[key], list_places(len(lists[key])))
        return lists[key], [f"The rows are those of '{name_all([key])}'."]
    if {"columns", "data"} <= content.keys():  # pandas, orient="split"
        return join_cells(path, content["columns"], content["data"]), []
    return turn_columns(path, content) or [content], []


def is_list_of_rows(value: Any) -> bool:
    """True for a list of objects, unless these are the turns of a chat, which is one row."""
    if not (isinstance(value, list) and value and isinstance(value[0], dict)):
        return False
    return not any(turn <= value[0].keys() for turn in TURNS)


def join_cells(path: Path, columns: Any, data: Any) -> list[dict[str, Any]]:
    """Rows from a list of names and a list of lists of cells. DamagedError if they do not fit."""
    if not isinstance(columns, list) or not isinstance(data, list):
        raise DamagedError(f"'columns' and 'data' of {path} are not lists.", FORMS)
    for place, cells in zip(list_places(len(data)), data, strict=True):
        if not isinstance(cells, list) or len(cells) != len(columns):
            raise DamagedError(f"{place.capitalize()} of {path} does not have {len(columns)} cells.", FORMS)
    return [dict(zip(map(str, columns), cells, strict=True)) for cells in data]


def turn_columns(path: Path, content: dict[str, Any]) -> list[dict[str, Any]]:
    """The rows of an object of columns, each a list or an object by row; [] if it is something else."""
    values = list(content.values())
    if values and all(isinstance(value, dict) for value in values):
        if all(key.isdigit() for key in content):  # pandas, orient="index": already by row
            return values
        if any(value.keys() != values[0].keys() for value in values):
            return []
        values = [[value[key] for key in values[0]] for value in values]
    if not all(isinstance(value, list) for value in values):
        return []
    if any(value and isinstance(value[0], dict) for value in values):
        return []  # a chat
    if len(set(map(len, values))) > 1:
        lengths = name_all(f"{key} {len(value)}" for key, value in zip(content, values, strict=True))
        raise DamagedError(f"The columns of {path} differ in length: {lengths}.", FORMS)
    return [dict(zip(content, row, strict=True)) for row in zip(*values, strict=True)]
