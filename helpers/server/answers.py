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

from helpers.common.errors import UsageError
from helpers.generation.engine import Engine
from helpers.generation.request import Generation, GenerationRequest, Piece, join_pieces
from helpers.server.threads import explain_leaving, run_for_client, run_in_thread, wait_for_leaving

MAX_LISTED = 2**17  # log-probabilities of prompts in one reply, which takes about a second to write


class ClientLeft:
    """The event that comes instead of a piece when nobody reads the answers any more."""


class Answers:
    """Answers that the engine computes at the same time; `close` ends them. Used within one event loop."""

    def __init__(self, engine: Engine, requests: list[GenerationRequest]):
        self.engine = engine
        self.requests = requests
        self._loop = asyncio.get_running_loop()
        self._left = False  # nobody reads the answers
        # (number of the request, its next piece or its finished job), or ClientLeft
        self._events: asyncio.Queue[tuple[int, Piece | Future] | ClientLeft] = asyncio.Queue()
        self._first: list[tuple[int, Piece | Future] | ClientLeft] = []  # what `begin` took out of it

    async def start(self, http: Request | None = None) -> None:
        """Hands all requests to the engine, or none: raises the KitError that one is refused with.

        With `http`, an ApiError as soon as the client leaves.
        """
        try:
            if http is None:
                await run_in_thread(self._start_all)
            else:
                await run_for_client(http, self._start_all)
        except BaseException:
            self.close()
            raise

    def _start_all(self) -> None:
        prompt: list[int] | None = None
        listed = 0
        for index, request in enumerate(self.requests):
            if self._left:
                return
            if prompt is None or not request.differs_in_seed_only(self.requests[index - 1]):
                prompt = self.engine.check(request)
            if request.prompt_logprobs is not None:
                listed += len(prompt) * (1 + request.prompt_logprobs)
                refuse_long_lists(listed)
            pass_on = partial(self._pass_on, index)
            job = self.engine.start(request, pass_on, list(prompt))
            job.add_done_callback(pass_on)

    def _pass_on(self, index: int, event: Piece | Future) -> None:
        """Runs in a thread of the engine's."""
        with contextlib.suppress(RuntimeError):  # the loop is closed: the server has ended
            self._loop.call_soon_threadsafe(self._events.put_nowait, (index, event))

    async def begin(self) -> None:
        """Waits for the first piece of any answer. Raises what the engine refuses the request with."""
        event = await self._events.get()
        try:
            if isinstance(event, tuple) and isinstance(event[1], Future):
                event[1].result()
        except BaseException:
            self.close()
            raise
        self._first.append(event)

    async def __aiter__(self) -> AsyncIterator[tuple[int, Piece | Generation]]:
        """(number of the request, its next piece), at the end of each answer the Generation with all of it.

        Raises what the engine failed with, and an ApiError as soon as `close` is called.
        """
        pieces: list[list[Piece]] = [[] for _ in self.requests]
        running = len(self.requests)
        while running:
            event = self._first.pop() if self._first else await self._events.get()
            if isinstance(event, ClientLeft):
                raise explain_leaving()
            index, news = event
            if isinstance(news, Piece):
                pieces[index].append(news)
                yield index, news
            else:
                running -= 1
                yield index, join_pieces(news.result(), pieces[index])

    def close(self) -> None:
        """Cancels the requests that run or wait; whoever still reads gets an ApiError at once."""
        self._left = True
        for request in self.requests:
            request.cancelled.set()
        self._events.put_nowait(ClientLeft())


def refuse_long_lists(count: int) -> None:
    """A UsageError for so many log-probabilities of prompts."""
    if count > MAX_LISTED:
        problem = f"The reply would have more than {MAX_LISTED} log-probabilities of prompts."
        raise UsageError(problem, "Send fewer or shorter prompts, or ask for fewer likeliest tokens.")


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


@contextlib.asynccontextmanager
async def close_after_leaving(answers: Answers, http: Request) -> AsyncGenerator[None]:
    """Inside the block, the answers end when their client leaves."""

    async def watch() -> None:
        await wait_for_leaving(http)
        answers.close()

    watching = asyncio.create_task(watch())
    try:
        yield
    finally:
        watching.cancel()


async def generate_all(engine: Engine, requests: list[GenerationRequest], http: Request) -> list[Generation]:
    """The whole answers, in the order of the requests; a client that leaves ends them at once."""
    answers = Answers(engine, requests)
    whole: dict[int, Generation] = {}
    await answers.start(http)
    try:
        async with close_after_leaving(answers, http):
            async for index, piece in answers:
                if isinstance(piece, Generation):
                    whole[index] = piece
    finally:
        answers.close()
    return [whole[index] for index in range(len(requests))]


async def generate(engine: Engine, request: GenerationRequest, http: Request) -> Generation:
    """The whole answer; a client that leaves ends it at once."""
    (generation,) = await generate_all(engine, [request], http)
    return generation
