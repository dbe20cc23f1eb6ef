"""The raw API's streaming port of 2023: the websockets /api/v1/stream and /api/v1/chat-stream.

A client sends a request as one JSON text and gets text_stream events, then stream_end; requests may follow
one another on a connection. A request that cannot be answered gets an event "error" with OpenAI's error
object, then the connection is closed with code 1011. Clients of 2023 skip events that they do not know, and
see the connection end as it did then. When the server ends, it ends the answer first.
"""

import asyncio
import contextlib
import json
import time
from collections.abc import AsyncGenerator, Callable
from dataclasses import dataclass
from typing import Any

from fastapi import FastAPI, WebSocket, WebSocketDisconnect
from fastapi.exceptions import RequestValidationError
from pydantic import ValidationError

from helpers.generation.engine import Engine, EngineStopping
from helpers.generation.request import Piece
from helpers.server.answers import stream
from helpers.server.apps import explain_validation, make_app
from helpers.server.connections import RESTARTING
from helpers.server.errors import ApiError, describe_error, log_unforeseen
from helpers.server.raw_answers import PreparedRequest, RunningRequests, prepare_chat, prepare_generate
from helpers.server.raw_bodies import ChatBody, GenerateBody, RawBody
from helpers.server.request_bodies import decode_json
from helpers.server.service import Service
from helpers.server.threads import run_in_thread

UPDATES_S = 24  # the most updates that a chat gets in a second: each one carries the whole history
WAITING = 8  # requests that a connection may send ahead
IDLE_S = 300  # a connection may be without a request
REASON_BYTES = 123  # longest reason of a close frame

NORMAL_END = 1000  # websocket close codes
FAILED = 1011


@dataclass(frozen=True)
class Endpoint:
    """What differs between the two websockets."""

    body: type[RawBody]
    prepare: Callable[[Any, Engine], PreparedRequest]
    write_results: Callable[[PreparedRequest, Engine], AsyncGenerator[dict[str, Any], None]]


def read_body(received: bytes, kind: type[RawBody]) -> RawBody:
    """The request, with the same errors as over HTTP."""
    try:
        content = json.loads(decode_json(received))
    except ValueError:
        raise ApiError(400, "The request is not valid JSON.", None, "json_invalid") from None
    if not isinstance(content, dict):
        raise ApiError(400, "body: send a JSON object.", "body")
    try:
        return kind.model_validate(content)
    except ValidationError as error:
        faults = [{**fault, "loc": ("body", *fault["loc"])} for fault in error.errors(include_context=False)]
        raise RequestValidationError(faults) from None


async def stream_texts(prepared: PreparedRequest, engine: Engine) -> AsyncGenerator[str, None]:
    """The answer's texts, piece by piece; nothing if there is nothing to generate."""
    if prepared.request is None:
        return
    async with contextlib.aclosing(stream(engine, prepared.request)) as pieces:
        async for piece in pieces:
            if isinstance(piece, Piece):
                yield piece.text


async def write_texts(prepared: PreparedRequest, engine: Engine) -> AsyncGenerator[dict[str, Any], None]:
    """For /stream: the new piece each time, after an empty first one.

    An empty answer has an empty second one: in 2023, a single empty piece meant that no model was loaded.
    """
    yield {"text": ""}
    empty = True
    async with contextlib.aclosing(stream_texts(prepared, engine)) as texts:
        async for text in texts:
            yield {"text": text}
            empty = False
    if empty:
        yield {"text": ""}


async def write_histories(prepared: PreparedRequest, engine: Engine) -> AsyncGenerator[dict[str, Any], None]:
    """For /chat-stream: the whole history, at most UPDATES_S times a second; the last one always."""
    answer = ""
    next_update = 0.0
    async with contextlib.aclosing(stream_texts(prepared, engine)) as texts:
        async for text in texts:
            answer += text
            if time.monotonic() >= next_update and answer.strip():
                yield prepared.write_result(answer)
                next_update = time.monotonic() + 1 / UPDATES_S
    yield prepared.write_result(answer)


TEXTS = Endpoint(GenerateBody, prepare_generate, write_texts)
CHATS = Endpoint(ChatBody, prepare_chat, write_histories)


class Connection:
    """One client's websocket: its requests are answered in order, and if it leaves, its answer ends."""

    def __init__(self, socket: WebSocket, service: Service, running: RunningRequests):
        self.socket = socket
        self.service = service
        self.running = running
        # What was received; None when the server ends.
        self.inbox: asyncio.Queue[bytes | None] = asyncio.Queue(WAITING)
        self.sent = 0  # events of the request that is being answered
        self.restarting = False  # the server ends

    async def serve(self, endpoint: Endpoint) -> None:
        """Answers requests until the client leaves or asks for something that cannot be answered."""
        await self.socket.accept()
        async with asyncio.TaskGroup() as group:
            reading = group.create_task(self.read())
            answering = group.create_task(self.answer_all(endpoint))
            # Whichever ends first ends the other one, but the server's end does not end an answer.
            reading.add_done_callback(lambda _: None if self.restarting else answering.cancel())
            answering.add_done_callback(lambda _: reading.cancel())

    async def read(self) -> None:
        """Takes requests in until the client leaves or the server ends."""
        while True:
            message = await self.socket.receive()
            if message["type"] != "websocket.receive":
                self.restarting = message.get("code") == RESTARTING
                if self.restarting:
                    await self.inbox.put(None)
                return
            await self.inbox.put(message.get("bytes") or (message.get("text") or "").encode())

    async def answer_all(self, endpoint: Endpoint) -> None:
        """Answers the requests that were taken in; an error is the last event."""
        try:
            while (received := await asyncio.wait_for(self.inbox.get(), IDLE_S)) is not None:
                await self.answer(endpoint, received)
            await self.close(RESTARTING, "The server ends.")
        except WebSocketDisconnect:  # found out while sending
            return
        except TimeoutError:
            await self.close(NORMAL_END, f"No request came for {IDLE_S} s.")
        except Exception as error:
            await self.send_error(error)

    async def answer(self, endpoint: Endpoint, received: bytes) -> None:
        """Answers one request."""
        self.sent = 0
        body = read_body(received, endpoint.body)
        engine = self.service.get_engine()
        # In a thread, since a long history is tokenized more than once.
        prepared = await run_in_thread(endpoint.prepare, body, engine)
        with self.running.track(prepared.request):
            async with contextlib.aclosing(endpoint.write_results(prepared, engine)) as results:
                async for result in results:
                    await self.send_event("text_stream", result)
        await self.send_event("stream_end", prepared.extra)

    async def send_event(self, kind: str, fields: dict[str, Any]) -> None:
        """Sends the next event, with its number."""
        await self.socket.send_json({"event": kind, "message_num": self.sent, **fields})
        self.sent += 1

    async def send_error(self, error: Exception) -> None:
        """Sends the error and closes the connection."""
        if isinstance(error, RequestValidationError):
            error = explain_validation(error)
        log_unforeseen(error)
        described = describe_error(error)
        stopping = isinstance(error, EngineStopping)
        with contextlib.suppress(WebSocketDisconnect):
            await self.send_event("error", {"error": described})
            if stopping:  # nothing is wrong with the request
                await self.send_event("stream_end", {})
            await self.close(RESTARTING if stopping else FAILED, str(described["message"]))

    async def close(self, code: int, reason: str) -> None:
        """Closes the connection; the reason is cut to what a close frame holds."""
        with contextlib.suppress(WebSocketDisconnect):
            await self.socket.close(code, reason.encode()[:REASON_BYTES].decode(errors="ignore"))


def make_streaming_app(
    service: Service, api_key: str | None = None, running: RunningRequests | None = None
) -> FastAPI:
    """The application; `running` is what /stop-stream on the blocking port ends."""
    app = make_app("Open LLM Kit: raw API, streaming", api_key)
    running = running or RunningRequests()

    @app.websocket("/api/v1/stream")
    async def stream_text(socket: WebSocket) -> None:
        await Connection(socket, service, running).serve(TEXTS)

    @app.websocket("/api/v1/chat-stream")
    async def stream_chat(socket: WebSocket) -> None:
        await Connection(socket, service, running).serve(CHATS)

    @app.websocket("/{path:path}")
    async def refuse_path(socket: WebSocket, path: str) -> None:
        await socket.accept()
        # A normal end, as in 2023.
        await socket.close(NORMAL_END, "No such path: /api/v1/stream and /api/v1/chat-stream are here.")

    return app
