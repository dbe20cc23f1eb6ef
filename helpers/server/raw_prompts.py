"""A chat in, its prompt and its stop strings out, by the rules of the WebUI of October 2023: pure functions that need no model.

Two things of the model are handed in: `render`, which writes messages with its own chat template, and `count`, how many tokens a text has.
"""

import re
from bisect import bisect_left
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

USER, BOT, SAID, REPLIED, ROUND = "<|user|>", "<|bot|>", "<|user-message|>", "<|bot-message|>", "<|round|>"


GREETING_ROW = "<|BEGIN-VISIBLE-CHAT|>"  # stands where the WebUI's page has a greeting that answers no one


CHAT_TURN = f"{USER}: {SAID}\n{BOT}: {REPLIED}\n"


Row = tuple[str, str]  # what the user said, what was replied


Render = Callable[[list[dict[str, str]], bool], str]


def fill(text: str, values: Mapping[str, str]) -> str:
    """`text` with each placeholder replaced by its value, in one pass: a placeholder inside a value stays what it is."""
    return re.sub("|".join(map(re.escape, values)), lambda match: values[match[0]], text)


@dataclass(frozen=True)
class TurnFormat:
    """How a conversation is written: the two names, what stands before it, and one exchange with placeholders."""

    user: str
    bot: str
    turn: str  # has <|user-message|>, <|bot|> and <|bot-message|>, once each and in this order
    context: str = ""

    def _fill(self, text: str, message: str, number: int = 0) -> str:
        return fill(
            text, {USER: self.user, BOT: self.bot, SAID: message, REPLIED: message, ROUND: str(number)}
        )

    def write_user(self, message: str, number: int) -> str:
        """The user's turn, as far as the bot's name; `number` counts from 0."""
        return self._fill(self.turn.split(BOT)[0], message, number)

    def write_bot(self, message: str, number: int) -> str:
        """The bot's turn, from its name on."""
        return self._fill(BOT + self.turn.split(BOT)[1], message, number)

    def open_bot(self) -> str:
        """The bot's turn as far as its message."""
        return self._fill((BOT + self.turn.split(BOT)[1]).split(REPLIED)[0], "")

    def list_stops(self) -> list[str]:
        """What a model writes that goes on to the next turn by itself."""
        after_user = self.turn.split(SAID)[1].split(BOT)[0] + BOT
        after_bot = self.turn.split(REPLIED)[1] + USER
        return [self._fill(text, "").rstrip(" ") for text in (after_user, after_bot)]

    def write_rows(self, rows: Sequence[Row], first: int, said: str) -> str:
        """The context, the rows, of which the first has the number `first`, and what the user says now."""
        text = self.context
        for number, (user, bot) in enumerate(rows, first):
            text += self._write_said(user, number) + self.write_bot(bot.strip(), number)
        return text + self._write_said(said, first + len(rows))

    def _write_said(self, message: str, number: int) -> str:
        return "" if is_no_turn(message) else self.write_user(message.strip(), number)


@dataclass(frozen=True)
class Chat:
    """What a prompt is made of."""

    mode: str  # instruct, chat or chat-instruct
    rows: Sequence[Row]  # before the row that is being written
    said: str  # what the user says now
    begun: str | None  # the reply that is to be lengthened; None for a new one
    lines: TurnFormat  # of the modes chat and chat-instruct
    instruct: (
        TurnFormat | None
    )  # of the modes instruct and chat-instruct; None is the model's own chat template
    system: str | None = None  # for the model's own template: its system message
    command: str = "<|prompt|>"  # of chat-instruct: what the model is told, with <|character|> and <|prompt|>


def is_no_turn(said: str) -> bool:
    """Whether a row has no turn of the user's."""
    return said in ("", GREETING_ROW)


def format_lines(name1: str, name2: str, context: str) -> TurnFormat:
    """The lines "Name: text" of mode chat. The context may name both speakers as {{user}} or <USER>, {{char}} or <BOT>."""
    context = fill(context.strip(), {"{{user}}": name1, "<USER>": name1, "{{char}}": name2, "<BOT>": name2})
    return TurnFormat(name1.strip(), name2.strip(), CHAT_TURN, f"{context}\n")


def list_stops(chat: Chat) -> list[str]:
    """Strings that end the answer because another turn begins with them."""
    stops = chat.instruct.list_stops() if chat.instruct and chat.mode != "chat" else []
    if chat.mode != "instruct":
        stops += [f"\n{chat.lines.user}:", f"\n{chat.lines.bot}:"]
    return [text for text in stops if text]


def write_prompt(chat: Chat, render: Render, dropped: int = 0) -> str:
    """The prompt without the `dropped` oldest rows."""
    if chat.mode == "chat-instruct":
        return write_wrapped(chat, render, dropped)
    if chat.mode == "instruct" and not chat.instruct:
        return write_own(chat, render, dropped)
    form = chat.lines if chat.mode == "chat" else chat.instruct
    text = form.write_rows(chat.rows[dropped:], dropped, chat.said)
    return text + (
        form.open_bot().rstrip(" ") if chat.begun is None else form.open_bot() + chat.begun.strip()
    )


def write_own(chat: Chat, render: Render, dropped: int) -> str:
    """The same with the model's own chat template."""
    messages = []
    for said, replied in chat.rows[dropped:]:
        messages += [] if is_no_turn(said) else [{"role": "user", "content": said.strip()}]
        messages.append({"role": "assistant", "content": replied.strip()})
    messages += [] if is_no_turn(chat.said) else [{"role": "user", "content": chat.said.strip()}]
    begun = (chat.begun or "").strip()
    messages += [{"role": "assistant", "content": begun}] if begun else []
    return render([*list_system(chat), *messages], bool(begun))


def write_wrapped(chat: Chat, render: Render, dropped: int) -> str:
    """chat-instruct: the lines of the chat stand in a command, which is one turn of the user's; the answer begins with the character's name."""
    lines = chat.lines.write_rows(chat.rows[dropped:], dropped, chat.said)
    command = fill(chat.command, {"<|character|>": chat.lines.bot, "<|prompt|>": lines})
    opening = chat.lines.open_bot().rstrip(" ") if chat.begun is None else chat.lines.open_bot() + chat.begun
    if chat.instruct:
        return (
            chat.instruct.context + chat.instruct.write_user(command, 0) + chat.instruct.open_bot() + opening
        )
    return render([*list_system(chat), {"role": "user", "content": command}], False) + opening


def list_system(chat: Chat) -> list[dict[str, str]]:
    """The system message for the model's own template, if there is one."""
    return [{"role": "system", "content": chat.system}] if chat.system else []


def fit_prompt(chat: Chat, render: Render, count: Callable[[str], int], room: int) -> str:
    """The prompt with as many of the newest rows as leave it under `room` tokens. The context and the row being written always stay."""

    def fits(dropped: int) -> bool:
        return count(write_prompt(chat, render, dropped)) < room

    if fits(0):
        return write_prompt(chat, render)
    dropped = bisect_left(range(1, len(chat.rows)), True, key=fits) + 1  # fewer rows never have more tokens
    return write_prompt(chat, render, min(dropped, len(chat.rows)))
