"""Regular expressions for names of layers, which come with a LoRA, matched within a limit of time.

Python's matching can take longer than anybody lives, and cannot be stopped. So it is done in a process of its
own first, with the names to which PEFT will apply it. Nothing here imports torch.
"""

import json
import re
import subprocess
import sys
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from helpers.common.arguments import shorten
from helpers.common.errors import DamagedError

SECONDS = 5  # for all names of a model; an ordinary pattern takes thousandths
PLAIN = re.compile(r"[^*+?{(|]*")  # an expression that is matched in no time: a name, with dots or without
PROGRAM = """
import json, re, sys
expressions, names = json.load(sys.stdin)
for expression in expressions:
    pattern = re.compile(expression)
    print(json.dumps([pattern.match(name) is not None for name in names]), flush=True)
"""
ORIGIN = "a LoRA's adapter_config.json"
TRAIN_AGAIN = "Write the names of the layers in its place, or train the LoRA again."


def match_names(
    expressions: Sequence[str], names: Sequence[str], origin: str = ORIGIN, remedy: str = TRAIN_AGAIN
) -> list[list[bool]]:
    """Of each expression and each name, whether re.match finds it. A DamagedError if that takes too long."""
    command = [sys.executable, "-I", "-S", "-c", PROGRAM]
    asked = json.dumps([list(expressions), list(names)])
    try:
        done = subprocess.run(command, input=asked, capture_output=True, text=True, timeout=SECONDS)
    except subprocess.TimeoutExpired as error:
        found = (error.stdout or b"").count(b"\n")
        problem = f"A pattern in {origin} takes too long to match: {shorten(expressions[found])}."
        raise DamagedError(problem, remedy) from None
    lines = done.stdout.splitlines()
    if len(lines) < len(expressions):
        reason = (done.stderr.splitlines() or ["it ended"])[-1]
        problem = f"A pattern in {origin} cannot be matched ({reason[:200]})."
        raise DamagedError(problem, remedy)
    return [json.loads(line) for line in lines]


def match_whole(pattern: str) -> str:
    """The expression with which re.match does what re.fullmatch does with the pattern."""
    flags = re.match(r"\(\?[aiLmsux]+\)", pattern)  # they must be at the start
    start = flags[0] if flags else ""
    return rf"{start}(?:{pattern[len(start) :]})\Z"


def match_end(pattern: str) -> str:
    """The expression with which PEFT matches a key of rank_pattern or alpha_pattern."""
    return rf"(.*\.)?({pattern})$"


def find_values(patterns: Mapping[str, Any] | None, names: Sequence[str], default: Any) -> dict[str, Any]:
    """{name: the value of the first pattern that the name matches, as PEFT reads them, else `default`}."""
    values = dict.fromkeys(names, default)
    known = list((patterns or {}).items())
    if not known:
        return values
    if all(PLAIN.fullmatch(pattern) for pattern, _ in known):
        found = [[bool(re.match(match_end(key), name)) for name in names] for key, _ in known]
    else:
        found = match_names([match_end(pattern) for pattern, _ in known], names)
    for (_, value), matches in reversed(list(zip(known, found, strict=True))):
        values |= {name: value for name, matched in zip(names, matches, strict=True) if matched}
    return values


def list_expressions(config: Mapping[str, Any]) -> list[str]:
    """The expressions of an adapter_config.json that PEFT matches with names of layers; no plain ones."""
    whole = [config.get(key) for key in ("target_modules", "exclude_modules")]
    found = [match_whole(each) for each in whole if isinstance(each, str) and not PLAIN.fullmatch(each)]
    ranks = [*(config.get("rank_pattern") or ()), *(config.get("alpha_pattern") or ())]
    found += [match_end(each) for each in ranks if not PLAIN.fullmatch(each)]
    lists = config.get("layers_pattern") or []
    lists = [lists] if isinstance(lists, str) else lists
    return found + [rf".*\.{each}\.(\d+)\." for each in lists if not PLAIN.fullmatch(each)]


def check_matching(config: Mapping[str, Any], modules: Iterable[str], origin: str) -> None:
    """A DamagedError if PEFT would take too long to match the patterns of a config with these modules."""
    if expressions := list_expressions(config):
        parts = [module.split(".") for module in modules]
        names = {".".join(part[:count]) for part in parts for count in range(1, len(part) + 1)}
        match_names(expressions, sorted(names), origin)
