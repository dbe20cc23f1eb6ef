"""Checks of what Python calls are given. Each refuses a wrong value with a UsageError that names it.

helpers.common.arguments does the same for command lines, whose values are texts.
"""

import os
from collections.abc import Iterable, Sized
from numbers import Integral, Real
from typing import Any, NoReturn

from helpers.common.arguments import LARGEST, LARGEST_SEED, describe_range, has_surrogates, shorten
from helpers.common.errors import UsageError

LONGEST_WAIT = 1_000_000  # seconds that anything is waited for: the system's calls take no more than 2**31 ms
HALF = "without half characters: Python puts those in place of bytes that are not UTF-8"


def refuse(what: str, value: object, wanted: str) -> NoReturn:
    """Raises the UsageError: what is wrong, and what is wanted in its place."""
    raise UsageError(f"{what} is {shorten(value)}.", f"Give {wanted}.")


def is_kind_of_number(value: object, kind: type) -> bool:
    """Whether it is a number of this kind, NumPy's too; true and false are not numbers."""
    return isinstance(value, kind) and not isinstance(value, bool)


def check_number(
    what: str, value: Any, smallest: float, largest: float = LARGEST, above: bool = False
) -> None:
    """Refuses what is not a number in the range; not the smallest either, if it must be `above` it."""
    is_number: bool = is_kind_of_number(value, Real)
    if not is_number or not smallest <= value <= largest or (above and value == smallest):
        refuse(what, value, f"a number, {describe_range(smallest, largest, above)}")


def check_whole(what: str, value: Any, smallest: int, largest: int = LARGEST) -> None:
    """Refuses what is not a whole number in the range."""
    is_whole: bool = is_kind_of_number(value, Integral)
    if is_whole and value > largest:
        refuse(what, value, f"at most {largest:,}")
    if not is_whole or value < smallest:
        refuse(what, value, f"a whole number, {describe_range(smallest, largest)}")


def check_seed(value: object) -> None:
    """Refuses what cannot be a seed."""
    check_whole("seed", value, 0, LARGEST_SEED)


def check_wait(what: str, value: object) -> None:
    """Refuses what cannot be a time to wait, in seconds."""
    check_number(what, value, 0, LONGEST_WAIT, above=True)


def check_choice(what: str, value: object, known: Iterable[str]) -> None:
    """Refuses what is not one of the known names."""
    names = list(known)
    if value not in names:
        refuse(what, value, f"one of: {', '.join(names)}")


def check_text(what: str, value: object) -> None:
    """Refuses what is not a text, or cannot be written in UTF-8."""
    if not isinstance(value, str):
        refuse(what, value, "a text")
    if has_surrogates(value):
        refuse(what, value, f"a text {HALF}")


def check_key(value: object) -> None:
    """Refuses what cannot be sent as an API key. None means that there is no key."""
    if value is not None and not (isinstance(value, str) and value.isascii() and value.isprintable()):
        refuse("api_key", "..." if isinstance(value, str) else value, "a text of printable ASCII characters")


def check_path(what: str, value: object) -> None:
    """Refuses what is not the path of a file or folder."""
    if not isinstance(value, str | os.PathLike) or not isinstance(os.fspath(value), str):
        refuse(what, value, "a path, as a text or a pathlib.Path")


def check_kind(what: str, value: object, kinds: type | tuple[type, ...], wanted: str) -> None:
    """Refuses what is not of a class; `wanted` says how to get one."""
    if not isinstance(value, kinds):
        refuse(what, value, wanted)


def check_filled(what: str, value: Sized) -> None:
    """Refuses a list with nothing in it."""
    if not len(value):
        raise UsageError(f"There are no {what}.", "Give at least one.")


def check_lengths(**lists: Sized) -> None:
    """Refuses lists of different lengths; each is given under its name."""
    if len({len(each) for each in lists.values()}) > 1:
        found = ", ".join(f"{name} {len(each)}" for name, each in lists.items())
        raise UsageError(f"The lists differ in length: {found}.", "Give one entry a row in each.")


def find_surrogates(value: Any) -> bool:
    """Whether a text with a half character is anywhere in a value of JSON."""
    waiting = [value]
    while waiting:
        each = waiting.pop()
        if isinstance(each, str) and has_surrogates(each):
            return True
        if isinstance(each, dict):
            waiting += [*each, *each.values()]
        elif isinstance(each, list | tuple):
            waiting += each
    return False


def repair(value: Any) -> Any:
    """A value of JSON with `repair_text` of all its texts."""
    if isinstance(value, dict):
        return {repair_text(key): repair(each) for key, each in value.items()}
    if isinstance(value, list):
        return [repair(each) for each in value]
    return repair_text(value) if isinstance(value, str) else value


def repair_text(text: str) -> str:
    """The text of somebody else's program: halves of a character are joined, one alone becomes U+FFFD."""
    return (
        text.encode("utf-16", "surrogatepass").decode("utf-16", "replace") if has_surrogates(text) else text
    )
