"""Calls of tools in an answer: the form that they must have, and the answer taken apart. No torch.

The weather:\n<tool_call>\n{"name": "get_weather", "arguments": {"city": "Oslo"}}\n</tool_call>
| text      | begin                |  name    | middle         | arguments     | end
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, Literal

from helpers.generation.structure import Structure
from helpers.loading.tools import ToolForm, ToolTemplate

MAX_CALLS = 16  # in one answer


@dataclass(frozen=True)
class Tool:
    """A function that a model may call."""

    name: str
    schema: Mapping[str, Any]  # of its arguments, an object
    strict: bool = False  # refuse a schema that cannot be enforced as a whole


def describe_calls(
    template: ToolTemplate,
    tools: Sequence[Tool],
    answer: Mapping[str, Any] | Literal["text"] | None,
    parallel: bool = True,
) -> Structure:
    """The form of an answer that calls tools: several if `parallel`, or else one.

    `answer` is what may come instead of calls: a text, which may also come before them, or JSON of a schema.
    With None the answer must call.
    """
    form, chat = template.form, template.chat
    texts = [text or "" for text in asdict(form).values()]
    special = {
        token: chat.control_tokens[token]
        for token in chat.special & chat.control_tokens.keys()
        if any(token in text for text in texts)
    }
    described = {
        **dict(zip(asdict(form), texts, strict=True)),
        "tools": [
            {"name": one.name, "schema": close_object(one.schema), "strict": one.strict} for one in tools
        ],
        "most": MAX_CALLS if parallel and form.between is not None else 1,
        "answer": answer,
        "special": special,
    }
    return Structure("calls", json.dumps(described))


def close_object(schema: Mapping[str, Any]) -> dict[str, Any]:
    """The schema of a call's arguments: an object, without properties that are not described.

    A small model would add them.
    """
    closed = {"additionalProperties": False} if "properties" in schema or not schema else {}
    return {"type": "object", **closed, **schema}


@dataclass
class Part:
    """What a piece of an answer adds: free text, and to the calls."""

    text: str = ""
    calls: list["CallPart"] = field(default_factory=list)

    def __bool__(self) -> bool:
        return bool(self.text or self.calls)


@dataclass
class CallPart:
    """What a piece of an answer adds to a call."""

    index: int  # of the call in the answer
    name: str | None  # with its first part only
    arguments: str  # JSON, or a part of it


class CallReader:
    """Takes the text of an answer apart as it comes.

    `anywhere` says whether a call may come after a text. Otherwise an answer begins with one or has none.
    """

    def __init__(self, form: ToolForm, anywhere: bool = True):
        self.form = form  # as the text shows it
        self.anywhere = anywhere
        self.count = 0  # calls so far
        self._held = ""  # text that may belong to the form
        self._take = self._take_text
        self._json = JsonEnd()

    def feed(self, text: str) -> Part:
        """What the next piece of the answer adds."""
        self._held += text
        part = Part()
        while self._take(part):
            pass
        return part

    def finish(self) -> Part:
        """What was held back until the end: the begin of a form that did not come."""
        held, self._held = self._held, ""
        return Part(held) if self._take == self._take_text else Part()

    # Each takes from the held text, adds to the part, and returns whether another state has to go on.

    def _take_text(self, part: Part) -> bool:
        before, found, after = self._held.partition(self.form.begin)
        if found and (self.anywhere or not before):
            part.text += before
            self._held, self._take = after, self._take_name
            return True
        if self.anywhere or not self.form.begin.startswith(self._held):
            kept = measure_overlap(self._held, self.form.begin) if self.anywhere else 0
            part.text += self._held[: len(self._held) - kept]
            self._held = self._held[len(self._held) - kept :]
        return False

    def _take_name(self, part: Part) -> bool:
        name, found, after = self._held.partition(self.form.middle)
        if not found:
            return False
        part.calls.append(CallPart(self.count, name, ""))
        self.count += 1
        self._held, self._take, self._json = after, self._take_arguments, JsonEnd()
        return True

    def _take_arguments(self, part: Part) -> bool:
        end = self._json.find(self._held)
        arguments, self._held = self._held[:end], self._held[end:]
        if arguments:
            part.calls.append(CallPart(self.count - 1, None, arguments))
        if self._json.depth or not self._json.begun:
            return False
        self._take = self._take_between
        return True

    def _take_between(self, part: Part) -> bool:
        if self.form.between and self._held.startswith(self.form.between):
            self._held, self._take = self._held[len(self.form.between) :], self._take_name
            return True
        return False


def read_answer(reader: CallReader, text: str) -> Part:
    """A whole answer taken apart, in which each call is one part."""
    part = reader.feed(text)
    part.text += reader.finish().text
    calls: list[CallPart] = []
    for call in part.calls:
        if call.name is None:
            calls[-1].arguments += call.arguments
        else:
            calls.append(call)
    return Part(part.text, calls)


class JsonEnd:
    """Finds the end of a JSON object that comes in pieces."""

    def __init__(self):
        self.depth = 0
        self.begun = False
        self._quoted = self._escaped = False

    def find(self, text: str) -> int:
        """Where in the next piece the object ends; the piece's length if it goes on."""
        for place, character in enumerate(text):
            if self.begun and not self.depth:
                return place
            if self._quoted:
                self._quoted = self._escaped or character != '"'
                self._escaped = character == "\\" and not self._escaped
            elif character == '"':
                self._quoted = True
            elif character in "{[":
                self.begun, self.depth = True, self.depth + 1
            elif character in "}]":
                self.depth -= 1
        return len(text)


def measure_overlap(text: str, begin: str) -> int:
    """How many of the last characters of the text are the first of `begin`."""
    longest = min(len(text), len(begin) - 1)
    return next((size for size in range(longest, 0, -1) if text.endswith(begin[:size])), 0)
