"""Threads for what a request needs before its answer begins: its prompt is written and tokenized.

They are apart from asyncio's own threads, where a model may be loading for minutes. What waits for a thread
is dropped when its client leaves.
"""

import asyncio
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

from fastapi import Request

from helpers.server.errors import ApiError

CLIENT_LEFT = 499  # nginx's status for it; nobody reads the reply
THREADS = 16  # each prompt takes about a second at most, since texts have a limit

Result = TypeVar("Result")
_threads = ThreadPoolExecutor(THREADS, thread_name_prefix="preparing")


async def run_in_thread(work: Callable[..., Result], *arguments: object) -> Result:
    """What `work` returns. If the waiting task is cancelled before the work begins, it never does."""
    return await asyncio.wrap_future(_threads.submit(work, *arguments))


async def run_for_client(http: Request, work: Callable[..., Result], *arguments: object) -> Result:
    """The same for a request over HTTP. Raises an ApiError as soon as its client leaves."""
    working = asyncio.create_task(run_in_thread(work, *arguments))
    leaving = asyncio.create_task(wait_for_leaving(http))
    try:
        await asyncio.wait([working, leaving], return_when=asyncio.FIRST_COMPLETED)
        if not working.done():
            raise explain_leaving()
        return working.result()
    finally:
        working.cancel()
        leaving.cancel()


async def wait_for_leaving(http: Request) -> None:
    """Returns when the client has left."""
    while (await http.receive())["type"] != "http.disconnect":
        continue


def explain_leaving() -> ApiError:
    """The error for a client that has left."""
    return ApiError(CLIENT_LEFT, "The client has left.")
