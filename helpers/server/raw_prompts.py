"""The prompts of 2023: a chat in, its prompt and stop strings out, by the rules of the WebUI of October 2023.

Pure functions that need no model. Two things that only a model has are handed in: `render` writes messages
with the model's own chat template, and `count` tells how many tokens a text has.
"""

import re
from bisect import bisect_left
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from helpers.generation.prompts import PromptTooLong

# Placeholders of a turn template.
USER_NAME = "<|user|>"
BOT_NAME = "<|bot|>"
USER_MESSAGE = "<|user-message|>"
BOT_MESSAGE = "<|bot-message|>"
ROUND = "<|round|>"  # the exchange's number, from 0

# Placeholders of the command of mode chat-instruct.
CHARACTER = "<|character|>"
PROMPT = "<|prompt|>"

GREETING_MARK = "<|BEGIN-VISIBLE-CHAT|>"  # in the WebUI's histories, the user's message before a greeting
CHAT_TURN = f"{USER_NAME}: {USER_MESSAGE}\n{BOT_NAME}: {BOT_MESSAGE}\n"  # the turn template of mode chat

Exchange = tuple[str, str]  # what the user said, what the bot replied

Render = Callable[[list[dict[str, str]], bool], str]  # (messages, whether to lengthen the last one) -> prompt


# Characters of a prompt. A body has half as many, so only a placeholder that comes often can lead to more.
MAX_PROMPT = 8 * 2**20


def refuse_length(characters: int) -> None:
    """Raises PromptTooLong for more characters than a prompt may have, so that nobody writes them."""
    if characters > MAX_PROMPT:
        raise PromptTooLong(
            f"The prompt would have {characters} characters or more, and the limit is {MAX_PROMPT}.",
            "Repeat placeholders less often.",
        )


def fill(text: str, values: Mapping[str, str]) -> str:
    """`text` with each placeholder replaced by its value, in one pass: placeholders inside a value stay.

    Raises PromptTooLong for a result that is too long for any prompt, before it is written.
    """
    refuse_length(len(text) + sum(text.count(name) * len(value) for name, value in values.items()))
    pattern = "|".join(re.escape(placeholder) for placeholder in values)
    return re.sub(pattern, lambda match: values[match[0]], text)


@dataclass(frozen=True)
class TurnFormat:
    """How a conversation is written: two names, a context that comes first, an exchange with placeholders.

    Example, with the turn "<|user|>: <|user-message|>\\n<|bot|>: <|bot-message|>\\n" and the names Ann and
    Bo:

        write_user("Hi", 0)    -> "Ann: Hi\\n"
        write_bot("Hello", 0)  -> "Bo: Hello\\n"
        open_bot()             -> "Bo: "
        list_stops()           -> ["\\nBo", "\\nAnn"]
    """

    user: str
    bot: str
    turn: str  # has <|user-message|>, <|bot|> and <|bot-message|>, once each and in this order
    context: str = ""

    @property
    def _user_part(self) -> str:
        """The turn template before the bot's name."""
        return self.turn.partition(BOT_NAME)[0]

    @property
    def _bot_part(self) -> str:
        """The turn template from the bot's name on."""
        return BOT_NAME + self.turn.partition(BOT_NAME)[2]

    def _fill(self, text: str, message: str = "", number: int = 0) -> str:
        values = {
            USER_NAME: self.user,
            BOT_NAME: self.bot,
            USER_MESSAGE: message,
            BOT_MESSAGE: message,
            ROUND: str(number),
        }
        return fill(text, values)

    def write_user(self, message: str, number: int) -> str:
        """The user's part of an exchange; `number` counts the exchanges from 0."""
        return self._fill(self._user_part, message, number)

    def write_bot(self, message: str, number: int) -> str:
        """The bot's part of an exchange."""
        return self._fill(self._bot_part, message, number)

    def open_bot(self) -> str:
        """The bot's part as far as its message."""
        return self._fill(self._bot_part.partition(BOT_MESSAGE)[0])

    def list_stops(self) -> list[str]:
        """What a model writes if it goes on to the next turn: what follows each message, and a name."""
        after_user = self._user_part.partition(USER_MESSAGE)[2] + BOT_NAME
        after_bot = self._bot_part.partition(BOT_MESSAGE)[2] + USER_NAME
        return [self._fill(text).rstrip(" ") for text in (after_user, after_bot)]

    def write_conversation(self, past: Sequence[Exchange], first: int, user_message: str) -> str:
        """The context, the past exchanges, numbered from `first` on, and the user's message.

        Raises PromptTooLong.
        """
        parts = [self.context]
        length = len(self.context)
        for number, (said, replied) in enumerate(past, first):
            parts += [self._write_user_turn(said, number), self.write_bot(replied.strip(), number)]
            length += len(parts[-2]) + len(parts[-1])
            refuse_length(length)
        return "".join([*parts, self._write_user_turn(user_message, first + len(past))])

    def _write_user_turn(self, message: str, number: int) -> str:
        return self.write_user(message.strip(), number) if has_user_turn(message) else ""


@dataclass(frozen=True)
class Chat:
    """What a prompt is made of."""

    mode: str  # instruct, chat or chat-instruct
    past: Sequence[Exchange]  # the exchanges before the one that is being written
    user_message: str  # what the user says now
    reply_begun: str | None  # the reply to continue; None for a new one
    lines: TurnFormat  # for the modes chat and chat-instruct
    instruct: TurnFormat | None  # for instruct and chat-instruct; None is the model's own chat template
    system: str | None = None  # the system message for the model's own chat template
    command: str = PROMPT  # for chat-instruct: the instruction, with <|character|> and <|prompt|>


def has_user_turn(message: str) -> bool:
    """Whether the user says something in an exchange: not if the bot only greets, or goes on by itself."""
    return message not in ("", GREETING_MARK)


def format_lines(name1: str, name2: str, context: str) -> TurnFormat:
    """The format "Name: text" of mode chat. In the context, placeholders such as {{user}} become names."""
    names = {"{{user}}": name1, "<USER>": name1, "{{char}}": name2, "<BOT>": name2}
    context = fill(context.strip(), names)
    return TurnFormat(name1.strip(), name2.strip(), CHAT_TURN, f"{context}\n")


def list_stops(chat: Chat) -> list[str]:
    """Strings that end the answer because they begin another turn."""
    stops: list[str] = []
    if chat.instruct and chat.mode != "chat":
        stops += chat.instruct.list_stops()
    if chat.mode != "instruct":
        stops += [f"\n{chat.lines.user}:", f"\n{chat.lines.bot}:"]
    return [text for text in stops if text]


def write_prompt(chat: Chat, render: Render, dropped: int = 0) -> str:
    """The prompt without the `dropped` oldest exchanges."""
    if chat.mode == "chat":
        return write_turns(chat, chat.lines, dropped)
    if chat.mode == "chat-instruct":
        return write_chat_instruct(chat, render, dropped)
    if chat.instruct is None:
        return write_with_model_template(chat, render, dropped)
    return write_turns(chat, chat.instruct, dropped)


def write_turns(chat: Chat, turns: TurnFormat, dropped: int) -> str:
    """The conversation in the given format, up to where the bot's message begins or goes on."""
    text = turns.write_conversation(chat.past[dropped:], dropped, chat.user_message)
    if chat.reply_begun is None:
        return text + turns.open_bot().rstrip(" ")
    return text + turns.open_bot() + chat.reply_begun.strip()


def write_with_model_template(chat: Chat, render: Render, dropped: int) -> str:
    """The conversation in the format of the model's own chat template."""
    messages = list_system_message(chat)
    for said, replied in chat.past[dropped:]:
        messages += list_user_message(said)
        messages.append({"role": "assistant", "content": replied.strip()})
    messages += list_user_message(chat.user_message)
    begun = (chat.reply_begun or "").strip()
    if begun:
        messages.append({"role": "assistant", "content": begun})
    return render(messages, bool(begun))


def write_chat_instruct(chat: Chat, render: Render, dropped: int) -> str:
    """Mode chat-instruct: a command quotes the lines of the chat; it is a single turn of the user's.

    The answer begins with the character's name: "Bo:".
    """
    lines = chat.lines.write_conversation(chat.past[dropped:], dropped, chat.user_message)
    command = fill(chat.command, {CHARACTER: chat.lines.bot, PROMPT: lines})
    if chat.reply_begun is None:
        opening = chat.lines.open_bot().rstrip(" ")
    else:
        opening = chat.lines.open_bot() + chat.reply_begun
    if chat.instruct is None:
        exchange = [{"role": "user", "content": command}, {"role": "assistant", "content": opening}]
        return render([*list_system_message(chat), *exchange], True)
    turn = chat.instruct.write_user(command, 0) + chat.instruct.open_bot()
    return chat.instruct.context + turn + opening


def list_system_message(chat: Chat) -> list[dict[str, str]]:
    """The system message for the model's own template; nothing if there is none."""
    return [{"role": "system", "content": chat.system}] if chat.system else []


def list_user_message(message: str) -> list[dict[str, str]]:
    """The user's message; nothing if the user says nothing."""
    return [{"role": "user", "content": message.strip()}] if has_user_turn(message) else []


def drop_oldest_exchanges(
    chat: Chat, render: Render, count: Callable[[str], int], room: int, longest: int = MAX_PROMPT
) -> str:
    """The prompt with as many of the newest exchanges as leave it under `room` tokens.

    A text of more than `longest` characters has more tokens than that, and is not counted. The context and
    the exchange being written always stay, even if they alone are too long. Raises PromptTooLong for what no
    prompt may have.
    """

    def fits(dropped: int) -> bool:
        try:
            text = write_prompt(chat, render, dropped)
        except PromptTooLong:
            return False
        return len(text) <= longest and count(text) < room

    fewest = max(0, len(chat.past) - room)  # an exchange has one token at least
    if fewest == len(chat.past) or fits(fewest):
        return write_prompt(chat, render, fewest)
    # Fewer exchanges never have more tokens, so `fits` is False, False, ..., True, True for growing
    # numbers, and a binary search finds the first True. If one exchange alone is too long, it is dropped too.
    candidates = range(fewest + 1, len(chat.past))
    dropped = fewest + 1 + bisect_left(candidates, True, key=fits)
    return write_prompt(chat, render, dropped)
