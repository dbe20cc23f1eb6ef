"""What both dialects share: applications whose every error has OpenAI's shape, and answers whose client may leave."""

import asyncio
import contextlib
from collections.abc import AsyncIterator
from concurrent.futures import Future
from functools import partial
from typing import Annotated

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from pydantic import AfterValidator, Field
from starlette.exceptions import HTTPException
from starlette.routing import Match

from helpers import KitError
from helpers.engines import Engine
from helpers.generation import Generation, GenerationRequest, Piece, join_pieces
from helpers.server.errors import ApiError, ErrorReply, error_response
from helpers.server.guards import TOO_LARGE, guard_app


def refuse_half_characters(text: str) -> str:
    """The text; a ValueError for one that no UTF-8 can hold, such as half a surrogate pair out of JSON's \\u escapes."""
    try:
        text.encode("utf-8")
    except UnicodeEncodeError:
        raise ValueError("this is no text, it holds half a surrogate pair") from None
    return text


Text = Annotated[str, AfterValidator(refuse_half_characters)]
StopTexts = Annotated[list[Annotated[Text, Field(max_length=256)]], Field(max_length=32)]  # each is compared with the text after every token
SEED_LIMIT = 2**63  # torch's seeds have 64 bits, signed


def make_app(title: str, api_key: str | None) -> FastAPI:
    """An application whose every error has that shape, and which asks for the key when there is one."""
    replies = {"4XX": {"model": ErrorReply, "description": "Refused"}, "5XX": {"model": ErrorReply, "description": "Failed"}}
    app = FastAPI(title=title, responses=replies)
    guard_app(app, api_key)

    @app.exception_handler(Exception)
    @app.exception_handler(KitError)
    @app.exception_handler(ApiError)
    async def refuse(request: Request, error: Exception) -> JSONResponse:
        return error_response(error)

    @app.exception_handler(RequestValidationError)
    async def refuse_body(request: Request, error: RequestValidationError) -> JSONResponse:
        return error_response(explain_validation(error, request.headers.get("content-type", "")))

    @app.exception_handler(HTTPException)
    async def refuse_request(request: Request, error: HTTPException) -> JSONResponse:
        message = TOO_LARGE if error.status_code == 413 else f"{request.method} {request.url.path}: {error.detail}."
        response = error_response(ApiError(error.status_code, message))
        if error.status_code == 405:  # starlette names the methods of the first route only
            matching = [route for route in app.routes if route.matches(request.scope)[0] is not Match.NONE]
            response.headers["Allow"] = ", ".join(sorted({method for route in matching for method in route.methods}))
        return response

    return app


def explain_validation(error: RequestValidationError, content_type: str) -> ApiError:
    """The refusal of a body that does not have the right form, naming its first wrong field."""
    first = error.errors()[0]
    if first["type"] == "json_invalid":
        return ApiError(400, "The body is no JSON.", None, "json_invalid")
    field = ".".join(str(part) for part in first["loc"][1:]) or "body"
    if field == "body" and "json" not in content_type:
        return ApiError(400, "Send JSON, with the header Content-Type: application/json.", field, "not_json")
    return ApiError(400, f"{field}: {first['msg'].removeprefix('Value error, ')}.", field, first["type"])


class Answers:
    """Answers that the engine computes at the same time; `close` ends them. Made, started and read in one event loop."""

    def __init__(self, engine: Engine, requests: list[GenerationRequest]):
        self.engine, self.requests = engine, requests
        self._loop, self._news = asyncio.get_running_loop(), asyncio.Queue()

    async def start(self) -> None:
        """Hands all of them to the engine, or none: KitError for what it refuses, EngineBusy among it."""
        try:
            await asyncio.to_thread(self._start_all)
        except BaseException:
            self.close()
            raise

    def _start_all(self) -> None:
        for index, request in enumerate(self.requests):
            job = self.engine.start(request, partial(self._tell, index))
            job.add_done_callback(partial(self._tell, index))

    def _tell(self, index: int, news: Piece | Future) -> None:  # in a thread of the engine's; the loop is gone when the server has ended
        with contextlib.suppress(RuntimeError):
            self._loop.call_soon_threadsafe(self._news.put_nowait, (index, news))

    async def __aiter__(self) -> AsyncIterator[tuple[int, Piece | Generation]]:
        """(number of the request, its next piece), at the end of each with the Generation that has the whole."""
        parts: list[list[Piece]] = [[] for _ in self.requests]
        running = len(self.requests)
        while running:
            index, news = await self._news.get()
            if isinstance(news, Piece):
                parts[index].append(news)
                yield index, news
            elif news is None:
                raise ApiError(499, "The client has left.")  # nobody reads it; the number is nginx's
            else:
                running -= 1
                yield index, join_pieces(news.result(), parts[index])

    def close(self) -> None:
        """Cancels those that run or wait; who still reads gets an ApiError at once."""
        for request in self.requests:
            request.cancelled.set()
        self._news.put_nowait((0, None))


async def stream(engine: Engine, request: GenerationRequest) -> AsyncIterator[Piece | Generation]:
    """The answer's pieces, then the Generation with the whole. Closing the iterator cancels, also an answer that still waits for its turn."""
    answers = Answers(engine, [request])
    try:
        await answers.start()
        async for _, piece in answers:
            yield piece
    finally:
        answers.close()


async def generate_all(engine: Engine, requests: list[GenerationRequest], http: Request) -> list[Generation]:
    """The whole answers, in the order of the requests; a client that leaves ends them at once."""
    answers, whole = Answers(engine, requests), {}

    async def wait_for_leaving() -> None:
        while (await http.receive())["type"] != "http.disconnect":
            continue
        answers.close()

    watching = asyncio.create_task(wait_for_leaving())
    try:
        await answers.start()
        async for index, piece in answers:
            whole[index] = piece
    finally:
        watching.cancel()
        answers.close()
    return [whole[index] for index in range(len(requests))]


async def generate(engine: Engine, request: GenerationRequest, http: Request) -> Generation:
    """The whole answer; a client that leaves ends it at once."""
    return (await generate_all(engine, [request], http))[0]
