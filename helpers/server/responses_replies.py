"""Replies of /v1/responses, whole or as a stream of events."""

import time
import uuid
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass, field
from typing import Any, Literal

from pydantic import BaseModel

from helpers.generation.request import Generation, Piece
from helpers.generation.tool_calls import CallPart, CallReader, Part, read_answer
from helpers.server.answers import Answers
from helpers.server.errors import describe_error, log_unforeseen
from helpers.server.openai_dialects import name_call
from helpers.server.openai_stream import write_event
from helpers.server.responses_body import ResponsesBody

Status = Literal["completed", "incomplete"]


class ResponseReply(BaseModel):
    """The whole reply. `output` has a message, calls of functions, or both."""

    id: str
    object: Literal["response"]
    created_at: int
    status: Literal["completed", "incomplete", "in_progress", "failed"]
    error: dict[str, Any] | None
    incomplete_details: dict[str, Any] | None
    instructions: str | None
    max_output_tokens: int | None
    metadata: dict[str, Any] | None
    model: str
    output: list[dict[str, Any]]
    parallel_tool_calls: bool
    previous_response_id: None
    store: bool
    temperature: float | None
    text: dict[str, Any]
    tool_choice: str | dict[str, Any]
    tools: list[dict[str, Any]]
    top_p: float | None
    truncation: Literal["disabled"]
    usage: dict[str, Any] | None


@dataclass
class Responder:
    """Writes the reply to a body, which `model` answers. `reader` is there if the answer may call tools."""

    body: ResponsesBody
    model: str
    reader: CallReader | None
    id: str = field(default_factory=lambda: make_id("resp"))
    created: int = field(default_factory=lambda: int(time.time()))  # Unix time, seconds

    def describe(self, status: str, output: list[dict[str, Any]], **more: Any) -> dict[str, Any]:
        """The reply so far."""
        body = self.body
        choice = body.tool_choice
        return {
            "id": self.id,
            "object": "response",
            "created_at": self.created,
            "status": status,
            "error": None,
            "incomplete_details": {"reason": "max_output_tokens"} if status == "incomplete" else None,
            "instructions": body.instructions,
            "max_output_tokens": body.max_output_tokens,
            "metadata": (body.model_extra or {}).get("metadata") or {},
            "model": self.model,
            "output": output,
            "parallel_tool_calls": body.parallel_tool_calls is not False,
            "previous_response_id": None,
            "store": False,
            "temperature": body.temperature,
            "text": {"format": describe_format(body)},
            "tool_choice": choice if isinstance(choice, str) else choice.model_dump() if choice else "auto",
            "tools": [describe_tool(tool.model_dump()) for tool in body.tools or []],
            "top_p": body.top_p,
            "truncation": "disabled",
            "usage": None,
            **more,
        }

    def describe_whole(self, generation: Generation) -> dict[str, Any]:
        """The reply with the whole answer."""
        status = name_status(generation)
        answer = read_answer(self.reader, generation.text) if self.reader else Part(generation.text)
        output = [make_message(answer.text, status)] if answer.text or not answer.calls else []
        output += [make_call(call, status) for call in answer.calls]
        return self.describe(status, output, usage=count_usage(generation))

    async def write_events(self, answers: Answers) -> AsyncIterator[str]:
        """A stream's events. An error is an event too: the status 200 has been sent already."""
        events = ResponseEvents(self)
        try:
            for event in events.start():
                yield event
            async for _, news in answers:
                for event in events.add(news) if isinstance(news, Piece) else events.finish(news):
                    yield event
        except Exception as error:
            log_unforeseen(error)
            said = describe_error(error)
            yield events.write("error", code=said["code"], message=said["message"], param=said["param"])


class ResponseEvents:
    """The events of one streamed reply, numbered in their order."""

    def __init__(self, responder: Responder):
        self.responder = responder
        self.reader = responder.reader
        self.output: list[dict[str, Any]] = []  # the items so far, of which the last one may be open
        self.open = False
        self.number = -1

    def write(self, kind: str, **fields: Any) -> str:
        """An event."""
        self.number += 1
        data = {"type": kind, "sequence_number": self.number, **fields}
        return f"event: {kind}\n{write_event(data)}"

    def start(self) -> Iterator[str]:
        """The events before the first piece."""
        for kind in ("response.created", "response.in_progress"):
            yield self.write(kind, response=self.responder.describe("in_progress", []))

    def add(self, piece: Piece) -> Iterator[str]:
        """The events of a piece."""
        yield from self._add_part(self.reader.feed(piece.text) if self.reader else Part(piece.text))

    def finish(self, generation: Generation) -> Iterator[str]:
        """The events of the answer's end."""
        if self.reader:
            yield from self._add_part(self.reader.finish())
        if not self.output:
            yield from self._open_message()
        status = name_status(generation)
        yield from self._close(status)
        reply = self.responder.describe(status, self.output, usage=count_usage(generation))
        yield self.write(f"response.{status}", response=reply)

    def _add_part(self, part: Part) -> Iterator[str]:
        if part.text:
            if not self.output:
                yield from self._open_message()
            self.output[-1]["content"][0]["text"] += part.text
            yield self._write_text("response.output_text.delta", delta=part.text, logprobs=[])
        for call in part.calls:
            if call.name is not None:
                yield from self._close("completed")
                yield from self._open(make_call(call, "in_progress"))
            if call.arguments:
                self.output[-1]["arguments"] += call.arguments if call.name is None else ""
                kind = "response.function_call_arguments.delta"
                yield self._write_item(kind, delta=call.arguments)

    def _open_message(self) -> Iterator[str]:
        item = make_message("", "in_progress")
        yield from self._open({**item, "content": []})
        self.output[-1] = item
        yield self._write_text("response.content_part.added", part=dict(item["content"][0]))

    def _open(self, item: dict[str, Any]) -> Iterator[str]:
        self.output.append(item)
        self.open = True
        place = len(self.output) - 1
        yield self.write("response.output_item.added", output_index=place, item=dict(item))

    def _close(self, status: Status) -> Iterator[str]:
        """Ends the last item, if one is open."""
        if not self.open:
            return
        self.open, item = False, self.output[-1]
        item["status"] = status
        if item["type"] == "message":
            part = item["content"][0]
            yield self._write_text("response.output_text.done", text=part["text"], logprobs=[])
            yield self._write_text("response.content_part.done", part=part)
        else:
            kind = "response.function_call_arguments.done"
            yield self._write_item(kind, name=item["name"], arguments=item["arguments"])
        yield self.write("response.output_item.done", output_index=len(self.output) - 1, item=item)

    def _write_text(self, kind: str, **fields: Any) -> str:
        """An event about the text of the message."""
        return self._write_item(kind, content_index=0, **fields)

    def _write_item(self, kind: str, **fields: Any) -> str:
        """An event about the last item."""
        place = len(self.output) - 1
        return self.write(kind, item_id=self.output[-1]["id"], output_index=place, **fields)


def make_id(kind: str) -> str:
    """An id of a reply or an item."""
    return f"{kind}_{uuid.uuid4().hex}"


def make_message(text: str, status: str) -> dict[str, Any]:
    """A message as an item."""
    part = {"type": "output_text", "text": text, "annotations": [], "logprobs": []}
    return {
        "id": make_id("msg"), "type": "message", "role": "assistant", "status": status, "content": [part]
    }  # fmt: skip


def make_call(call: CallPart, status: str) -> dict[str, Any]:
    """A call as an item."""
    return {
        "id": make_id("fc"), "type": "function_call", "call_id": name_call(), "name": call.name,
        "arguments": call.arguments, "status": status,
    }  # fmt: skip


def describe_format(body: ResponsesBody) -> dict[str, Any]:
    """The form of the answer that was asked for."""
    asked = body.text.format if body.text else None
    return asked.model_dump(by_alias=True) if asked else {"type": "text"}


def describe_tool(tool: dict[str, Any]) -> dict[str, Any]:
    """A tool as it was sent, with OpenAI's defaults."""
    return {**tool, "parameters": tool["parameters"] or {}, "strict": bool(tool["strict"])}


def name_status(generation: Generation) -> Status:
    """Whether an answer has come to its end."""
    return "incomplete" if generation.finish_reason == "length" else "completed"


def count_usage(generation: Generation) -> dict[str, Any]:
    """The tokens of the prompt and the answer."""
    return {
        "input_tokens": generation.prompt_tokens,
        "input_tokens_details": {"cached_tokens": 0, "cache_write_tokens": 0},
        "output_tokens": generation.completion_tokens,
        "output_tokens_details": {"reasoning_tokens": 0},
        "total_tokens": generation.prompt_tokens + generation.completion_tokens,
    }
