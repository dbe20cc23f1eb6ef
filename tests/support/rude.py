"""Servers that keep to no protocol: what they send is given byte for byte, at once or without end."""

import contextlib
import socket
import threading
import time
from collections.abc import Callable, Iterator

OK = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nConnection: close\r\n\r\n"
EVENTS = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nConnection: close\r\n\r\n"


@contextlib.contextmanager
def serve_bytes(*parts: bytes, forever: bytes = b"", pause: float = 0.0) -> Iterator[str]:
    """The address of a server that answers with the parts, then with `forever` again and again.

    It waits `pause` seconds before each of the latter, and ends with the block.
    """
    over = threading.Event()

    def answer(connection: socket.socket) -> None:
        connection.recv(65536)
        connection.sendall(b"".join(parts))
        while forever and not over.is_set():
            connection.sendall(forever)
            time.sleep(pause)

    with serve_connections(answer) as url:
        yield url
        over.set()


@contextlib.contextmanager
def serve_connections(answer: Callable[[socket.socket], None]) -> Iterator[str]:
    """The address of a server that hands each connection to `answer`."""

    def run(connection: socket.socket) -> None:
        with connection, contextlib.suppress(OSError):
            answer(connection)
            connection.shutdown(socket.SHUT_WR)

    def accept() -> None:
        with contextlib.suppress(OSError):
            while True:
                connection, _ = server.accept()
                threading.Thread(target=run, args=(connection,), daemon=True).start()

    with socket.create_server(("127.0.0.1", 0)) as server:
        threading.Thread(target=accept, daemon=True).start()
        yield f"http://127.0.0.1:{server.getsockname()[1]}"
        server.shutdown(socket.SHUT_RDWR)
