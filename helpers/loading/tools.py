"""Tools in a conversation: how a model is told of them, and how it writes a call. No torch.

A chat template that knows tools shows both: a call is rendered by it, and the text around the name and the
arguments is its form. Qwen 3's, for example:

    <tool_call>
    {"name": "|get_weather|", "arguments": |{"city": "Oslo"}|}
    </tool_call>

For any other template the kit writes tools, calls and results into ordinary messages, in the same form: that
of Hermes, which is the most common.
"""

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from helpers.common.errors import KitError
from helpers.loading.chat_tokenizer import PROBED, ChatTokenizer, unmark

Messages = Sequence[Mapping[str, Any]]

# Stand-ins, as PROBE is for an answer.
NAME = "quokka_tool"
ARGUMENTS = {"wombat": "numbat"}
PROBED_TOOL = {
    "type": "function",
    "function": {
        "name": NAME,
        "description": "Finds quokkas.",
        "parameters": {"type": "object", "properties": {"wombat": {"type": "string"}}},
    },
}
WRITTEN_ARGUMENTS = re.compile(r'\{\s*"wombat"\s*:\s*"numbat"\s*\}')

INSTRUCTION = """\
You can call functions. Each of them is described here by a JSON object:
<tools>
{tools}
</tools>
To call one, write its name and its arguments as JSON:
<tool_call>
{{"name": "NAME", "arguments": {{"KEY": "VALUE"}}}}
</tool_call>
What it returns comes between <tool_response> and </tool_response>."""


@dataclass(frozen=True)
class ToolForm:
    """The texts around the names and the arguments of an answer's calls."""

    begin: str  # before the first name
    middle: str  # between a name and its arguments, which are JSON
    between: str | None  # from the arguments of a call to the name of the next; None: one call an answer
    end: str  # after the last arguments


OWN = ToolForm(
    begin='<tool_call>\n{"name": "',
    middle='", "arguments": ',
    between='}\n</tool_call>\n<tool_call>\n{"name": "',
    end="}\n</tool_call>",
)


@dataclass
class ToolTemplate:
    """A chat template with tools."""

    chat: ChatTokenizer

    @cached_property
    def _found(self) -> tuple[ToolForm | None, bool]:
        """The form of the chat template itself, if it has one, and whether it takes arguments as text.

        It has none if it does not write tools, or writes arguments in another form than JSON.
        """
        try:
            return find_form(self.chat, as_text=False), False
        except KitError:
            pass
        try:
            return find_form(self.chat, as_text=True), True
        except KitError:
            return None, False

    @property
    def is_own(self) -> bool:
        """Whether the form is the chat template's own."""
        return self._found[0] is not None

    @property
    def form(self) -> ToolForm:
        """How an answer writes calls."""
        return self._found[0] or OWN

    @property
    def visible_form(self) -> ToolForm:
        """The form as the text of an answer shows it, in which special tokens are left out."""
        form, special = self.form, self.chat.special
        between = None if form.between is None else strip_special(form.between, special)
        begin, middle, end = (strip_special(text, special) for text in (form.begin, form.middle, form.end))
        return ToolForm(begin, middle, between, end)

    def render_marked(
        self, messages: Messages, continue_last: bool = False, tools: Sequence[object] | None = None
    ) -> str:
        """ChatTokenizer.render_marked for messages in OpenAI's form, with calls and results of tools."""
        if not tools and not any("tool_calls" in one or one["role"] == "tool" for one in messages):
            return self.chat.render_marked(messages, continue_last)
        form, as_text = self._found
        if form:
            return self.chat.render_marked(fit_calls(messages, as_text), continue_last, tools)
        return self.chat.render_marked(write_as_messages(messages, tools), continue_last)


def find_form(chat: ChatTokenizer, as_text: bool) -> ToolForm | None:
    """The form in which the template writes calls, whose arguments it takes as an object or `as_text`.

    Raises a UsageError if it rejects a call.
    """
    one = render_calls(chat, 1, as_text)
    if one is None or len(one) != 3:
        return None
    begin, middle, end = one
    try:
        two = render_calls(chat, 2, as_text) or []
    except KitError:  # Llama 3.1 writes only one
        two = []
    between = two[2] if len(two) == 5 and [begin, middle] == two[:2] and middle == two[3] else None
    # A call is found by what it begins with, so that must not be a word of an ordinary answer.
    visible = strip_special(begin, chat.special)
    return ToolForm(begin, middle, between, end) if re.search(r"[^\w\s]", visible) else None


def render_calls(chat: ChatTokenizer, count: int, as_text: bool) -> list[str] | None:
    """The texts around names and arguments of so many calls; None if the template does not write them."""
    begun = unmark(chat.render_marked(PROBED, tools=[PROBED_TOOL]))
    if NAME not in begun:
        return None
    call = {"type": "function", "function": {"name": NAME, "arguments": json.dumps(ARGUMENTS)}}
    answer = {"role": "assistant", "content": "", "tool_calls": [call] * count}
    whole = chat.render_all(fit_calls([*PROBED, answer], as_text), [PROBED_TOOL])
    if not whole.startswith(begun):
        return None
    text, *_ = whole[len(begun) :].split(chat.end_text)
    return re.split(f"{NAME}|{WRITTEN_ARGUMENTS.pattern}", text.rstrip())


def strip_special(text: str, special: frozenset[str]) -> str:
    """The text as an answer shows it, without special tokens."""
    for token in special:
        text = text.replace(token, "")
    return text


def fit_calls(messages: Messages, as_text: bool) -> list[dict[str, Any]]:
    """The messages as templates expect them: calls have ids of nine digits, results the name of their tool.

    Arguments, which clients send as text, become objects unless the template takes them `as_text`. The ids
    are numbers in the order of the calls, since some templates write them: Mistral's takes no longer ones.
    """
    fitted: list[dict[str, Any]] = []
    known: dict[str, tuple[str, str]] = {}  # a client's id: (the id here, the tool's name)
    for message in messages:
        message = dict(message)
        if "tool_calls" in message:
            calls = []
            for call in message["tool_calls"]:
                name, arguments = call["function"]["name"], call["function"]["arguments"]
                number = f"{len(known):09d}"
                known[call.get("id", number)] = (number, name)
                function = {"name": name, "arguments": arguments if as_text else read_arguments(arguments)}
                calls.append({"id": number, "type": "function", "function": function})
            message["tool_calls"] = calls
        elif message["role"] == "tool":
            asked = message.get("tool_call_id", "")
            message["tool_call_id"], message["name"] = known.get(asked, (asked, message.get("name", "")))
        fitted.append(message)
    return fitted


def read_arguments(text: str) -> Any:
    """A call's arguments as an object; as they are if they are not JSON, since a call may have been cut."""
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        return text


def write_as_messages(messages: Messages, tools: Sequence[object] | None) -> list[dict[str, str]]:
    """The same conversation in messages that any template writes, with tools, calls and results as text."""
    written: list[dict[str, str]] = []
    after_result = False
    for message in messages:
        role, content = message["role"], message["content"] or ""
        if message.get("tool_calls"):
            calls = "\n".join(write_call(call["function"]) for call in message["tool_calls"])
            content = f"{content}\n{calls}" if content else calls
        elif role == "tool":
            role, content = "user", f"<tool_response>\n{content}\n</tool_response>"
        if after_result and role == "user":  # many templates expect user and assistant in turns
            content = f"{written.pop()['content']}\n{content}"
        written.append({"role": role, "content": content})
        after_result = message["role"] == "tool"
    if not tools:
        return written
    instruction = INSTRUCTION.format(tools="\n".join(json.dumps(tool, ensure_ascii=False) for tool in tools))
    if written and written[0]["role"] == "system":
        instruction = f"{written.pop(0)['content']}\n\n{instruction}"
    return [{"role": "system", "content": instruction}, *written]


def write_call(function: Mapping[str, str]) -> str:
    """A call in the kit's form."""
    return OWN.begin + function["name"] + OWN.middle + function["arguments"] + OWN.end
