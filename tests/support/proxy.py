"""A proxy that lets nothing pass and remembers what reached it."""

import contextlib
import socketserver
import threading
from collections.abc import Iterator

REFUSAL = b"HTTP/1.1 502 Bad Gateway\r\nContent-Length: 0\r\nConnection: close\r\n\r\n"


@contextlib.contextmanager
def run_proxy() -> Iterator[tuple[str, list[str]]]:
    """Its address, HOST:PORT, and the first line that each connection to it sent."""
    reached: list[str] = []

    class Handler(socketserver.BaseRequestHandler):
        def handle(self):
            first_line = self.request.recv(4096).split(b"\r\n")[0]
            reached.append(first_line.decode(errors="replace"))
            self.request.sendall(REFUSAL)

    with socketserver.ThreadingTCPServer(("127.0.0.1", 0), Handler) as server:
        threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True).start()
        yield f"127.0.0.1:{server.server_address[1]}", reached
        server.shutdown()


def name_proxy(kind: str, address: str) -> dict[str, str]:
    """The environment variables that name a proxy of this kind, "http" or "socks5"."""
    if kind == "socks5":
        return {"ALL_PROXY": f"socks5://{address}"}
    return {"HTTP_PROXY": f"http://{address}", "HTTPS_PROXY": f"http://{address}"}
