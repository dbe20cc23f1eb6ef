"""How many connections there may be, and how long each may do nothing: uvicorn's protocols with limits.

uvicorn limits the size of a request's head and the pause between two requests. Here is the rest: the time for
a head, the time in which a client must take what it is sent, and the number of connections. Above that number
a connection is good for GET /health only and gets a 503 for anything else, so that whoever watches the server
still learns that it is alive. Above the room for these it is closed at once: a connection costs a file, and a
server without files accepts nobody. A websocket may stay for long without a request, so a client gets fewer
of them than of connections: behind one address there can be many people.
"""

import asyncio
import contextlib
from collections import Counter
from enum import Enum
from typing import Any

import uvicorn
from starlette.types import ASGIApp, Receive, Scope, Send
from uvicorn.protocols.http.h11_impl import H11Protocol, h11  # pyright: ignore[reportPrivateImportUsage]
from uvicorn.protocols.websockets.websockets_sansio_impl import WebSocketsSansIOProtocol

from helpers.server.errors import ApiError, make_error_response

HEALTH = "/health"
MAX_CONNECTIONS = 256  # of all ports together; the engine takes 64 requests at the same time
CLIENT_SHARE = 2  # a client gets one in so many of them: two are needed to fill the server
SOCKET_SHARE = 4  # and of websockets one in so many
SPARE_CONNECTIONS = 32  # beyond them, for health checks
OTHER_FILES = 128  # of the system's limit of open files: models, libraries, pipes, ports
FEWEST = 8  # connections, however low that limit is

HEAD_S = 10  # for a request's head, from the connection or from the first byte after the last reply
SPARE_S = 2  # the same for a spare connection
WRITE_S = 60  # in which a client must have taken what was sent to it
CLOSE_S = 2  # in which a client must answer the close of a websocket
HEAD_BYTES = 2**16  # of a request's head
MAX_CHUNKS = 2048  # of a body that comes in chunks, each of which costs the same work
RESTARTING = 1012  # close code of a websocket whose server ends


def measure_room() -> int:
    """How many connections there may be: MAX_CONNECTIONS, or fewer where the system allows few open files."""
    with contextlib.suppress(ImportError):  # Windows has no such limit
        import resource

        files, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
        if files != resource.RLIM_INFINITY:
            return max(FEWEST, min(MAX_CONNECTIONS, files - OTHER_FILES - SPARE_CONNECTIONS))
    return MAX_CONNECTIONS


class Place(Enum):
    """What a connection is good for."""

    REGULAR = "all requests"
    SPARE = "health checks"
    NONE = "nothing"


class Connections:
    """Counts the open connections of each client. Used within one event loop."""

    def __init__(self, most: int | None = None):
        self.most = measure_room() if most is None else most
        self._clients: Counter[str] = Counter()  # address: its regular connections
        self._sockets: Counter[str] = Counter()  # address: those of them that are websockets
        self._spare = 0

    def enter(self, client: str) -> Place:
        """The place of a new connection, which must `leave` it."""
        if self._clients.total() < self.most and self._clients[client] < max(1, self.most // CLIENT_SHARE):
            self._clients[client] += 1
            return Place.REGULAR
        if self._spare < SPARE_CONNECTIONS:
            self._spare += 1
            return Place.SPARE
        return Place.NONE

    def leave(self, client: str, place: Place) -> None:
        """Frees the place of a connection that has ended."""
        if place is Place.SPARE:
            self._spare -= 1
        elif place is Place.REGULAR:
            self._clients[client] -= 1
            if not self._clients[client]:
                del self._clients[client]

    def become_socket(self, client: str) -> bool:
        """Whether a regular connection may become a websocket, which must `leave_socket`."""
        if self._sockets[client] >= max(1, self.most // SOCKET_SHARE):
            return False
        self._sockets[client] += 1
        return True

    def leave_socket(self, client: str) -> None:
        """Frees the place of a websocket that has ended."""
        self._sockets[client] -= 1
        if not self._sockets[client]:
            del self._sockets[client]
        self.leave(client, Place.REGULAR)


class LimitedConfig(uvicorn.Config):
    """uvicorn's settings, and what the protocols count in."""

    def __init__(self, app: ASGIApp, connections: Connections, **settings: Any):
        super().__init__(app, http=LimitedHTTP, ws=LimitedWebSocket, **settings)
        self.connections = connections


class SpareApp:
    """Passes health checks on and refuses everything else."""

    def __init__(self, app: Any):
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """ASGI's entry point."""
        if scope["path"] == HEALTH:
            await self.app(scope, receive, send)
            return
        fault = ApiError(503, "Too many connections are open.", None, "too_many_connections")
        response = make_error_response(fault)
        response.headers["Connection"] = "close"
        await response(scope, receive, send)


class Timer:
    """Ends a connection when its time is up."""

    def __init__(self):
        self._handle: asyncio.TimerHandle | None = None

    def start(self, seconds: float, transport: asyncio.Transport) -> None:
        """Begins to count, unless it does so already."""
        if self._handle is None:
            self._handle = asyncio.get_running_loop().call_later(seconds, transport.abort)

    def stop(self) -> None:
        """Forgets the time."""
        if self._handle:
            self._handle.cancel()
        self._handle = None


class ChunkLimit(h11.Connection):
    """Reads the requests of a connection, and reads no more of a body in more than MAX_CHUNKS chunks."""

    chunks = 0

    def next_event(self) -> Any:
        """The next event. Raises h11's error for a client's mistake at one chunk too many."""
        event = super().next_event()
        if isinstance(event, h11.Request):
            self.chunks = 0
        elif isinstance(event, h11.Data) and event.chunk_start:
            self.chunks += 1
            if self.chunks > MAX_CHUNKS:
                raise h11.RemoteProtocolError(f"more than {MAX_CHUNKS} chunks")
        return event


class LimitedHTTP(H11Protocol):
    """A connection with HTTP, until it becomes a websocket."""

    config: LimitedConfig

    def __init__(self, *arguments: Any, **named: Any):
        super().__init__(*arguments, **named)
        self.conn = ChunkLimit(h11.SERVER, HEAD_BYTES)

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Takes a place, or closes the connection."""
        super().connection_made(transport)
        transport.set_write_buffer_limits(0)  # so that `pause_writing` means: the client takes nothing more
        self.address = self.client[0] if self.client else ""
        self.place = self.config.connections.enter(self.address)
        self.reading, self.writing = Timer(), Timer()
        if self.place is Place.NONE:
            transport.abort()
            return
        if self.place is Place.SPARE:
            self.app: Any = SpareApp(self.app)
            self.timeout_keep_alive = 0
        self._start_reading()

    def connection_lost(self, exc: Exception | None) -> None:
        """Frees the place."""
        self.reading.stop()
        self.writing.stop()
        self.config.connections.leave(self.address, self.place)
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        """Counts the time of a head. That of a body is counted where it is read."""
        super().data_received(data)
        if self.transport.get_protocol() is not self or self.transport.is_closing():
            return
        if self.cycle is None or self.cycle.response_complete:
            self._start_reading()
        else:
            self.reading.stop()

    def _start_reading(self) -> None:
        self.reading.start(SPARE_S if self.place is Place.SPARE else HEAD_S, self.transport)

    def _should_upgrade(self) -> bool:
        if self.place is not Place.REGULAR or not super()._should_upgrade():
            return False
        if self.config.connections.become_socket(self.address):
            return True
        self.app = SpareApp(self.app)
        return False

    def send_400_response(self, msg: str) -> None:
        """Says what is wrong, unless the reply has begun. The connection is closed."""
        if self.conn.our_state in (h11.IDLE, h11.SEND_RESPONSE):
            super().send_400_response(msg)
        else:
            self.transport.abort()

    def handle_websocket_upgrade(self, event: Any) -> None:
        """Hands the connection over, with its place.

        The whole head is there. What is not a handshake (a POST, one with a body, HTTP/1.0) gets a 400:
        uvicorn would never answer it.
        """
        self.reading.stop()
        super().handle_websocket_upgrade(event)
        successor = self.transport.get_protocol()
        if isinstance(successor, LimitedWebSocket):
            successor.address = self.address
            if not successor.handshake_initiated:
                self.send_400_response("Invalid websocket handshake.")

    def pause_writing(self) -> None:
        """Called when the client takes nothing more."""
        super().pause_writing()
        self.writing.start(WRITE_S, self.transport)

    def resume_writing(self) -> None:
        """Called when the client has taken everything."""
        super().resume_writing()
        self.writing.stop()


class LimitedWebSocket(WebSocketsSansIOProtocol):
    """A websocket, in a place of its own. When the server ends, the application closes it."""

    config: LimitedConfig
    address = ""

    def __init__(self, *arguments: Any, **named: Any):
        super().__init__(*arguments, **named)
        self.writing = Timer()
        self.close_timeout = CLOSE_S

    def connection_lost(self, exc: Exception | None) -> None:
        """Frees the place."""
        self.writing.stop()
        self.config.connections.leave_socket(self.address)
        super().connection_lost(exc)

    def send_receive_event_to_app(self) -> None:
        """Passes a text that is not UTF-8 on as bytes: uvicorn would log a traceback for it."""
        try:
            b"".join(self.frames).decode()
        except UnicodeDecodeError:
            self.curr_msg_data_type = "bytes"
        super().send_receive_event_to_app()

    async def send(self, message: Any) -> None:
        """Sends what the application says. A refusal in HTTP ends the handshake; uvicorn would miss it."""
        await super().send(message)
        self.handshake_complete = self.handshake_complete or self.close_sent

    def shutdown(self) -> None:
        """Tells the application. uvicorn would close the connection in the middle of an answer."""
        if self.handshake_complete and not self.close_sent:
            self.stop_keepalive()
            self.queue.put_nowait({"type": "websocket.disconnect", "code": RESTARTING})
        else:
            super().shutdown()

    def pause_writing(self) -> None:
        """Called when the client takes nothing more. Nothing is read from it then: each ping has a reply."""
        super().pause_writing()
        self.transport.pause_reading()
        self.writing.start(WRITE_S, self.transport)

    def resume_writing(self) -> None:
        """Called when the client has taken everything."""
        super().resume_writing()
        if not self.read_paused:
            self.transport.resume_reading()
        self.writing.stop()
