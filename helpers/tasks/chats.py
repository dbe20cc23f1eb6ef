"""Rows that are chats: they say themselves who said what, so they need no template.

Read are the forms in which chats are published: `messages` (OpenAI, TRL, today's WebUI), `conversations`
(ShareGPT), `prompt` and `completion` (TRL), `instruction`, `input` and `output` (Alpaca), the message trees
of OASST, and texts with "### Human:" and "### Assistant:".
"""

import json
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from helpers.common.arguments import shorten
from helpers.common.errors import DamagedError, UnsupportedError
from helpers.common.files import hash_text
from helpers.common.values import find_surrogates
from helpers.tasks.files.tables import Table
from helpers.tasks.template import Row

if TYPE_CHECKING:
    from helpers.loading.chat_tokenizer import Message

ROLES = {  # the names that data sets give to the three roles
    "system": "system", "developer": "system",
    "user": "user", "human": "user", "prompter": "user",
    "assistant": "assistant", "gpt": "assistant", "chatgpt": "assistant", "bot": "assistant",
    "model": "assistant",
}  # fmt: skip


@dataclass(frozen=True)
class ChatForm:
    """What takes the place of a Template for rows that are chats.

    A row is {"messages": [...], "skipped": [...]}: messages that end with the assistant's, and the places of
    those that should not be learned. The last message is the answer, those before it are the prompt.
    """

    name: str = "chats"

    kind = "chats"
    columns = ("messages",)
    needed = ("messages",)
    group_columns = ("messages",)

    @property
    def sha256(self) -> str:
        """Hash of how rows become prompts: always the same."""
        return hash_text("chats")

    def build_conversation(self, row: Mapping[str, Any]) -> "list[Message]":
        """All messages."""
        return row["messages"]

    def build_messages(self, row: Mapping[str, Any]) -> "list[Message]":
        """The prompt: all messages before the last."""
        return row["messages"][:-1]

    def build_answer(self, row: Mapping[str, Any]) -> str:
        """The right answer: the text of the last message."""
        return row["messages"][-1]["content"]

    def build_example(self, row: Mapping[str, Any]) -> dict[str, Any]:
        """One training row: {"prompt": messages, "completion": [assistant message]}."""
        return {"prompt": row["messages"][:-1], "completion": row["messages"][-1:]}

    def list_learned(self, row: Mapping[str, Any], turns: str = "all") -> list[int]:
        """The places of the assistant's messages that are learned: "all", or the "last"."""
        messages, skipped = row["messages"], row.get("skipped", ())
        if turns == "last":
            return [len(messages) - 1]
        return [
            place
            for place, message in enumerate(messages)
            if message["role"] == "assistant" and place not in skipped
        ]

    def find_group(self, row: Mapping[str, Any]) -> str:
        """Chats that begin with the same question stay together."""
        return next((one["content"] for one in row["messages"] if one["role"] == "user"), "")

    def make_row(self, cells: Mapping[str, Any]) -> Row:
        """A checked row; a KitError says which message is wrong."""
        given = parse_list(cells["messages"])
        messages = [read_message(message, number) for number, message in enumerate(given, start=1)]
        skipped = [place for place, message in enumerate(given) if message.get("weight") == 0]
        if messages and messages[0]["role"] == "assistant":
            skipped.append(0)  # nobody asked before it, so no server is given a prompt for it
        while messages and (messages[-1]["role"] != "assistant" or len(messages) - 1 in skipped):
            messages.pop()  # nothing follows it that could be learned
        if not messages:
            raise DamagedError("No message of the assistant can be learned.", "Add one, or delete the row.")
        skipped = [place for place in skipped if place < len(messages)]
        return {"messages": messages, "skipped": skipped} if skipped else {"messages": messages}


def parse_list(value: object) -> list[Any]:
    """The messages of a cell: a list, or a JSON text of one."""
    if isinstance(value, str):
        try:
            value = json.loads(value)
        except (ValueError, RecursionError):
            raise DamagedError("The messages are not a list.", "Write them as JSON.") from None
        if find_surrogates(value):
            remedy = "Write the character itself, or both of its halves (\\ud83d\\ude00)."
            raise DamagedError("A message has half of a character in a text or a name.", remedy)
    if not isinstance(value, list):
        raise DamagedError("The messages are not a list.", 'Write [{"role": ..., "content": ...}, ...].')
    return value


def read_message(message: object, number: int) -> "Message":
    """One message as {"role", "content"}; a KitError for what cannot be learned from. Counted from 1."""
    if not isinstance(message, dict):
        raise DamagedError(f"Message {number} is not an object.", 'Write {"role": ..., "content": ...}.')
    role = message.get("role", message.get("from"))
    if not isinstance(role, str) or role not in ROLES:
        problem = f"Message {number} has the role {shorten(role)}, which cannot be trained."
        raise UnsupportedError(problem, "Use system, user and assistant, or delete the row.")
    if message.get("tool_calls") or message.get("function_call"):
        problem = f"Message {number} calls a tool, which cannot be trained."
        raise UnsupportedError(problem, "Use system, user and assistant, or delete the row.")
    content = join_text(message.get("content", message.get("value")), number)
    if not content.strip() and ROLES[role] != "system":
        raise DamagedError(f"Message {number} is empty.", "Fill it in or delete the row.")
    return {"role": ROLES[role], "content": content}


def join_text(content: object, number: int) -> str:
    """The text of a message, which may come in parts: [{"type": "text", "text": ...}, ...]."""
    if content is None:
        return ""
    if isinstance(content, str):
        return content
    parts = content if isinstance(content, list) else [content]
    texts = [part.get("text") if isinstance(part, dict) else part for part in parts]
    if not all(isinstance(text, str) for text in texts):
        problem = f"Message {number} holds something that is not text."
        raise UnsupportedError(problem, "Only text can be trained: delete the row.")
    return "\n".join(str(text) for text in texts)


# Forms that are published

FIRST_ROWS = 20  # a column that is empty in all of them says nothing about the form


def find_chats(table: Table) -> Table | None:
    """The table with a column `messages`, if its columns are of a form of chats that is known; else None."""
    start = table.rows[:FIRST_ROWS]
    columns = {name for name in table.columns if any(row[name] for row in start)}
    for needed, convert in FORMS.items():
        if set(needed) <= columns and (chats := convert(table)):
            return chats
    return None


def convert_rows(convert: Callable[[Mapping[str, Any]], object]) -> Callable[[Table], Table | None]:
    """A converter of tables, from one that makes the messages of a row."""

    def convert_table(table: Table) -> Table:
        rows = [{"messages": convert(row)} for row in table.rows]
        return replace(table, columns=["messages"], rows=rows)

    return convert_table


def read_alpaca(row: Mapping[str, Any]) -> list[dict[str, Any]]:
    """The messages of Alpaca's columns: the input, if there is one, follows the instruction."""
    system = [{"role": "system", "content": row["system"]}] if row.get("system") else []
    parts = [part for part in (row["instruction"], row.get("input", "")) if part]
    are_texts = all(isinstance(part, str) for part in parts)
    question = "\n\n".join(parts) if are_texts else parts  # which join_text refuses
    return [
        *system,
        {"role": "user", "content": question},
        {"role": "assistant", "content": row["output"]},
    ]


def read_roles(row: Mapping[str, Any]) -> list[dict[str, Any]]:
    """The messages of a row whose columns are the roles."""
    roles = [role for role in ("system", "user", "assistant") if row.get(role)]
    return [{"role": role, "content": row[role]} for role in roles]


def read_prompt(row: Mapping[str, Any]) -> list[Any]:
    """The messages of TRL's `prompt` and `completion`, which are texts or lists of messages."""
    messages: list[Any] = []
    for role, value in (("user", row["prompt"]), ("assistant", row["completion"])):
        messages += value if isinstance(value, list) else [{"role": role, "content": value}]
    return messages


def read_marked(table: Table) -> Table | None:
    """Chats that are texts with "### Human:" and "### Assistant:"; None if the texts are not."""
    texts = [str(row["text"]) for row in table.rows]
    if not texts or not all(text.lstrip().startswith("### Human:") for text in texts[:100]):
        return None

    def split_text(row: Mapping[str, Any]) -> list[dict[str, str]]:
        parts = re.split(r"\s*### (Human|Assistant):\s*", str(row["text"]))[1:]
        roles = [role.lower() for role in parts[::2]]
        return [{"role": role, "content": text} for role, text in zip(roles, parts[1::2], strict=True)]

    return convert_rows(split_text)(table)


def read_threads(table: Table) -> Table:
    """One chat for each tree of messages that OASST writes a row each: from the root, the best reply on."""
    replies: dict[str, list[Mapping[str, Any]]] = {}
    for row, place in zip(table.rows, table.places, strict=True):
        if odd := [name for name in ("message_id", "parent_id") if not isinstance(row.get(name, ""), str)]:
            problem = f"{place.capitalize()} of {table.path} has a {odd[0]} that is not a text."
            raise DamagedError(problem, "Write it as one text or number.")
        replies.setdefault(row.get("parent_id", ""), []).append(row)
    chats, places = [], []
    for row, place in zip(table.rows, table.places, strict=True):
        if not row.get("parent_id"):
            thread = follow_best(row, lambda one: replies.pop(one["message_id"], []))
            if len(thread) > 1:  # somebody replied
                chats.append({"messages": thread})
                places.append(place)
    if table.rows and not chats:
        problem = f"{table.path} has no message without parent_id that somebody replied to."
        raise DamagedError(problem, "Add the first messages of the conversations, with an empty parent_id.")
    return replace(table, columns=["messages"], rows=chats, places=places)


def read_trees(table: Table) -> Table | None:
    """The same from OASST's trees, in which replies lie inside their message; None if they are not trees."""
    if not all(isinstance(row["prompt"], dict) for row in table.rows):
        return None

    def list_replies(message: Mapping[str, Any]) -> list[Mapping[str, Any]]:
        found = message.get("replies")
        return [one for one in found if isinstance(one, dict)] if isinstance(found, list) else []

    return convert_rows(lambda row: follow_best(row["prompt"], list_replies))(table)


def follow_best(
    root: Mapping[str, Any], list_replies: Callable[[Mapping[str, Any]], list[Mapping[str, Any]]]
) -> list[dict[str, Any]]:
    """The messages from the root on; of several replies, the one with the lowest rank."""

    def walk(message: Mapping[str, Any] | None) -> Iterator[dict[str, Any]]:
        while message:
            yield {"role": message.get("role"), "content": message.get("text")}
            message = min(list_replies(message), key=read_rank, default=None)

    return list(walk(root))


def read_rank(message: Mapping[str, Any]) -> float:
    """A reply's rank, 0 for the best; one without a rank comes last."""
    try:
        return float(message.get("rank") or "inf") if message.get("rank") != 0 else 0.0
    except (TypeError, ValueError, OverflowError):
        return float("inf")


FORMS: dict[tuple[str, ...], Callable[[Table], Table | None]] = {
    ("messages",): lambda table: table,
    ("conversations",): convert_rows(lambda row: row["conversations"]),
    ("conversation",): convert_rows(lambda row: row["conversation"]),
    ("message_id", "text", "role"): read_threads,
    ("message_tree_id", "prompt"): read_trees,
    ("user", "assistant"): convert_rows(read_roles),
    ("prompt", "completion"): convert_rows(read_prompt),
    ("instruction", "output"): convert_rows(read_alpaca),
    ("text",): read_marked,
}
