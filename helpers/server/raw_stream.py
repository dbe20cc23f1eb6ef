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

from fastapi import FastAPI, WebSocket
from fastapi.exceptions import RequestValidationError
from pydantic import ValidationError
from starlette.websockets import WebSocketDisconnect

from helpers import KitError
from helpers.engines import Engine
from helpers.generation import Piece
from helpers.server.common import ApiError, make_app, stream
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
        raise ApiError(400, "Send a JSON object.", "body")
    try:
        return kind.model_validate(content)
    except ValidationError as error:
        raise RequestValidationError([{**each, "loc": ("body", *each["loc"])} for each in error.errors(include_context=False)]) from None


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
