"""The engine on llama.cpp: a GGUF file as it is, and LoRAs converted to GGUF while loading; what comes together is batched by llama.cpp."""

from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING

from helpers.generation.request import GenerationRequest, Piece, Token
from helpers.generation.stopping import StopGate

if TYPE_CHECKING:
    from helpers.generation.llama_engine import LlamaEngine


class Answer:
    """Takes the events of one answer and hands it on in pieces."""

    def __init__(
        self,
        engine: "LlamaEngine",
        request: GenerationRequest,
        prompt: list[int],
        emit: Callable[[Piece], None],
    ):
        self.engine, self.request, self.ids = engine, request, list(prompt)
        self.gate = StopGate(request.stop, emit)
        self.count, self.reason = 0, "length"

    def take(self, event: dict) -> bool:
        """Whether the answer is to go on."""
        choice, before = event["choices"][0], self.count
        self.count = event["timings"]["predicted_n"]
        if choice["finish_reason"]:
            self.reason = choice["finish_reason"]
            return False
        tokens = (
            self._read_tokens(choice["logprobs"]["content"][0], self.count - before)
            if choice["logprobs"]
            else ()
        )
        self.gate.push("", tokens[:-1])  # parts of a character
        self.gate.push(choice["text"], tokens[-1:])
        return not (self.gate.stopped or self.engine.must_end(self.request))

    def _read_tokens(self, last: dict, count: int) -> tuple[Token, ...]:
        """The `count` tokens that make up a piece.

        llama.cpp tells of the last one only, with the whole piece's bytes, when those before it were parts of the same character.
        """
        data, begun = bytes(last["bytes"]), []
        if count > 1:
            whole, same = data, [entry for entry in last["top_logprobs"] if entry["id"] == last["id"]]
            data = bytes((same or self._find_likeliest(lambda entry: entry["id"] == last["id"]))[0]["bytes"])
            begun = self._find_lost(whole[: len(whole) - len(data)], count - 1)
        self.ids.append(last["id"])
        told = [self._describe(entry) for entry in (*begun, {**last, "bytes": data})]
        return tuple(token for token in told if token.data)  # not the special one that ends an answer

    def _find_lost(self, data: bytes, count: int) -> list[dict]:
        """`count` tokens whose bytes together are `data`: of those that may come next, the likeliest each time."""
        lost = []
        for after in range(count - 1, -1, -1):
            fits = partial(begins, data, after)
            if not data or not (found := self._find_likeliest(fits)):
                break  # one of them was a special token, which has no bytes
            lost.append(found[0])
            self.ids.append(found[0]["id"])
            data = data[len(found[0]["bytes"]) :]
        return lost

    def _find_likeliest(self, matches: Callable[[dict], bool]) -> list[dict]:
        return self.engine.server.find_likeliest(
            self.ids, matches, self.engine.describe_cache(self.request.adapter)
        )

    def _describe(self, entry: dict) -> Token:
        top = entry.get("top_logprobs", [])[: self.request.top_logprobs]
        return Token(
            bytes(entry["bytes"]),
            entry["logprob"],
            tuple((bytes(rival["bytes"]), rival["logprob"]) for rival in top),
        )


def begins(data: bytes, after: int, entry: dict) -> bool:
    """Whether a token can be the first of those that make up `data`, with `after` more behind it, of a byte or more each."""
    size = len(entry["bytes"])
    return data.startswith(bytes(entry["bytes"])) and (
        0 < size <= max(1, len(data) - after) if after else size == len(data)
    )
