"""The tutorial server: the raw API of 2023 and the OpenAI-style API over one engine, with the WebUI's flags.

This file has what both dialects share: error bodies in OpenAI's shape, the key, and requests whose client may leave.
"""

import asyncio
from collections.abc import AsyncIterator

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from starlette.concurrency import iterate_in_threadpool
from starlette.exceptions import HTTPException

from helpers import KitError
from helpers.engines import Generation, GenerationRequest, TransformersEngine


class ApiError(Exception):
    """A refusal with its HTTP status; `param` is the field at fault, `code` OpenAI's word for it."""

    def __init__(self, status: int, message: str, param: str | None = None, code: str | None = None):
        super().__init__(message)
        self.status, self.message, self.param, self.code = status, message, param, code


def error_response(status: int, message: str, param: str | None = None, code: str | None = None) -> JSONResponse:
    """An error body as OpenAI's API has it."""
    kind = "server_error" if status >= 500 else "invalid_request_error"
    return JSONResponse({"error": {"message": message, "type": kind, "param": param, "code": code}}, status_code=status)


def make_app(title: str, api_key: str | None) -> FastAPI:
    """An application whose every error has that body, and which asks for the key when there is one."""
    app = FastAPI(title=title)

    @app.exception_handler(ApiError)
    async def refuse(request: Request, error: ApiError) -> JSONResponse:
        return error_response(error.status, error.message, error.param, error.code)

    @app.exception_handler(KitError)
    async def explain(request: Request, error: KitError) -> JSONResponse:
        return error_response(400, str(error))

    @app.exception_handler(RequestValidationError)
    async def name_field(request: Request, error: RequestValidationError) -> JSONResponse:
        first = error.errors()[0]
        if first["type"] == "json_invalid":
            return error_response(400, "The body is no JSON.", None, "json_invalid")
        field = ".".join(str(part) for part in first["loc"][1:]) or "body"
        return error_response(400, f"{field}: {first['msg']}.", field, first["type"])

    @app.exception_handler(HTTPException)
    async def not_found(request: Request, error: HTTPException) -> JSONResponse:
        return error_response(error.status_code, f"{request.method} {request.url.path}: {error.detail}.", None, "unknown_url")

    @app.middleware("http")
    async def ask_for_key(request: Request, call_next):
        if api_key and request.headers.get("authorization") != f"Bearer {api_key}":
            return error_response(401, "Wrong or missing API key.", None, "invalid_api_key")
        return await call_next(request)

    return app


async def generate(engine: TransformersEngine, request: GenerationRequest, http: Request) -> Generation:
    """The whole answer; a client that leaves cancels it within a quarter of a second."""
    running = asyncio.create_task(asyncio.to_thread(engine.generate, request))
    while not (await asyncio.wait([running], timeout=0.25))[0]:
        if await http.is_disconnected():
            request.cancelled.set()
    return running.result()


async def stream(engine: TransformersEngine, request: GenerationRequest) -> AsyncIterator[str | Generation]:
    """The answer's pieces, then the Generation; a client that leaves cancels it."""
    try:
        async for piece in iterate_in_threadpool(engine.stream(request)):
            yield piece
    finally:
        request.cancelled.set()
