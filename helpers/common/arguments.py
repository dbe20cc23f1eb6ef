"""Types for the arguments of command lines: each returns the value, or says in a few words what it must be.

They are functions for argparse's `type`. CommandParser takes `name` for arguments that have no type.
"""

import re
import reprlib
from argparse import ArgumentTypeError
from collections.abc import Callable
from pathlib import Path

from helpers.common.addresses import is_address

LARGEST = 2**31 - 1  # of a count: what every library takes
LARGEST_FLOAT = 1e30  # float32 holds it, and what it is multiplied with
LARGEST_SEED = 2**32 - 1  # numpy's limit
NAME_BYTES = 255  # that a file's or a folder's name may have, on all usual file systems

# Control characters but tab and line feed, and marks that change the direction of writing.
UNSHOWN = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u061c\u200e\u200f\u202a-\u202e\u2066-\u2069]")
ADVICE = (" Please see", "; use sys.")  # how it begins

SHORT = reprlib.Repr()
SHORT.maxlevel = 3
SHORT.maxstring = SHORT.maxother = SHORT.maxlong = 5000  # characters, of which `cut` leaves fewer


def shorten(text: object, length: int = 60) -> str:
    """The text as it is shown in an error: quoted, printable in UTF-8, with its middle left out if long.

    Nested lists are never written out in full: a few lines of YAML can stand for billions of values.
    """
    try:
        shown = repr(text) if isinstance(text, str) else SHORT.repr(text)
    except ValueError:  # Python refuses to write numbers of more than 4,300 digits
        return "a number of thousands of digits"
    if has_surrogates(shown):
        shown = shown.encode("ascii", "backslashreplace").decode()
    return cut(shown, length)


def cut(text: str, length: int) -> str:
    """The text; its beginning and end if it has more than `length` characters."""
    return text if len(text) <= length else f"{text[: length // 2]}...{text[-length // 4 :]}"


def has_surrogates(text: str) -> bool:
    """Whether the text has halves of characters, which Python puts in place of bytes that are not UTF-8."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return True
    return False


def escape(text: str) -> str:
    """The text as a terminal may be given it: what would move its cursor, or turn letters round, as \\x1b."""
    return UNSHOWN.sub(lambda found: found[0].encode("unicode_escape").decode(), text)


def state_reason(error: BaseException) -> str:
    """What a library says, in one line without its advice for programs; the error's class if it is silent."""
    words = " ".join(str(error).split())
    for advice in ADVICE:
        words = words.partition(advice)[0]
    return cut(words, 300).rstrip(".") or type(error).__name__


def text(given: str) -> str:
    """A text that can be printed and written to files."""
    if not given.strip():
        raise ArgumentTypeError("it is empty")
    if "\0" in given:
        raise ArgumentTypeError(f"{shorten(given)} has a NUL character")
    if has_surrogates(given):
        raise ArgumentTypeError(f"{shorten(given)} is not UTF-8")
    return given


def name(given: str) -> str:
    """A file, a folder, or the name of one below models/ or loras/, with parts that can be file names."""
    for part in text(given).split("/"):
        if len(part.encode()) > NAME_BYTES:
            raise ArgumentTypeError(f"{shorten(given)} has a part of more than {NAME_BYTES} bytes")
    return given


def path(given: str) -> Path:
    """A path, as `name` checks it."""
    return Path(name(given))


def new_file(given: str) -> Path:
    """The path of a file that will be written."""
    if given == "-" or given.endswith(("/", "\\")):
        raise ArgumentTypeError(f"{shorten(given)} is not the name of a file")
    return path(given)


def address(given: str) -> str:
    """An address that begins with https:// or http://."""
    if not is_address(text(given)):
        raise ArgumentTypeError(f"{shorten(given)} is not an address that begins with https:// or http://")
    return given


def whole_number(smallest: int, largest: int = LARGEST) -> Callable[[str], int]:
    """The type of a whole number in a range, both ends included."""

    def read(given: str) -> int:
        try:
            number = int(given)
        except ValueError:  # also for more than 4,300 digits
            raise ArgumentTypeError(f"{shorten(given)} is not a whole number") from None
        if not smallest <= number <= largest:
            wanted = describe_range(smallest, largest) if number < smallest else f"at most {largest:,}"
            raise ArgumentTypeError(f"{shorten(number)} is not {wanted}")
        return number

    return read


def decimal_number(smallest: float, largest: float, above: bool = False) -> Callable[[str], float]:
    """The type of a number in a range, both ends included; not the smallest if it must be `above` it."""

    def read(given: str) -> float:
        try:
            number = float(given)
        except ValueError:
            raise ArgumentTypeError(f"{shorten(given)} is not a number") from None
        if not smallest <= number <= largest or (above and number == smallest):  # NaN is in no range
            raise ArgumentTypeError(f"{number} is not {describe_range(smallest, largest, above)}")
        return number

    return read


def describe_range(smallest: float, largest: float, above: bool = False) -> str:
    """A range in words, such as "1 or more" or "above 0 and up to 0.5"."""
    begin = f"above {smallest:,}" if above else f"{smallest:,} or more"
    if largest in (LARGEST, LARGEST_FLOAT):
        return begin
    return f"{begin} and up to {largest:,}" if above else f"{smallest:,} to {largest:,}"


count = whole_number(1)  # of rows, rounds, GPUs ...


def count_or_auto(given: str) -> int | str:
    """A count, or "auto": let the kit choose."""
    if given == "auto":
        return given
    try:
        return count(given)
    except ArgumentTypeError as error:
        raise ArgumentTypeError(f"{error}, or auto") from None


count_or_none = whole_number(0)  # the same, where 0 means none
seed = whole_number(0, LARGEST_SEED)
port = whole_number(0, 65535)  # 0: any free one
share = decimal_number(0, 0.5, above=True)  # of rows that are held out
share_or_none = decimal_number(0, 0.5)
minutes = decimal_number(0, 60 * 24 * 365, above=True)
epochs = decimal_number(0.01, 1_000_000)  # passes over the rows
