"""The raw API's streaming port of 2023: websockets /api/v1/stream and /api/v1/chat-stream.

A client sends a request as one JSON text and gets text_stream events, then stream_end; requests may follow one another on a connection. A request
that cannot be answered gets an event "error" with OpenAI's error object, then the connection is closed with code 1011: clients of 2023 pass over
events that they do not know, and meet the same end as then.
"""

import asyncio
import contextlib
import json
import logging
import time
from collections.abc import AsyncIterator, Callable

import anyio
from fastapi import FastAPI, WebSocket
from fastapi.exceptions import RequestValidationError
from pydantic import ValidationError
from starlette.websockets import WebSocketDisconnect

from helpers.common.errors import KitError
from helpers.generation.engine import Engine
from helpers.generation.request import Piece
from helpers.server.answers import stream
from helpers.server.apps import explain_validation, make_app
from helpers.server.errors import ApiError, describe_error
from helpers.server.raw_answers import Asked, Running, ask_chat, ask_generate
from helpers.server.raw_bodies import ChatBody, GenerateBody, RawBody
from helpers.server.service import Service

UPDATES_S = 24  # a chat's whole history goes out with each update, so there are at most so many a second


WAITING = 8  # requests that a connection may send ahead


REASON = 123  # bytes that a close frame's reason may have


def read_body(text: str | bytes, kind: type[RawBody]) -> RawBody:
    """The request; the same errors as over HTTP."""
    try:
        content = json.loads(text)
    except ValueError:
        raise ApiError(400, "The request is no JSON.", None, "json_invalid") from None
    if not isinstance(content, dict):
        raise ApiError(400, "body: send a JSON object.", "body")
    try:
        return kind.model_validate(content)
    except ValidationError as error:
        raise RequestValidationError(
            [{**each, "loc": ("body", *each["loc"])} for each in error.errors(include_context=False)]
        ) from None


async def write_texts(asked: Asked, engine: Engine) -> AsyncIterator[dict]:
    """/stream: the new piece each time, after an empty first one."""
    yield {"text": ""}
    async with contextlib.aclosing(stream(engine, asked.request)) as pieces:
        async for piece in pieces:
            if isinstance(piece, Piece):
                yield {"text": piece.text}


async def write_histories(asked: Asked, engine: Engine) -> AsyncIterator[dict]:
    """/chat-stream: the whole history each time, at most UPDATES_S a second; the last one always."""
    text, due = "", 0.0
    async with contextlib.aclosing(stream(engine, asked.request) if asked.request else nothing()) as pieces:
        async for piece in pieces:
            text += piece.text if isinstance(piece, Piece) else ""
            if time.monotonic() >= due and text.strip():
                yield asked.write(text)
                due = time.monotonic() + 1 / UPDATES_S
    yield asked.write(text)


async def nothing() -> AsyncIterator[Piece]:
    """No pieces."""
    return
    yield


class Connection:
    """One client's websocket: its requests are answered in the order in which they came, and its leaving ends the one that runs."""

    def __init__(self, socket: WebSocket, service: Service, running: Running):
        self.socket, self.service, self.running = socket, service, running
        self.inbox: asyncio.Queue[str | bytes] = asyncio.Queue(WAITING)

    async def serve(self, kind: type[RawBody], ask: Callable, write: Callable) -> None:
        """Until the client leaves or asks for something that cannot be answered."""
        await self.socket.accept()
        async with anyio.create_task_group() as group:

            async def answer() -> None:
                await self.answer_all(kind, ask, write)
                group.cancel_scope.cancel()

            group.start_soon(answer)
            await self.read()
            group.cancel_scope.cancel()

    async def read(self) -> None:
        """Takes requests in until the client leaves."""
        while (message := await self.socket.receive())["type"] == "websocket.receive":
            await self.inbox.put(message.get("text") or message.get("bytes") or "")

    async def answer_all(self, kind: type[RawBody], ask: Callable, write: Callable) -> None:
        """Answers what was taken in; the first error is the last event."""
        number = 0
        try:
            while True:
                body, number = read_body(await self.inbox.get(), kind), 0
                engine = self.service.get_engine()
                asked = await asyncio.to_thread(ask, body, engine)
                with self.running.track(asked.request) if asked.request else contextlib.nullcontext():
                    async with contextlib.aclosing(write(asked, engine)) as results:
                        async for result in results:
                            await self.socket.send_json(
                                {"event": "text_stream", "message_num": number, **result}
                            )
                            number += 1
                await self.socket.send_json({"event": "stream_end", "message_num": number, **asked.extra})
        except WebSocketDisconnect:  # found out while sending
            return
        except Exception as error:
            await self.refuse(error, number)

    async def refuse(self, error: Exception, number: int) -> None:
        """Tells the error and closes."""
        if not isinstance(error, ApiError | KitError | RequestValidationError):
            logging.getLogger("uvicorn.error").exception("A streamed answer failed")
        refusal = explain_validation(error, "json") if isinstance(error, RequestValidationError) else error
        told = describe_error(refusal)
        with contextlib.suppress(WebSocketDisconnect):
            await self.socket.send_json({"event": "error", "message_num": number, "error": told})
            await self.socket.close(1011, told["message"].encode()[:REASON].decode(errors="ignore"))


def make_streaming_app(
    service: Service, api_key: str | None = None, running: Running | None = None
) -> FastAPI:
    """The application; `running` is what /stop-stream on the blocking port ends."""
    app = make_app("Open LLM Kit: raw API, streaming", api_key)
    running = running or Running()

    @app.websocket("/api/v1/stream")
    async def stream_text(socket: WebSocket) -> None:
        await Connection(socket, service, running).serve(GenerateBody, ask_generate, write_texts)

    @app.websocket("/api/v1/chat-stream")
    async def stream_chat(socket: WebSocket) -> None:
        await Connection(socket, service, running).serve(ChatBody, ask_chat, write_histories)

    @app.websocket("/{path:path}")
    async def refuse_path(socket: WebSocket, path: str) -> None:
        await socket.accept()
        await socket.close(
            1000, "No such path: /api/v1/stream and /api/v1/chat-stream are here."
        )  # 1000 as then

    return app
