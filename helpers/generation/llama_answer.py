"""Reads the events that llama.cpp sends while it computes an answer, and passes the answer on in pieces.

An event normally has one token with its text and its log-probability. It is different if a character consists
of several tokens. SmolLM2 writes 🙂 (the bytes f0 9f 99 82) as two:

    token 10813    f0 9f
    token 38887    99 82

llama.cpp sends nothing for the first of them, and this for the second:

    timings.predicted_n    2: two tokens were computed, and none before
    text                   🙂
    logprobs               38887 and its log-probability, but with the bytes of the whole text, f0 9f 99 82
      top_logprobs         the likeliest tokens in its place, each with its own bytes: 38887 has 99 82

`Answer` finds the missing token in two steps. Token 38887 has the bytes 99 82 according to `top_logprobs` (if
it is not listed there, llama.cpp is asked for it), so f0 9f belongs to the token before it. Of all tokens
that may follow the prompt, the likeliest with these bytes is taken: 10813, with its log-probability.
"""

from collections.abc import Callable
from functools import partial
from typing import Any, Protocol

from helpers.generation.forms import TextForm
from helpers.generation.llama_server import ListedToken
from helpers.generation.request import GenerationRequest, Piece, Token
from helpers.generation.stopping import StopGate


class FindLikeliest(Protocol):
    """LlamaServer.find_likeliest, for the adapter of the answer."""

    def __call__(self, before: list[int], matches: Callable[[ListedToken], bool]) -> list[ListedToken]: ...


class Answer:
    """Takes the events of one answer and passes it on to `emit` in pieces."""

    def __init__(
        self,
        request: GenerationRequest,
        prompt: list[int],
        emit: Callable[[Piece], None],
        must_end: Callable[[], bool],
        find_likeliest: FindLikeliest,
        form: TextForm | None = None,
    ):
        self.top_logprobs = request.top_logprobs
        self.must_end = must_end
        self.find_likeliest = find_likeliest
        self.form = form  # that the text must have
        self.gate = StopGate(request.stop, emit)
        self.ids = list(prompt)  # and the tokens of the answer, if log-probabilities were asked for
        self.count = 0  # tokens of the answer
        self.reason = "length"

    def take(self, event: dict[str, Any]) -> bool:
        """Reads an event of LlamaServer.complete. Returns whether the answer goes on."""
        choice = event["choices"][0]
        new_tokens = event["timings"]["predicted_n"] - self.count
        self.count += new_tokens
        if choice["finish_reason"]:
            self.reason = choice["finish_reason"]
            return False
        tokens: tuple[Token, ...] = ()
        if choice["logprobs"]:
            tokens = self._read_tokens(choice["logprobs"]["content"][0], new_tokens)
        self.gate.push("", tokens[:-1])  # parts of a character, before it is whole
        text = self.form.settle(choice["text"], self.count) if self.form else choice["text"]
        self.gate.push(text, tokens[-1:])
        if self.form and self.form.ended:
            self.reason = "stop"
            return False
        return not (self.gate.stopped or self.must_end())

    def finish(self) -> str:
        """Passes on the text that was held back. Returns why the answer ended, "stop" or "length"."""
        self.gate.finish()
        return "stop" if self.gate.stopped else self.reason

    def _read_tokens(self, last: ListedToken, count: int) -> tuple[Token, ...]:
        """The `count` tokens of an event, of which llama.cpp lists the last one only."""
        listed = [last]
        if count > 1:
            text = bytes(last["bytes"])
            own = self._find_own_bytes(last)
            omitted = self._find_omitted(text[: len(text) - len(own)], count - 1)
            listed = [*omitted, {**last, "bytes": list(own)}]
        self.ids.append(last["id"])
        tokens = [self._make_token(entry) for entry in listed]
        return tuple(token for token in tokens if token.data)  # without the special token that ends an answer

    def _find_own_bytes(self, last: ListedToken) -> bytes:
        """The bytes of the token itself, not of the text that it completes."""
        same = [entry for entry in last.get("top_logprobs", []) if entry["id"] == last["id"]]
        if not same:
            same = self.find_likeliest(self.ids, lambda entry: entry["id"] == last["id"])
        return bytes(same[0]["bytes"])

    def _find_omitted(self, data: bytes, count: int) -> list[ListedToken]:
        """The `count` tokens that `data` consists of: each time the likeliest that fits."""
        omitted = []
        for following in reversed(range(count)):
            if not data:
                break  # a special token was among them: it has no bytes
            found = self.find_likeliest(self.ids, partial(can_begin, data, following))
            if not found:
                break
            omitted.append(found[0])
            self.ids.append(found[0]["id"])
            data = data[len(found[0]["bytes"]) :]
        return omitted

    def _make_token(self, entry: ListedToken) -> Token:
        rivals = entry.get("top_logprobs", [])[: self.top_logprobs]
        top = tuple((bytes(rival["bytes"]), rival["logprob"]) for rival in rivals)
        return Token(bytes(entry["bytes"]), entry["logprob"], top)


def can_begin(data: bytes, following: int, entry: ListedToken) -> bool:
    """Whether a token may be the first of those that `data` consists of.

    `following` more tokens come after it, so it must leave a byte for each of them (unless `data` is too
    short, since special tokens have no bytes). If none comes after it, it must be all of `data`.
    """
    own = bytes(entry["bytes"])
    if following == 0:
        return own == data
    longest = max(1, len(data) - following)
    return data.startswith(own) and 0 < len(own) <= longest
