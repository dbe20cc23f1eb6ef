"""OpenAI's two ways of completing, told apart: the choices of /v1/chat/completions and those of the older /v1/completions."""

import codecs
from collections import defaultdict
from collections.abc import Sequence
from typing import Protocol

from pydantic import BaseModel

from helpers.generation.request import Generation, Piece, Token
from helpers.server.openai_replies import ChatCompletion, Completion


class Dialect(Protocol):
    """The shapes of one endpoint. A choice has the number `index`; `choices_per_prompt` of them answer one prompt."""

    prefix: str  # of a reply's id
    reply: type[BaseModel]
    whole_object: str
    event_object: str
    choices_per_prompt: int

    def describe_choice(self, index: int, generation: Generation) -> dict:
        """A choice of a whole reply."""

    def describe_start(self, index: int) -> dict | None:
        """The choice of a streamed answer's first event, if it has one before its text."""

    def describe_piece(self, index: int, piece: Piece) -> dict:
        """The choice of an event with a piece."""

    def describe_end(self, index: int, reason: str) -> dict:
        """The choice of the event that ends an answer."""


class ChatDialect:
    """The shapes of /v1/chat/completions."""

    prefix, reply, whole_object, event_object = (
        "chatcmpl-",
        ChatCompletion,
        "chat.completion",
        "chat.completion.chunk",
    )

    def __init__(self, with_logprobs: bool, choices_per_prompt: int):
        self.with_logprobs, self.choices_per_prompt = with_logprobs, choices_per_prompt

    def describe_choice(self, index: int, generation: Generation) -> dict:
        """The message with its tokens."""
        message = {"role": "assistant", "content": generation.text, "refusal": None}
        return {
            "index": index,
            "message": message,
            "logprobs": self._describe(generation.tokens),
            "finish_reason": generation.finish_reason,
        }

    def describe_start(self, index: int) -> dict:
        """The role."""
        return {
            "index": index,
            "delta": {"role": "assistant", "content": "", "refusal": None},
            "logprobs": None,
            "finish_reason": None,
        }

    def describe_piece(self, index: int, piece: Piece) -> dict:
        """The text with its tokens."""
        return {
            "index": index,
            "delta": {"content": piece.text},
            "logprobs": self._describe(piece.tokens),
            "finish_reason": None,
        }

    def describe_end(self, index: int, reason: str) -> dict:
        """The reason."""
        return {"index": index, "delta": {}, "logprobs": None, "finish_reason": reason}

    def _describe(self, tokens: Sequence[Token]) -> dict | None:
        """The log-probabilities, when they were asked for."""
        content = [
            {
                **describe_token(one.data, one.logprob),
                "top_logprobs": [describe_token(*rival) for rival in one.top],
            }
            for one in tokens
        ]
        return {"content": content, "refusal": None} if self.with_logprobs else None


class TextDialect:
    """The shapes of /v1/completions; `echoed` has the prompts when they are returned too."""

    prefix, reply, whole_object, event_object = "cmpl-", Completion, "text_completion", "text_completion"

    def __init__(self, with_logprobs: bool, choices_per_prompt: int, echoed: list[str] | None = None):
        self.with_logprobs, self.choices_per_prompt, self.echoed = with_logprobs, choices_per_prompt, echoed
        self._ends: dict[int, TextEnd] = defaultdict(TextEnd)

    def describe_choice(self, index: int, generation: Generation) -> dict:
        """The text, after its prompt when that is returned too."""
        return self._describe(
            index, self._find_prompt(index) + generation.text, generation.tokens, generation.finish_reason
        )

    def describe_start(self, index: int) -> dict | None:
        """The prompt, when it is returned too."""
        return self._describe(index, self._find_prompt(index)) if self.echoed else None

    def describe_piece(self, index: int, piece: Piece) -> dict:
        """The text with its tokens."""
        return self._describe(index, piece.text, piece.tokens)

    def describe_end(self, index: int, reason: str) -> dict:
        """The reason."""
        return self._describe(index, "", reason=reason)

    def _find_prompt(self, index: int) -> str:
        return self.echoed[index // self.choices_per_prompt] if self.echoed else ""

    def _describe(
        self, index: int, text: str, tokens: Sequence[Token] = (), reason: str | None = None
    ) -> dict:
        logprobs = self._describe_tokens(index, tokens) if self.with_logprobs and tokens else None
        return {"index": index, "text": text, "logprobs": logprobs, "finish_reason": reason}

    def _describe_tokens(self, index: int, tokens: Sequence[Token]) -> dict:
        """Parallel lists; a token stands among its rivals also when it is none of the likeliest."""
        names = [name_token(token.data, "bytes:") for token in tokens]
        rivals = [{name_token(data, "bytes:"): logprob for data, logprob in token.top} for token in tokens]
        return {
            "tokens": names,
            "token_logprobs": [token.logprob for token in tokens],
            "top_logprobs": [
                {**top, name: token.logprob} for top, name, token in zip(rivals, names, tokens, strict=True)
            ],
            "text_offset": [self._ends[index].move(token.data) for token in tokens],
        }


class TextEnd:
    """The length of a text, in whole characters, that is told the bytes of its tokens."""

    def __init__(self):
        self.length, self._decoder = 0, codecs.getincrementaldecoder("utf-8")("replace")

    def move(self, data: bytes) -> int:
        """The length before these bytes, which are added."""
        before = self.length
        self.length += len(self._decoder.decode(data))
        return before


def describe_token(data: bytes, logprob: float) -> dict:
    """A token of a chat completion."""
    return {"token": name_token(data), "logprob": logprob, "bytes": list(data)}


def name_token(data: bytes, before: str = "") -> str:
    """A token as text; one that holds half a character as `before` and its bytes' escapes, such as \\xe2\\x82."""
    try:
        return data.decode("utf-8")
    except UnicodeDecodeError:
        return before + "".join(f"\\x{byte:02x}" for byte in data)
