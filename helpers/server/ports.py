"""The server's ports: names of its three APIs, their usual ports and flags, how to take or find a port."""

import contextlib
import os
import socket
from collections.abc import Iterable

from helpers.common.errors import ResourceError

# The WebUI's own numbers.
RAW_PORT = 5000
STREAMING_PORT = 5005
OPENAI_PORT = 5001

# The usual port of each API, and the flag that changes it. "streaming" is the raw API's websockets.
PORTS = {"raw": RAW_PORT, "streaming": STREAMING_PORT, "openai": OPENAI_PORT}
FLAGS = {"raw": "--api-blocking-port", "streaming": "--api-streaming-port", "openai": "--openai-port"}


def open_port(host: str, port: int, flag: str) -> socket.socket:
    """A listening socket on the port, so that it is taken before the model is loaded; port 0 is any free one.

    Raises a ResourceError, which names the flag, when the port is in use or not a port.
    """
    listener = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
    allow_restart(listener)
    try:
        listener.bind((host, port))
        listener.listen()  # another program could still bind a port that is bound but not listened on
    except (OSError, OverflowError) as error:
        listener.close()
        raise ResourceError(
            f"Port {port} cannot be used ({error}).", f"Choose another one: {flag} PORT."
        ) from None
    return listener


def find_port(wanted: int) -> int:
    """`wanted` if it is free on 127.0.0.1, else another free port. (On a Mac, AirPlay uses 5000.)

    Raises a ResourceError if no port is free.
    """
    return find_ports([wanted])[0]


def find_ports(wanted: Iterable[int]) -> list[int]:
    """find_port for several ports, which are all different.

    Each is held until the last one is found: the operating system may offer a port again that is given back.
    """
    with contextlib.ExitStack() as held:
        return [held.enter_context(probe_port(port)).getsockname()[1] for port in wanted]


def probe_port(wanted: int) -> socket.socket:
    """A socket that listens on `wanted`, or on another port if that is taken. Errors as find_port."""
    for port in (wanted, 0):  # 0: the operating system chooses
        probe = socket.socket()
        allow_restart(probe)
        try:
            probe.bind(("127.0.0.1", port))
            probe.listen()
            return probe
        except OSError:
            probe.close()
    raise ResourceError("No port is free.", "Close programs that listen on ports.")


def refuse_taken_port(port: int) -> None:
    """Raises a ResourceError, which names a free port, if another program listens on this one."""
    free = find_port(port)
    if free != port:
        raise ResourceError(
            f"Port {port} is in use by another program.",
            f"Choose another one, such as {free}, which is free.",
        )


def allow_restart(listener: socket.socket) -> None:
    """Lets a server that has just ended start again on its port, before its old connections have expired."""
    if os.name != "nt":  # on Windows the option would let two programs share a port
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
