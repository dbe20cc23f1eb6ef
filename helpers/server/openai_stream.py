"""Answers of the OpenAI-style API as a stream of server-sent events."""

import json
import time
import uuid
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from typing import Any

from fastapi.responses import StreamingResponse
from starlette.types import Receive, Scope, Send

from helpers.generation.engine import Engine
from helpers.generation.request import Generation, GenerationRequest, Piece
from helpers.server.answers import Answers
from helpers.server.errors import describe_error, log_unforeseen
from helpers.server.openai_dialects import Dialect
from helpers.server.openai_replies import count_usage

# For /openapi.json, beside the whole reply: events whose data is a chunk of the reply as JSON, or [DONE].
EVENT = {"type": "object", "properties": {"data": {"type": "string"}}, "required": ["data"]}
STREAMED: dict[int | str, dict[str, Any]] = {
    200: {"content": {"text/event-stream": {"itemSchema": EVENT}}},
}


@dataclass(frozen=True)
class Call:
    """A client's request, ready for the engine."""

    engine: Engine
    requests: list[GenerationRequest]  # the engine's, one for each choice
    dialect: Dialect
    stream: bool
    include_usage: bool  # whether a stream ends with the usage
    number: str = field(default_factory=lambda: uuid.uuid4().hex)  # of the reply
    created: int = field(default_factory=lambda: int(time.time()))  # Unix time, seconds

    def describe(self) -> dict[str, Any]:
        """The fields that a reply and all events of a stream share."""
        name = self.requests[0].adapter or self.engine.name
        return {"id": self.dialect.id_prefix + self.number, "created": self.created, "model": name}


class EventStream(StreamingResponse):
    """Server-sent events of answers that have begun. However the reply ends, the answers end with it."""

    def __init__(self, answers: Answers, events: AsyncIterator[str]):
        super().__init__(events, media_type="text/event-stream", headers={"Cache-Control": "no-cache"})
        self.answers = answers

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Sends the events.

        A `finally` in the iterator would not do: it never runs if the client leaves before the first event.
        """
        try:
            await super().__call__(scope, receive, send)
        finally:
            self.answers.close()


async def write_events(call: Call, answers: Answers) -> AsyncIterator[str]:
    """A stream's events: starts, pieces, why each answer ended, the usage if asked for, [DONE].

    An error is an event too: the status 200 has been sent already.
    """
    base = {**call.describe(), "object": call.dialect.event_object}
    if call.include_usage:
        base["usage"] = None
    whole: dict[int, Generation] = {}
    try:
        async for choice in describe_choices(call.dialect, answers, whole):
            yield write_event({**base, "choices": [choice]})
        if call.include_usage:
            generations = [whole[index] for index in sorted(whole)]
            usage = count_usage(generations, call.dialect.choices_per_prompt)
            yield write_event({**base, "choices": [], "usage": usage.model_dump()})
    except Exception as error:
        log_unforeseen(error)
        yield write_event({"error": describe_error(error)})
    yield "data: [DONE]\n\n"


async def describe_choices(
    dialect: Dialect, answers: Answers, whole: dict[int, Generation]
) -> AsyncIterator[dict[str, Any]]:
    """The choice of each event, in the order of the events; puts the finished answers into `whole`."""
    for index in range(len(answers.requests)):
        for choice in dialect.describe_start(index):
            yield choice
    async for index, piece in answers:
        if isinstance(piece, Piece):
            choices = dialect.describe_piece(index, piece)
        else:
            whole[index] = piece
            choices = dialect.describe_end(index, piece.finish_reason)
        for choice in choices:
            yield choice


def write_event(data: dict[str, Any]) -> str:
    """A server-sent event."""
    return f"data: {json.dumps(data)}\n\n"
