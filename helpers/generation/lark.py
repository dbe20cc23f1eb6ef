"""Forms written in Lark, the format of llguidance."""

import json
import re
import sys
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

from llguidance import LLMatcher, LLParserLimits, LLTokenizer
from llguidance.gbnf_to_lark import any_to_lark

from helpers.generation.schemas import MOST, adapt_schema

HEAD = "%llguidance {}\n"  # by which llama.cpp knows such a grammar
# What llguidance may use for one. The schemas of real tools need a hundredth of it.
LIMITS = LLParserLimits(
    initial_lexer_fuel=1_000_000, step_lexer_fuel=200_000, step_max_items=50_000, max_lexer_states=50_000,
    max_grammar_size=100_000, verbose_errors=False,
)  # fmt: skip

SURROGATES = range(0xD800, 0xE000)  # halves of characters in UTF-16
ASCII = {r"\d": "0-9", r"\w": "A-Za-z0-9_"}  # other servers take these classes so; Rust's have all of Unicode

# JSON as Python writes it, and as models have read it most often.
SEPARATORS = {"item_separator": ", ", "key_separator": ": ", "whitespace_flexible": False}


def write_lark(kind: str, source: str, special: bool) -> str:
    """A Structure of this kind and source in Lark. A ValueError with the reason if it cannot be used.

    Without `special` it is the form of the answer's text, in which special tokens are left out.
    """
    writers: dict[str, Callable[[str], str]] = {
        "json_schema": write_schema, "choice": write_choice, "regex": write_regex, "grammar": write_grammar,
        "calls": partial(write_calls, special=special),
    }  # fmt: skip
    grammar = HEAD + writers[kind](source)
    if problem := LLMatcher.validate_grammar(LLMatcher.grammar_from_lark(grammar), limits=LIMITS):
        raise ValueError(find_reason(problem))
    if kind != "calls":  # whose special tokens only the model's own tokenizer has
        refuse_impossible(grammar)
    return grammar


def refuse_impossible(grammar: str) -> None:
    """Raises a ValueError for a form that no text can have, such as `root ::= root`."""
    matcher = LLMatcher(LLTokenizer("byte"), LLMatcher.grammar_from_lark(grammar), log_level=0, limits=LIMITS)
    may_come = any(matcher.compute_bitmask())
    if matcher.is_error() or not may_come:
        raise ValueError("no text has this form")


def refuse_repeats(source: str) -> None:
    """Raises a ValueError for an expression or grammar that repeats a part more than MOST times."""
    for counts in re.findall(r"\{([\d\s,]+)\}", source):
        if any(int(count) > MOST for count in re.findall(r"\d{1,20}", counts)):
            raise ValueError(f"it repeats a part more than {MOST} times")


def find_reason(problem: str) -> str:
    """llguidance's reason in one line. For an expression it is the last one of several."""
    first, *more = [line for line in problem.split("\n") if line.strip()]
    reasons = [line.removeprefix("error: ") for line in more if line.startswith("error: ")]
    return reasons[-1] if reasons else first.replace("<non-verbose/>", "")


def write_text(text: str) -> str:
    """A text that has to come."""
    return json.dumps(text, ensure_ascii=False).replace("\x7f", "\\u007f")


def write_json(schema: Mapping[str, Any], lenient: bool = False) -> str:
    """JSON of a schema. `lenient` leaves out what llguidance cannot check."""
    settings = {**SEPARATORS, "lenient": lenient}
    return f"%json {json.dumps({**adapt_schema(schema), 'x-guidance': settings})}"


def write_calls(source: str, special: bool) -> str:
    """Calls of tools: one rule for each tool, and what comes around them.

    `source` is what tool_calls.describe_calls returns. Without `special`, special tokens are left out.
    """
    calls = json.loads(source)
    tokens: dict[str, int] = calls["special"]

    def split(text: str) -> list[str]:
        """The parts of a text, of which special tokens are named by their ids."""
        parts = re.split("(" + "|".join(map(re.escape, tokens)) + ")", text) if tokens else [text]
        written = [f"<[{tokens[part]}]>" if part in tokens else write_text(part) for part in parts if part]
        return [part for part in written if special or part.startswith('"')]

    begin, middle, between, end = (split(calls[name]) for name in ("begin", "middle", "between", "end"))
    numbers = range(len(calls["tools"]))
    rules = [f"call: {' | '.join(f'call_{number}' for number in numbers)}"]
    for number, tool in zip(numbers, calls["tools"], strict=True):
        name, arguments = [*split(tool["name"]), *middle], write_json(tool["schema"], not tool["strict"])
        rules.append(f"call_{number}: {' '.join(name)} {arguments}")
    most = calls["most"] - 1
    rest = ["call", *([f"({' '.join(between)} call){{0,{most}}}"] if most else []), *end]
    if calls["answer"] == "text":
        free, head = write_free_text(begin)
        return "\n".join([f"start: TEXT | {' '.join([*head, *rest])}", *free, *rules])
    answer = [f"answer: {write_json(calls['answer'])}"] if calls["answer"] else []
    start = f"start: {'answer | ' if answer else ''}{' '.join([*begin, *rest])}"
    return "\n".join([start, *answer, *rules])


def write_free_text(begin: list[str]) -> tuple[list[str], list[str]]:
    """(rules for a text that ends where a call begins, the parts of a start that use them).

    A lazy rule ends as soon as it can. So no text has `begin` in it, unless a call follows.
    """
    rules = ["TEXT: /(.|\\n)*/"]
    first, *rest = begin
    if first.startswith("<["):  # a special token, which no text has anyway
        return rules, ["TEXT", first, *rest]
    return [*rules, f"head[lazy]: TEXT {first}"], ["head", *rest]


def write_schema(source: str) -> str:
    """A JSON schema in Lark."""
    schema = json.loads(source)
    if not isinstance(schema, dict):
        raise ValueError("it is not a JSON object")
    return f"start: {write_json(schema)}"


def write_choice(source: str) -> str:
    """A JSON list of texts in Lark."""
    return "start: " + " | ".join(map(write_text, json.loads(source)))


def write_regex(source: str) -> str:
    """A regular expression in Lark, which writes it between slashes."""
    refuse_repeats(source)
    written, inside = [], False  # a class such as [a-z]
    for part in re.findall(r"\\.|.", source, re.DOTALL):
        if part in ASCII:
            part = ASCII[part] if inside else f"[{ASCII[part]}]"
        elif part in "[]":
            inside = part == "["
        written.append({"/": r"\/", "\n": r"\n"}.get(part, part))
    return f"start: /{''.join(written)}/"


def write_grammar(source: str) -> str:
    """GBNF in Lark. Codes of characters above ASCII become the characters, since the converter loses them."""

    refuse_repeats(source)

    def write_character(code: re.Match[str]) -> str:
        number = int(code[0][2:], 16)
        if number > sys.maxunicode or number in SURROGATES:
            raise ValueError(f"{code[0]} is not a character")
        return chr(number) if number >= 0xA0 else code[0]

    source = re.sub(r"\\(?:x[0-9a-fA-F]{2}|u[0-9a-fA-F]{4}|U[0-9a-fA-F]{8})", write_character, source)
    try:
        return any_to_lark(source).removeprefix(HEAD.strip())
    except (RecursionError, MemoryError):
        raise
    except Exception as error:  # it has no class of its own for all that may be wrong
        raise ValueError(str(error)) from None
