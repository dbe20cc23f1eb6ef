"""The shapes of OpenAI's two endpoints: the choices of /v1/chat/completions and of the older /v1/completions.

A choice is one answer in a reply, or a piece of one in a stream's event.
"""

import codecs
from abc import ABC, abstractmethod
from collections import defaultdict
from collections.abc import Sequence
from typing import Any

from pydantic import BaseModel

from helpers.generation.request import Generation, Piece, Token
from helpers.server.openai_replies import ChatCompletion, Completion

BYTES_PREFIX = "bytes:"  # of tokens in a completion that are not whole characters; a chat's have none


class Dialect(ABC):
    """The shapes of one endpoint. `index` numbers the choices, of which each prompt has the same number."""

    prompt_field: str  # of the body, which has the prompt
    id_prefix: str  # of a reply's id
    reply: type[BaseModel]  # the whole reply
    whole_object: str  # value of "object" in a whole reply
    event_object: str  # value of "object" in a stream's events

    def __init__(self, with_logprobs: bool, choices_per_prompt: int):
        self.with_logprobs = with_logprobs
        self.choices_per_prompt = choices_per_prompt

    @abstractmethod
    def describe_choice(self, index: int, generation: Generation) -> dict[str, Any]:
        """The choice of a whole reply."""

    @abstractmethod
    def describe_start(self, index: int) -> dict[str, Any] | None:
        """The choice of a streamed answer's first event; None if it starts with its text."""

    @abstractmethod
    def describe_piece(self, index: int, piece: Piece) -> dict[str, Any]:
        """The choice of an event with a piece."""

    @abstractmethod
    def describe_end(self, index: int, reason: str) -> dict[str, Any]:
        """The choice of the event that ends an answer."""


class ChatDialect(Dialect):
    """The shapes of /v1/chat/completions."""

    prompt_field = "messages"
    id_prefix = "chatcmpl-"
    reply = ChatCompletion
    whole_object = "chat.completion"
    event_object = "chat.completion.chunk"

    def describe_choice(self, index: int, generation: Generation) -> dict[str, Any]:
        """The message, the log-probabilities of its tokens, and why it ended."""
        return {
            "index": index,
            "message": {"role": "assistant", "content": generation.text, "refusal": None},
            "logprobs": self._describe_tokens(generation.tokens),
            "finish_reason": generation.finish_reason,
        }

    def describe_start(self, index: int) -> dict[str, Any]:
        """The role of the message that follows."""
        delta = {"role": "assistant", "content": "", "refusal": None}
        return {"index": index, "delta": delta, "logprobs": None, "finish_reason": None}

    def describe_piece(self, index: int, piece: Piece) -> dict[str, Any]:
        """The piece's text and the log-probabilities of its tokens."""
        return {
            "index": index,
            "delta": {"content": piece.text},
            "logprobs": self._describe_tokens(piece.tokens),
            "finish_reason": None,
        }

    def describe_end(self, index: int, reason: str) -> dict[str, Any]:
        """Why the answer ended."""
        return {"index": index, "delta": {}, "logprobs": None, "finish_reason": reason}

    def _describe_tokens(self, tokens: Sequence[Token]) -> dict[str, Any] | None:
        """One entry a token; None unless log-probabilities were asked for."""
        if not self.with_logprobs:
            return None
        content = []
        for token in tokens:
            entry = describe_token(token.data, token.logprob)
            entry["top_logprobs"] = [describe_token(data, logprob) for data, logprob in token.top]
            content.append(entry)
        return {"content": content, "refusal": None}


class TextDialect(Dialect):
    """The shapes of /v1/completions. `echoed` are the prompts, if they are returned before the answers."""

    prompt_field = "prompt"
    id_prefix = "cmpl-"
    reply = Completion
    whole_object = "text_completion"
    event_object = "text_completion"

    def __init__(self, with_logprobs: bool, choices_per_prompt: int, echoed: list[str] | None = None):
        super().__init__(with_logprobs, choices_per_prompt)
        self.echoed = echoed
        self._offsets: dict[int, TextLength] = defaultdict(TextLength)  # by the choice's number

    def describe_choice(self, index: int, generation: Generation) -> dict[str, Any]:
        """The text, after its prompt if that is returned too, and why it ended."""
        choice = self._describe(index, self._find_prompt(index) + generation.text, generation.tokens)
        choice["finish_reason"] = generation.finish_reason
        return choice

    def describe_start(self, index: int) -> dict[str, Any] | None:
        """The prompt, if it is returned too."""
        return self._describe(index, self._find_prompt(index)) if self.echoed else None

    def describe_piece(self, index: int, piece: Piece) -> dict[str, Any]:
        """The piece's text and the log-probabilities of its tokens."""
        return self._describe(index, piece.text, piece.tokens)

    def describe_end(self, index: int, reason: str) -> dict[str, Any]:
        """Why the answer ended."""
        choice = self._describe(index, "")
        choice["finish_reason"] = reason
        return choice

    def _find_prompt(self, index: int) -> str:
        return self.echoed[index // self.choices_per_prompt] if self.echoed else ""

    def _describe(self, index: int, text: str, tokens: Sequence[Token] = ()) -> dict[str, Any]:
        logprobs = self._describe_tokens(index, tokens) if self.with_logprobs and tokens else None
        return {"index": index, "text": text, "logprobs": logprobs, "finish_reason": None}

    def _describe_tokens(self, index: int, tokens: Sequence[Token]) -> dict[str, Any]:
        """Four parallel lists, one entry a token. top_logprobs always includes the token itself."""
        names = []
        rivals = []
        offsets = []
        for token in tokens:
            name = name_token(token.data, BYTES_PREFIX)
            top = {name_token(data, BYTES_PREFIX): logprob for data, logprob in token.top}
            top[name] = token.logprob
            names.append(name)
            rivals.append(top)
            offsets.append(self._offsets[index].add(token.data))
        return {
            "tokens": names,
            "token_logprobs": [token.logprob for token in tokens],
            "top_logprobs": rivals,
            "text_offset": offsets,
        }


class TextLength:
    """The length of a growing text, in whole characters, of which the bytes of its tokens are added.

    Example: for the tokens b"a", b"\\xe2\\x82", b"\\xac" (the euro sign in two tokens), `add` returns 0, 1,
    1.
    """

    def __init__(self):
        self.characters = 0
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")

    def add(self, data: bytes) -> int:
        """Adds the bytes; returns the length before them."""
        before = self.characters
        self.characters += len(self._decoder.decode(data))
        return before


def describe_token(data: bytes, logprob: float) -> dict[str, Any]:
    """A token of a chat completion."""
    return {"token": name_token(data), "logprob": logprob, "bytes": list(data)}


def name_token(data: bytes, prefix: str = "") -> str:
    """A token as text; if it has half a character, as `prefix` and its escaped bytes, such as \\xe2\\x82."""
    try:
        return data.decode("utf-8")
    except UnicodeDecodeError:
        return prefix + "".join(f"\\x{byte:02x}" for byte in data)
