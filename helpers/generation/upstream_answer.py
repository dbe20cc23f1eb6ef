"""Reads the events of the upstream's answer, and passes it on up to the first stop string. No torch."""

import math
from collections.abc import Callable, Iterator, Mapping
from typing import Any, TypedDict

from helpers.common.bounded import LARGEST_REPLY
from helpers.common.forms import find_misfit
from helpers.common.http import build_refusal
from helpers.common.values import repair_text
from helpers.generation.prompts import CHARACTERS_PER_TOKEN
from helpers.generation.request import BYTES_PREFIX, LEAST_LOGPROB, GenerationRequest, Piece, Token
from helpers.generation.stopping import StopGate
from helpers.generation.upstream_errors import UPSTREAM_REMEDIES, UpstreamFailed, sort_out
from helpers.loading.tools import OWN


class Function(TypedDict, total=False):
    """What is new in a call: the name once, then the arguments in parts."""

    name: str | None
    arguments: str | None


class Call(TypedDict, total=False):
    """What is new in a call of a tool."""

    index: int
    function: Function


class Delta(TypedDict, total=False):
    """What is new in a chat's message."""

    content: str | None
    tool_calls: list[Call] | None


class Choice(TypedDict, total=False):
    """The answer's part of an event; completions have `text`, chats `delta`."""

    text: str | None
    delta: Delta | None
    logprobs: dict | None
    finish_reason: str | None


class Usage(TypedDict, total=False):
    """How many tokens there were."""

    prompt_tokens: int
    completion_tokens: int


class Event(TypedDict, total=False):
    """An event of a stream; one with the usage alone has no choices."""

    choices: list[Choice] | None
    usage: Usage | None


class UpstreamAnswer:
    """Takes the events of one answer and passes it on to `emit` in pieces."""

    def __init__(self, request: GenerationRequest, emit: Callable[[Piece], None]):
        self.top_logprobs = request.top_logprobs
        self.gate = StopGate(request.stop, emit)
        self.longest = min(CHARACTERS_PER_TOKEN * (1 + request.max_new_tokens), LARGEST_REPLY)
        self.reason: str | None = None  # why the answer ended, "stop" or "length"; None before its end
        self.usage: Usage = {}
        self.calls = -1  # the number of the call that is being written
        self.count = 0  # tokens, or pieces if the upstream does not list tokens

    @property
    def progress(self) -> int:
        """Grows with each event that is not empty."""
        return self.count + bool(self.reason)

    def take(self, event: Any) -> bool:
        """Reads an event. Returns whether more may follow. Raises what upstream_errors has."""
        refuse_failure(event)
        self.usage = event.get("usage") or self.usage
        for choice in (event.get("choices") or ())[:1]:
            self._take_choice(choice)
        if self.gate.stopped:
            self.reason = "stop"
        elif self.gate.received > self.longest:  # more than so many tokens can have
            self.reason = "length"
        else:
            return True
        return False

    def _take_choice(self, choice: Choice) -> None:
        delta = choice.get("delta") or {}
        text = choice.get("text") or delta.get("content") or ""
        text = repair_text(text + "".join(map(self._write_call, delta.get("tool_calls") or [])))
        tokens: tuple[Token, ...] = ()
        if self.top_logprobs is not None and (listed := choice.get("logprobs")):
            tokens = tuple(read_tokens(listed, self.top_logprobs))
        if text or tokens:
            self.count += len(tokens) or 1
            self.gate.push(text, tokens)
        if (reason := choice.get("finish_reason")) and self.calls >= 0 and not self.reason:
            self.gate.push(OWN.end, ())
        if reason:
            self.reason = "length" if reason == "length" else "stop"

    def _write_call(self, call: Call) -> str:
        """What is new in a call, in the kit's own form, in which the server reads it again."""
        function, number, written = call.get("function") or {}, call.get("index", self.calls), ""
        if number != self.calls:
            before = OWN.begin if self.calls < 0 else str(OWN.between)
            written = before + (function.get("name") or "") + OWN.middle
            self.calls = number
        return written + (function.get("arguments") or "")

    def finish(self) -> None:
        """Passes on the text that was held back."""
        self.gate.finish()


def refuse_failure(event: Any) -> None:
    """Raises the error that an event reports, and an UpstreamFailed for one of another form."""
    error = event.get("error") if isinstance(event, dict) else None
    if error or (isinstance(event, dict) and event.get("object") == "error"):  # the latter is vLLM's
        code = error.get("code") if isinstance(error, dict) else event.get("code")
        status = code if isinstance(code, int) else 500
        said = error.get("message") if isinstance(error, dict) else error or event.get("message")
        raise sort_out(build_refusal(status, "", str(said), UPSTREAM_REMEDIES))
    if misfit := find_misfit(event, Event):
        problem = f"The upstream: An event of its answer is not what was asked for: {misfit}."
        raise UpstreamFailed(problem, UPSTREAM_REMEDIES["not JSON"])


def read_tokens(logprobs: Any, top: int) -> Iterator[Token]:
    """The tokens that an event lists, as chats or as completions do, each with its `top` likeliest rivals."""
    try:
        listed = list(logprobs["content"] if "content" in logprobs else pair_lists(logprobs))
        for entry in listed:
            rivals = [(read_bytes(rival), read_number(rival["logprob"])) for rival in entry["top_logprobs"]]
            rivals.sort(key=lambda rival: -rival[1])
            yield Token(read_bytes(entry), read_number(entry["logprob"]), tuple(rivals[:top]))
    except (LookupError, TypeError, ValueError, AttributeError, OverflowError):
        problem = "The upstream: The log-probabilities of its answer have another form than OpenAI's."
        raise UpstreamFailed(problem, "Ask without them.") from None


def pair_lists(logprobs: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    """The parallel lists of a completion as entries like those of a chat."""
    tokens, values = logprobs["tokens"], logprobs["token_logprobs"]
    rivals = logprobs.get("top_logprobs") or [{}] * len(tokens)
    for token, value, others in zip(tokens, values, rivals, strict=True):
        listed = [{"token": name, "logprob": each} for name, each in (others or {}).items()]
        yield {"token": token, "logprob": value, "top_logprobs": listed}


def read_number(value: object) -> float:
    """A log-probability, of which JSON has no infinite ones. Raises a ValueError for what is not a number."""
    if not isinstance(value, int | float) or math.isnan(value) or value > 0:
        raise ValueError("it is not a log-probability")
    return max(float(value), LEAST_LOGPROB)


def read_bytes(entry: Mapping[str, Any]) -> bytes:
    """A token's bytes: as they are listed, or else from its text."""
    if entry.get("bytes") is not None:
        return bytes(list(entry["bytes"]))  # of a number, `bytes` would make as many zeros
    text = entry["token"]
    if text.startswith(BYTES_PREFIX):
        return bytes.fromhex(text.removeprefix(BYTES_PREFIX).replace("\\x", ""))
    return text.encode()
