"""What both dialects share: error bodies in OpenAI's shape, the key, and requests whose client may leave."""

import asyncio
import contextlib
import hmac
from collections.abc import AsyncIterator
from typing import Annotated

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from pydantic import AfterValidator
from starlette.exceptions import HTTPException
from starlette.types import ASGIApp, Receive, Scope, Send

from helpers import KitError
from helpers.engines import Engine, EngineBusy, EngineStopping
from helpers.generation import Generation, GenerationRequest, Piece, join_pieces


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
        return error_response({EngineStopping: 503, EngineBusy: 429}.get(type(error), 400), str(error))

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


async def stream(engine: Engine, request: GenerationRequest) -> AsyncIterator[Piece | Generation]:
    """The answer's pieces, then the Generation with the whole. Closing the iterator cancels, also an answer that still waits for its turn."""
    loop, pieces = asyncio.get_running_loop(), asyncio.Queue()

    def hand_over(piece: Piece | None) -> None:  # in the engine's thread; the loop is gone when the server has ended
        with contextlib.suppress(RuntimeError):
            loop.call_soon_threadsafe(pieces.put_nowait, piece)

    parts = []
    try:
        job = await asyncio.to_thread(engine.start, request, hand_over)
        job.add_done_callback(lambda _: hand_over(None))
        while (piece := await pieces.get()) is not None:
            parts.append(piece)
            yield piece
        yield join_pieces(job.result(), parts)
    finally:
        request.cancelled.set()


async def generate(engine: Engine, request: GenerationRequest, http: Request) -> Generation:
    """The whole answer; a client that leaves, and a server that ends, cancels it within a quarter of a second."""

    async def collect() -> Generation:
        async for piece in stream(engine, request):
            whole = piece
        return whole

    running = asyncio.create_task(collect())
    try:
        while not (await asyncio.wait([running], timeout=0.25))[0]:
            if await http.is_disconnected():
                request.cancelled.set()
        return running.result()
    finally:
        request.cancelled.set()
