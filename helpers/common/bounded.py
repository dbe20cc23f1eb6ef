"""Limits of a reply over HTTP: how long all of it may take, and how large it may become.

The timeouts of HTTP clients only end the wait for the next bytes. A server that sends a byte now and then, or
never ends its reply, would hold them up without end. A Watch is for one request, through requests or httpx.
"""

import contextlib
import functools
import importlib
import socket
import threading
import time
from collections.abc import AsyncIterator, Callable, Iterable, Iterator
from contextvars import ContextVar
from typing import Any, Self

LARGEST_REPLY = 64_000_000  # bytes
LARGEST_PIECE = 16_000_000  # bytes, of a stream, from one piece of the answer to the next
BLOCK = 1 << 16  # bytes that are read at once


class TooLargeError(Exception):
    """A reply is larger than LARGEST_REPLY, or a piece of it than LARGEST_PIECE; or it is packed unasked."""


class TooLateError(TimeoutError):
    """A piece of a stream took longer than it may."""


class Watch:
    """A context in which a request is sent; when its time is over, the request's connections are cut.

    For a reply that is a stream, `seconds` limit each piece of the answer instead, once the reply has begun;
    the context ends there. Whoever reads the stream calls `renew` after each piece: lines that carry none,
    such as comments, do not extend the time. Without `seconds` only the size is limited.
    """

    def __init__(self, seconds: float | None, is_stream: bool = False):
        self.seconds = seconds
        self.is_stream = is_stream
        self.expired = False
        self.size = 0  # bytes so far, of a stream those since the last piece
        self.since = time.monotonic()
        self.find_sockets: list[Callable[[], socket.socket | None]] = []
        self.timer: threading.Timer | None = None

    def __enter__(self) -> Self:
        self.token = CURRENT.set(self)
        if self.seconds is not None:
            self.timer = threading.Timer(self.seconds, self.expire)
            self.timer.daemon = True
            self.timer.start()
        return self

    def __exit__(self, *error: object) -> None:
        CURRENT.reset(self.token)
        if self.timer:
            self.timer.cancel()

    def expire(self) -> None:
        """Cuts the connections, so that whoever waits for them gets an error."""
        self.expired = True
        for connected in filter(None, [find() for find in self.find_sockets]):
            with contextlib.suppress(OSError):  # it is closed already
                socket.socket.shutdown(connected, socket.SHUT_RDWR)  # TLS's own shutdown would wait

    def note(self, find_socket: Callable[[], socket.socket | None]) -> None:
        """Remembers what finds the socket of a connection; None if it is not open yet."""
        self.find_sockets.append(find_socket)
        if self.expired:
            self.expire()

    def renew(self) -> None:
        """A piece of a stream has come: the limits are for the next one."""
        self.size, self.since = 0, time.monotonic()

    def count(self, block: bytes) -> bytes:
        """The block of a reply, which is counted. TooLargeError, or TooLateError for a piece of a stream."""
        self.size += len(block)
        if self.size > (LARGEST_PIECE if self.is_stream else LARGEST_REPLY):
            raise TooLargeError
        if self.is_stream and self.seconds is not None and time.monotonic() - self.since > self.seconds:
            raise TooLateError
        return block

    def read(self, blocks: Iterable[bytes]) -> bytes:
        """The whole reply."""
        return b"".join(map(self.count, blocks))

    def follow_pool(self, pool: Any) -> None:
        """Notes the connections that a pool of urllib3 makes."""
        make = pool.ConnectionCls

        def make_noted(*args: Any, **kwargs: Any) -> Any:
            connection = make(*args, **kwargs)
            connect = connection.connect

            def connect_noted() -> None:
                self.note(lambda: connection.sock)  # while it talks to a proxy
                connect()
                connected = connection.sock  # which the connection forgets if it is for one request
                self.note(lambda: connected)

            connection.connect = connect_noted
            return connection

        pool.ConnectionCls = make_noted

    def trace(self, event: str, info: dict[str, Any]) -> None:
        """Notes the connections that httpx makes; it is the callback of its `trace` extension."""
        if event in ("connection.connect_tcp.complete", "connection.start_tls.complete"):
            stream = info["return_value"]
            self.note(lambda: stream.get_extra_info("socket"))


CURRENT: ContextVar[Watch | None] = ContextVar("watch", default=None)


def list_hooks() -> dict[str, list[Callable[[Any], Any]]]:
    """The `event_hooks` of an httpx client whose requests keep to the limits of the Watch around them."""
    return {"request": [follow], "response": [limit]}


def follow(request: Any) -> None:
    """The hook of a request."""
    if watch := CURRENT.get():
        request.extensions["trace"] = watch.trace
        ask_unpacked(request)


def ask_unpacked(request: Any) -> None:
    """Asks for a reply that is not packed: httpx would unpack it whole, however large it becomes."""
    request.headers["Accept-Encoding"] = "identity"


async def ask_unpacked_async(request: Any) -> None:
    """The same for an async client."""
    ask_unpacked(request)


def limit(response: Any) -> None:
    """The hook of a response, before its body is read."""
    if watch := CURRENT.get():
        packed = response.headers.get("Content-Encoding", "identity").strip().lower() != "identity"
        response.stream = find_stream_class(type(response))(response.stream, watch, packed)


async def limit_async(response: Any) -> None:
    """The same for an async client."""
    limit(response)


def list_async_hooks() -> dict[str, list[Callable[[Any], Any]]]:
    """The hooks of an async client, where only the size is limited: asyncio can end a request itself."""
    return {"request": [ask_unpacked_async], "response": [limit_async]}


def add_hooks(client: Any) -> None:
    """Adds the hooks to an httpx client that another library made, once."""
    there = client.event_hooks
    if follow not in there["request"]:
        client.event_hooks = {name: [*there[name], *hooks] for name, hooks in list_hooks().items()}


@functools.cache
def find_stream_class(response: type) -> Any:
    """A class of streams that count, for responses of httpx or of a successor of it (httpx2)."""
    library: Any = importlib.import_module(response.__module__.partition(".")[0])

    class CountingStream(library.SyncByteStream, library.AsyncByteStream):
        """The blocks of another stream."""

        def __init__(self, stream: Any, watch: Watch, packed: bool):
            self.stream, self.watch, self.packed = stream, watch, packed

        def count(self, block: bytes) -> bytes:
            if self.packed:
                raise TooLargeError
            return self.watch.count(block)

        def __iter__(self) -> Iterator[bytes]:
            yield from map(self.count, self.stream)

        async def __aiter__(self) -> AsyncIterator[bytes]:
            async for block in self.stream:
                yield self.count(block)

        def close(self) -> None:
            self.stream.close()

        async def aclose(self) -> None:
            await self.stream.aclose()

    return CountingStream
