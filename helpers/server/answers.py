"""What both dialects share: applications whose every error has OpenAI's shape, and answers whose client may leave."""

import asyncio
import contextlib
from collections.abc import AsyncIterator
from concurrent.futures import Future
from functools import partial

from fastapi import Request

from helpers.generation.engine import Engine
from helpers.generation.request import Generation, GenerationRequest, Piece, join_pieces
from helpers.server.errors import ApiError


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

    def _tell(
        self, index: int, news: Piece | Future
    ) -> None:  # in a thread of the engine's; the loop is gone when the server has ended
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
