"""Chat templates rendered within limits of time and memory: a template is a program that came with a model.

The sandbox of transformers keeps it from files and from code. It limits neither loops in loops nor texts.
"""

import dataclasses
import functools
import re
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextvars import ContextVar
from typing import Any

from jinja2 import Template, nodes, pass_context
from jinja2.visitor import NodeTransformer

from helpers.loading._private import make_chat_environment

SECONDS = 10  # that a text takes; a long chat takes hundredths of a second
STEPS = 1_000_000  # turns of loops, calls and sums
LARGEST = 20_000_000  # characters of a text, items of a list; a million tokens are about 5 million
WIDTH = 100_000  # the largest number that a function is given
WIDE = re.compile(r"\d{6}")  # the width of a field in a format, with more digits than any has
GROWING = ("join", "replace")  # of which the result is as long as the product of what they are given
COUNTED, CHECKED = "kit_counted", "kit_checked"  # filters that are put into templates


class TooMuchError(Exception):
    """A template that goes beyond the limits."""


@dataclasses.dataclass
class Meter:
    """What a rendering has taken so far."""

    steps: int = 0
    started: float = dataclasses.field(default_factory=time.monotonic)

    def count(self) -> None:
        """Counts a step; a TooMuchError if that is one too many, or too late."""
        self.steps += 1
        if self.steps > STEPS or (self.steps % 100 == 0 and time.monotonic() > self.started + SECONDS):
            raise TooMuchError("it does not end")


METER: ContextVar[Meter] = ContextVar("METER")


def render_limited(source: str, messages: Sequence[Mapping[str, Any]], **values: Any) -> str:
    """The messages as the template `source` writes them, as transformers would; a TooMuchError beyond limits.

    Raises what Jinja and the template itself raise.
    """
    template, size, parts = compile_limited(source), 0, []
    held = METER.set(Meter())
    try:
        everything = {"tools": None, "documents": None, "add_generation_prompt": False, **values}
        for part in template.generate(messages=messages, **everything):
            METER.get().count()
            size += len(part)
            refuse_large(size)
            parts.append(part)
    finally:
        METER.reset(held)
    return "".join(parts)


@functools.lru_cache(maxsize=100)
def compile_limited(source: str) -> Template:
    """The template with the limits built in."""
    environment: Any = make_chat_environment()
    call, compute = environment.call, environment.call_binop
    environment.intercepted_binops = frozenset(["+", "*", "**", "%"])  # these are not computed beforehand
    environment.call = functools.partial(call_limited, call)
    environment.call_binop = functools.partial(compute_limited, compute)
    environment.finalize = check
    environment.filters = {name: limit(name, each) for name, each in environment.filters.items()}
    environment.filters |= {COUNTED: count_turns, CHECKED: check_in_context}
    tree = Limiter().visit(environment.parse(source))
    tree.set_environment(environment)
    return environment.from_string(tree)


class Limiter(NodeTransformer):
    """Puts the filters with the limits into a template: around what loops go over, and what ~ joins."""

    def visit_For(self, node: nodes.For) -> nodes.For:  # noqa: N802
        """Counts the turns of a loop."""
        self.generic_visit(node)
        node.iter = wrap(node.iter, COUNTED)
        return node

    def visit_Concat(self, node: nodes.Concat) -> nodes.Expr:  # noqa: N802
        """Checks what is joined, and what that makes."""
        self.generic_visit(node)
        node.nodes = [wrap(each, CHECKED) for each in node.nodes]
        return wrap(node, CHECKED)


def wrap(node: Any, name: str) -> nodes.Filter:
    """The expression with a filter."""
    return nodes.Filter(node, name, [], [], None, None, lineno=node.lineno)


@pass_context  # so that nothing is computed while the template is compiled
def count_turns(context: Any, values: Any) -> Iterator[Any]:
    """The values of a loop, each of them counted."""
    for value in values:
        METER.get().count()
        yield value


@pass_context
def check_in_context(context: Any, value: Any) -> Any:
    """`check` as a filter."""
    METER.get().count()
    return check(value)


def check(value: Any) -> Any:
    """The value; a TooMuchError if writing it would take too many characters."""
    refuse_large(measure(value))
    return value


def measure(value: Any) -> int:
    """About how long a value is when it is written; it stops to count beyond LARGEST."""
    if isinstance(value, str):
        return len(value)
    if not isinstance(value, (list, tuple, dict)):
        return 1
    inside = [*value.keys(), *value.values()] if isinstance(value, dict) else value
    size = len(inside)
    for each in inside:
        if size > LARGEST:
            break
        size += measure(each)
    return size


def refuse_large(size: int) -> None:
    """A TooMuchError for a text or list of this size."""
    if size > LARGEST:
        raise TooMuchError("it writes too much")


def refuse_growth(name: str, value: Any, arguments: Sequence[Any]) -> None:
    """A TooMuchError for a function that would make too much of `value` and the others."""
    for each in arguments:
        if isinstance(each, int) and abs(each) > WIDTH:
            raise TooMuchError(f"it asks {name} for {abs(each):.0e} characters or items")
        check(each)
    check(value)
    if name == "format" and isinstance(value, str) and WIDE.search(value):
        raise TooMuchError("it writes too much")
    if name in GROWING and isinstance(value, (str, list, tuple)):
        # At most. A tenth is counted, since few of the characters are places where something is put.
        longest = max((len(each) for each in arguments if isinstance(each, (str, list, tuple))), default=0)
        refuse_large((len(value) + 1) * longest // 10)


def limit(name: str, function: Callable[..., Any]) -> Callable[..., Any]:
    """The filter with the limits."""

    @functools.wraps(function)
    def limited(*arguments: Any, **named: Any) -> Any:
        own = [each for each in arguments if isinstance(each, (str, int, list, tuple, dict))]
        refuse_growth(name, own[0] if own else None, [*own[1:], *named.values()])
        return function(*arguments, **named)

    return limited


def call_limited(call: Callable[..., Any], context: Any, function: Any, *arguments: Any, **named: Any) -> Any:
    """Calls a function of a template; a method of a text with limits."""
    METER.get().count()
    name = str(getattr(function, "__name__", ""))
    method = getattr(function, "__wrapped__", function)  # the sandbox wraps a text's `format`
    refuse_growth(name, getattr(method, "__self__", None), [*arguments, *named.values()])
    return call(context, function, *arguments, **named)


def compute_limited(
    compute: Callable[..., Any], context: Any, operator: str, left: Any, right: Any
) -> object:
    """A sum, product, power, or a text with % in a template."""
    METER.get().count()
    if operator == "**" and isinstance(right, int) and abs(right) > 100:
        raise TooMuchError("it computes too large a number")
    if operator == "*":
        for value, times in ((left, right), (right, left)):
            if isinstance(value, (str, list, tuple)) and isinstance(times, int):
                refuse_large(len(value) * times)
    if operator == "%" and isinstance(left, str):
        refuse_growth("format", left, right if isinstance(right, tuple) else [right])
    result = compute(context, operator, left, right)
    if isinstance(result, int) and result.bit_length() > WIDTH:
        raise TooMuchError("it computes too large a number")
    if isinstance(result, (str, list, tuple)):
        refuse_large(len(result))
    return result
