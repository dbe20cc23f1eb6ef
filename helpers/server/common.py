"""What both dialects share: error bodies in OpenAI's shape, the key, and requests whose client may leave."""

import asyncio
import hmac
from collections.abc import AsyncIterator
from typing import Annotated

from anyio import to_thread
from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from pydantic import AfterValidator
from starlette.exceptions import HTTPException
from starlette.types import ASGIApp, Receive, Scope, Send

from helpers import KitError
from helpers.engines import Engine, EngineStopping, Generation, GenerationRequest


def refuse_half_characters(text: str) -> str:
    """The text; a ValueError for one that no UTF-8 can hold, such as half a surrogate pair out of JSON's \\u escapes."""
    try:
        text.encode("utf-8")
    except UnicodeEncodeError:
        raise ValueError("this is no text, it holds half a surrogate pair") from None
    return text


Text = Annotated[str, AfterValidator(refuse_half_characters)]
SEED_LIMIT = 2**63  # torch's seeds have 64 bits, signed


class ApiError(Exception):
    """A refusal with its HTTP status; `param` is the field at fault, `code` OpenAI's word for it."""

    def __init__(self, status: int, message: str, param: str | None = None, code: str | None = None):
        super().__init__(message)
        self.status, self.message, self.param, self.code = status, message, param, code


def describe_error(status: int, message: str, param: str | None = None, code: str | None = None) -> dict[str, str | None]:
    """OpenAI's error object."""
    return {"message": message, "type": "server_error" if status >= 500 else "invalid_request_error", "param": param, "code": code}


def error_response(status: int, message: str, param: str | None = None, code: str | None = None) -> JSONResponse:
    """A whole reply with that object."""
    return JSONResponse({"error": describe_error(status, message, param, code)}, status_code=status)


class KeyGate:
    """Lets requests pass that carry the key. Plain ASGI: behind FastAPI's own middlewares a request does not see its client leave."""

    def __init__(self, app: ASGIApp, api_key: str):
        self.app, self.wanted = app, f"Bearer {api_key}".encode()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answers 401 before the body is read, or hands the request on."""
        if scope["type"] == "http" and not hmac.compare_digest(dict(scope["headers"]).get(b"authorization", b""), self.wanted):
            await error_response(401, "Wrong or missing API key.", None, "invalid_api_key")(scope, receive, send)
        else:
            await self.app(scope, receive, send)


def make_app(title: str, api_key: str | None) -> FastAPI:
    """An application whose every error has that body, and which asks for the key when there is one."""

    app = FastAPI(title=title)
    if api_key:
        app.add_middleware(KeyGate, api_key=api_key)

    @app.exception_handler(ApiError)
    async def refuse(request: Request, error: ApiError) -> JSONResponse:
        return error_response(error.status, error.message, error.param, error.code)

    @app.exception_handler(KitError)
    async def explain(request: Request, error: KitError) -> JSONResponse:
        return error_response(503 if isinstance(error, EngineStopping) else 400, str(error))

    @app.exception_handler(RequestValidationError)
    async def name_field(request: Request, error: RequestValidationError) -> JSONResponse:
        first = error.errors()[0]
        if first["type"] == "json_invalid":
            return error_response(400, "The body is no JSON.", None, "json_invalid")
        field = ".".join(str(part) for part in first["loc"][1:]) or "body"
        if field == "body" and "json" not in request.headers.get("content-type", ""):
            return error_response(400, "Send JSON, with the header Content-Type: application/json.", field, "not_json")
        return error_response(400, f"{field}: {first['msg'].removeprefix('Value error, ')}.", field, first["type"])

    @app.exception_handler(HTTPException)
    async def not_found(request: Request, error: HTTPException) -> JSONResponse:
        code = {404: "unknown_url", 405: "method_not_allowed"}.get(error.status_code)
        return error_response(error.status_code, f"{request.method} {request.url.path}: {error.detail}.", None, code)

    @app.exception_handler(Exception)
    async def own_up(request: Request, error: Exception) -> JSONResponse:
        return error_response(500, f"The server failed ({type(error).__name__}); its output says where.")

    return app


async def generate(engine: Engine, request: GenerationRequest, http: Request) -> Generation:
    """The whole answer; a client that leaves, and a server that ends, cancels it within a quarter of a second."""
    running = asyncio.create_task(asyncio.to_thread(engine.generate, request))
    try:
        while not (await asyncio.wait([running], timeout=0.25))[0]:
            if await http.is_disconnected():
                request.cancelled.set()
        return running.result()
    finally:
        request.cancelled.set()


async def stream(engine: Engine, request: GenerationRequest) -> AsyncIterator[str | Generation]:
    """The answer's pieces, then the Generation; a client that leaves cancels it, also one that still waits for its turn."""
    pieces = engine.stream(request)
    try:
        while (piece := await to_thread.run_sync(next, pieces, None, abandon_on_cancel=True)) is not None:
            yield piece
    finally:
        request.cancelled.set()
