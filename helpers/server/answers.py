"""Answers of an engine, awaited in the event loop: whole or in pieces, and cancelled when the client leaves.

An engine computes in threads of its own and calls back from them. `Answers` carries these calls into the
event loop:

    engine's thread                            event loop's thread
    ---------------                            -------------------
    emit(piece)  --+
                   +-- call_soon_threadsafe --> queue --> async for index, piece in answers
    job is done  --+                              ^
                                                  |
                            close(): ClientLeft --+

`close` also sets `request.cancelled`, which ends the computing in the engine's thread.
"""

import asyncio
import contextlib
from collections.abc import AsyncGenerator, AsyncIterator
from concurrent.futures import Future
from functools import partial

from fastapi import Request

from helpers.generation.engine import Engine
from helpers.generation.request import Generation, GenerationRequest, Piece, join_pieces
from helpers.server.errors import ApiError

CLIENT_LEFT = 499  # nginx's status for it; nobody reads the reply


class ClientLeft:
    """The event that comes instead of a piece when nobody reads the answers any more."""


class Answers:
    """Answers that the engine computes at the same time; `close` ends them. Used within one event loop."""

    def __init__(self, engine: Engine, requests: list[GenerationRequest]):
        self.engine = engine
        self.requests = requests
        self._loop = asyncio.get_running_loop()
        # (number of the request, its next piece or its finished job), or ClientLeft
        self._events: asyncio.Queue[tuple[int, Piece | Future] | ClientLeft] = asyncio.Queue()

    async def start(self) -> None:
        """Hands all requests to the engine, or none: raises the KitError that one is refused with."""
        try:
            await asyncio.to_thread(self._start_all)  # tokenizing long prompts takes a while
        except BaseException:
            self.close()
            raise

    def _start_all(self) -> None:
        for index, request in enumerate(self.requests):
            pass_on = partial(self._pass_on, index)
            job = self.engine.start(request, pass_on)
            job.add_done_callback(pass_on)

    def _pass_on(self, index: int, event: Piece | Future) -> None:
        """Runs in a thread of the engine's."""
        with contextlib.suppress(RuntimeError):  # the loop is closed: the server has ended
            self._loop.call_soon_threadsafe(self._events.put_nowait, (index, event))

    async def __aiter__(self) -> AsyncIterator[tuple[int, Piece | Generation]]:
        """(number of the request, its next piece), at the end of each answer the Generation with all of it.

        Raises what the engine failed with, and an ApiError as soon as `close` is called.
        """
        pieces: list[list[Piece]] = [[] for _ in self.requests]
        running = len(self.requests)
        while running:
            event = await self._events.get()
            if isinstance(event, ClientLeft):
                raise ApiError(CLIENT_LEFT, "The client has left.")
            index, news = event
            if isinstance(news, Piece):
                pieces[index].append(news)
                yield index, news
            else:
                running -= 1
                yield index, join_pieces(news.result(), pieces[index])

    def close(self) -> None:
        """Cancels the requests that run or wait; whoever still reads gets an ApiError at once."""
        for request in self.requests:
            request.cancelled.set()
        self._events.put_nowait(ClientLeft())


async def stream(engine: Engine, request: GenerationRequest) -> AsyncGenerator[Piece | Generation, None]:
    """The answer's pieces, then the Generation with the whole answer.

    Closing the iterator cancels the request, also one that still waits for its turn.
    """
    answers = Answers(engine, [request])
    try:
        await answers.start()
        async for _, piece in answers:
            yield piece
    finally:
        answers.close()


async def generate_all(engine: Engine, requests: list[GenerationRequest], http: Request) -> list[Generation]:
    """The whole answers, in the order of the requests; a client that leaves ends them at once."""
    answers = Answers(engine, requests)
    whole: dict[int, Generation] = {}

    async def wait_for_leaving() -> None:
        while (await http.receive())["type"] != "http.disconnect":
            continue
        answers.close()

    watching = asyncio.create_task(wait_for_leaving())
    try:
        await answers.start()
        async for index, piece in answers:
            if isinstance(piece, Generation):
                whole[index] = piece
    finally:
        watching.cancel()
        answers.close()
    return [whole[index] for index in range(len(requests))]


async def generate(engine: Engine, request: GenerationRequest, http: Request) -> Generation:
    """The whole answer; a client that leaves ends it at once."""
    (generation,) = await generate_all(engine, [request], http)
    return generation
