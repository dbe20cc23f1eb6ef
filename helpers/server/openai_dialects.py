"""The shapes of OpenAI's two endpoints: the choices of /v1/chat/completions and of the older /v1/completions.

A choice is one answer in a reply, or a piece of one in a stream's event.
"""

import codecs
import uuid
from abc import ABC, abstractmethod
from collections import defaultdict
from collections.abc import Callable, Sequence
from typing import Any

from pydantic import BaseModel

from helpers.generation.request import BYTES_PREFIX, EchoedPrompt, Generation, Piece, PromptToken, Token
from helpers.generation.tool_calls import CallPart, CallReader, Part, read_answer
from helpers.server.openai_replies import ChatCompletion, Completion, PromptLogprobs


class Dialect(ABC):
    """The shapes of one endpoint. `index` numbers the choices, of which each prompt has the same number."""

    prompt_field: str  # of the body, which has the prompt
    id_prefix: str  # of a reply's id
    reply: type[BaseModel]  # the whole reply
    whole_object: str  # value of "object" in a whole reply
    event_object: str  # value of "object" in a stream's events

    def __init__(self, choices_per_prompt: int, prompt_logprobs: int | None):
        self.choices_per_prompt = choices_per_prompt
        self.prompt_logprobs = prompt_logprobs  # how many tokens to list for each of the prompt; None: none

    def describe_prompts(self, generations: Sequence[Generation]) -> dict[str, Any]:
        """What a whole reply says of its prompts beside the choices: nothing."""
        return {}

    @abstractmethod
    def describe_choice(self, index: int, generation: Generation) -> dict[str, Any]:
        """The choice of a whole reply."""

    @abstractmethod
    def describe_start(self, index: int) -> list[dict[str, Any]]:
        """The choices of a streamed answer's first events; none if it starts with its text."""

    @abstractmethod
    def describe_piece(self, index: int, piece: Piece) -> list[dict[str, Any]]:
        """The choices of the events that a piece becomes."""

    @abstractmethod
    def describe_end(self, index: int, reason: str) -> list[dict[str, Any]]:
        """The choices of the events that end an answer."""


class ChatDialect(Dialect):
    """The shapes of /v1/chat/completions.

    `read_calls` makes a reader of an answer that may call tools; without it, answers are texts.
    """

    prompt_field = "messages"
    id_prefix = "chatcmpl-"
    reply = ChatCompletion
    whole_object = "chat.completion"
    event_object = "chat.completion.chunk"

    def __init__(
        self,
        choices_per_prompt: int,
        with_logprobs: bool,
        prompt_logprobs: int | None,
        read_calls: Callable[[], CallReader] | None = None,
    ):
        super().__init__(choices_per_prompt, prompt_logprobs)
        self.with_logprobs = with_logprobs
        self.read_calls = read_calls
        self._readers: dict[int, CallReader] = {}  # of streamed answers, by the choice's number

    def describe_prompts(self, generations: Sequence[Generation]) -> dict[str, Any]:
        """The log-probabilities of the prompt, which all choices share, if they were asked for."""
        if self.prompt_logprobs is None:
            return {}
        return {"prompt_logprobs": describe_prompt(generations[0].prompt, self.prompt_logprobs)}

    def describe_choice(self, index: int, generation: Generation) -> dict[str, Any]:
        """The message, the log-probabilities of its tokens, and why it ended."""
        message: dict[str, Any] = {"role": "assistant", "content": generation.text, "refusal": None}
        reason = generation.finish_reason
        if self.read_calls:
            answer = read_answer(self.read_calls(), generation.text)
            message["content"] = answer.text or (None if answer.calls else "")
            if answer.calls:
                message["tool_calls"] = [describe_call(call) for call in answer.calls]
                reason = name_reason(reason)
        return {
            "index": index,
            "message": message,
            "logprobs": self._describe_tokens(generation.tokens),
            "finish_reason": reason,
        }

    def describe_start(self, index: int) -> list[dict[str, Any]]:
        """The role of the message that follows."""
        if self.read_calls:
            self._readers[index] = self.read_calls()
        delta = {"role": "assistant", "content": "", "refusal": None}
        return [self._describe(index, delta)]

    def describe_piece(self, index: int, piece: Piece) -> list[dict[str, Any]]:
        """The piece's text, or what it adds to calls, and the log-probabilities of its tokens."""
        reader = self._readers.get(index)
        deltas = describe_part(reader.feed(piece.text)) if reader else [{"content": piece.text}]
        # Of a text that may be the begin of a call, nothing is sent until that is known.
        if piece.tokens and not deltas:
            deltas = [{}]
        return [
            self._describe(index, delta, () if number else piece.tokens)
            for number, delta in enumerate(deltas)
        ]

    def describe_end(self, index: int, reason: str) -> list[dict[str, Any]]:
        """Text that was held back, and why the answer ended."""
        reader = self._readers.get(index)
        rest = describe_part(reader.finish()) if reader else []
        if reader and reader.count:
            reason = name_reason(reason)
        end = {**self._describe(index, {}), "logprobs": None, "finish_reason": reason}
        return [*(self._describe(index, delta) for delta in rest), end]

    def _describe(self, index: int, delta: dict[str, Any], tokens: Sequence[Token] = ()) -> dict[str, Any]:
        logprobs = self._describe_tokens(tokens) if tokens else None
        return {"index": index, "delta": delta, "logprobs": logprobs, "finish_reason": None}

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
    """The shapes of /v1/completions. With `echo`, the texts and their tokens begin with the prompt."""

    prompt_field = "prompt"
    id_prefix = "cmpl-"
    reply = Completion
    whole_object = "text_completion"
    event_object = "text_completion"

    def __init__(
        self, choices_per_prompt: int, logprobs: int | None, prompt_logprobs: int | None, echo: bool
    ):
        super().__init__(choices_per_prompt, prompt_logprobs)
        self.logprobs = logprobs  # how many likeliest tokens to list beside each one; None lists nothing
        self.echo = echo
        self._offsets: dict[int, TextLength] = defaultdict(TextLength)  # by the choice's number

    def describe_choice(self, index: int, generation: Generation) -> dict[str, Any]:
        """The text, after its prompt if that is returned too, and why it ended."""
        choice = self._describe(index, generation)
        choice["finish_reason"] = generation.finish_reason
        if self.prompt_logprobs is not None:
            choice["prompt_logprobs"] = describe_prompt(generation.prompt, self.prompt_logprobs)
        return choice

    def describe_start(self, index: int) -> list[dict[str, Any]]:
        """Nothing: an answer starts with its text, or with its prompt."""
        return []

    def describe_piece(self, index: int, piece: Piece) -> list[dict[str, Any]]:
        """The piece's text and the log-probabilities of its tokens."""
        return [self._describe(index, piece)]

    def describe_end(self, index: int, reason: str) -> list[dict[str, Any]]:
        """Why the answer ended."""
        return [{**self._describe(index, Piece("")), "finish_reason": reason}]

    def _describe(self, index: int, part: Piece | Generation) -> dict[str, Any]:
        text, tokens = part.text, list[Token | PromptToken](part.tokens)
        if self.echo and part.prompt:
            text, tokens = part.prompt.text + text, [*part.prompt.tokens, *tokens]
            self._offsets[index] = TextLength(measure_hidden(part.prompt))
        logprobs = None if self.logprobs is None or not tokens else self._describe_tokens(index, tokens)
        return {"index": index, "text": text, "logprobs": logprobs, "finish_reason": None}

    def _describe_tokens(self, index: int, tokens: Sequence[Token | PromptToken]) -> dict[str, Any]:
        """Four parallel lists, one entry a token; the first token of a prompt has no log-probabilities."""
        length = self._offsets[index]
        return {
            "tokens": [name_token(token.data, BYTES_PREFIX) for token in tokens],
            "token_logprobs": [token.logprob for token in tokens],
            "top_logprobs": [self._describe_rivals(token) for token in tokens],
            "text_offset": [length.add(token.data) for token in tokens],
        }

    def _describe_rivals(self, token: Token | PromptToken) -> dict[str, float] | None:
        """The likeliest tokens and the token itself. Of those with the same name, the likeliest counts."""
        if token.logprob is None:
            return None
        rivals: dict[str, float] = {}
        for data, logprob in (*token.top[: self.logprobs], (token.data, token.logprob)):
            rivals.setdefault(name_token(data, BYTES_PREFIX), logprob)
        return rivals


class TextLength:
    """The length of a growing text, in whole characters, of which the bytes of its tokens are added.

    Example: for the tokens b"a", b"\\xe2\\x82", b"\\xac" (the euro sign in two tokens), `add` returns 0, 1,
    1. The first `hidden` characters of the tokens are not in the text.
    """

    def __init__(self, hidden: int = 0):
        self.characters = -hidden
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")

    def add(self, data: bytes) -> int:
        """Adds the bytes; returns the length before them."""
        before = max(0, self.characters)
        self.characters += len(self._decoder.decode(data))
        return before


def describe_call(call: CallPart) -> dict[str, Any]:
    """A whole call, with an id of its own."""
    function = {"name": call.name, "arguments": call.arguments}
    return {"id": name_call(), "type": "function", "function": function}


def name_call() -> str:
    """An id for a call, to which its result refers."""
    return f"call_{uuid.uuid4().hex[:24]}"


def describe_part(part: Part) -> list[dict[str, Any]]:
    """What a piece of a streamed answer adds to the message: its text, then each part of a call by itself.

    Clients read the first call of an event only, since OpenAI never sends two. The id of a call comes with
    its name.
    """
    deltas: list[dict[str, Any]] = [{"content": part.text}] if part.text else []
    for call in part.calls:
        told = describe_call(call) if call.name else {"function": {"arguments": call.arguments}}
        deltas.append({"tool_calls": [{"index": call.index, **told}]})
    return deltas


def name_reason(reason: str) -> str:
    """Why an answer with calls ended."""
    return "tool_calls" if reason == "stop" else reason


def measure_hidden(prompt: EchoedPrompt) -> int:
    """How many characters a prompt's tokens have before its text: BOS, or SentencePiece's first space."""
    listed = b"".join(token.data for token in prompt.tokens)
    return len(listed.decode(errors="replace")) - len(prompt.text)


def describe_prompt(prompt: EchoedPrompt | None, top: int) -> PromptLogprobs:
    """A prompt's tokens as vLLM lists them: for each {id: what is known of it}, of the token and its rivals.

    The first token has None.
    """
    assert prompt
    described: PromptLogprobs = []
    for token in prompt.tokens:
        entries = {str(token.number): describe_ranked(token.data, token.logprob, token.rank)}
        rivals = zip(token.top_numbers[:top], token.top, strict=False)
        for rank, (number, (data, logprob)) in enumerate(rivals, start=1):
            entries.setdefault(str(number), describe_ranked(data, logprob, rank))
        described.append(None if token.logprob is None else entries)
    return described


def describe_ranked(data: bytes, logprob: float | None, rank: int | None) -> dict[str, Any]:
    """A token of a prompt in vLLM's form."""
    return {"logprob": logprob, "rank": rank, "decoded_token": data.decode(errors="replace")}


def describe_token(data: bytes, logprob: float) -> dict[str, Any]:
    """A token of a chat completion."""
    return {"token": name_token(data), "logprob": logprob, "bytes": list(data)}


def name_token(data: bytes, prefix: str = "") -> str:
    """A token as text; if it has half a character, as `prefix` and its escaped bytes, such as \\xe2\\x82."""
    try:
        return data.decode("utf-8")
    except UnicodeDecodeError:
        return prefix + "".join(f"\\x{byte:02x}" for byte in data)
