"""`python -m helpers.server`: loads a model once and serves it in one or both dialects, with the WebUI's flags.

torch and what stands on it are imported (some seconds) only after the command line has passed every check that needs none of it.
"""

import os
import socket

from helpers.common.errors import KitError


def open_port(host: str, port: int, flag: str) -> socket.socket:
    """A socket bound to the port, so that it is taken before the model is loaded; KitError names the flag when it is in use."""
    listener = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
    if os.name != "nt":  # on Windows it would let two programs share a port
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listener.bind((host, port))
        listener.listen()  # a port that is bound only could be bound once more
    except (OSError, OverflowError) as error:
        listener.close()
        raise KitError(
            f"Port {port} cannot be used ({error}).", f"Choose another one: {flag} PORT."
        ) from None
    return listener


def find_port(wanted: int) -> int:
    """`wanted` when it is free on 127.0.0.1, else a free one (5000 is AirPlay's on a Mac)."""
    for port in (wanted, 0):
        with socket.socket() as probe:
            if os.name != "nt":  # on Windows it would call a taken port free
                probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind(("127.0.0.1", port))
                return probe.getsockname()[1]
            except OSError:
                continue
    raise KitError("No port is free.", "Close programs that listen.")


def refuse_taken_port(port: int) -> None:
    """KitError when something listens on the port already, with one that is free."""
    if (free := find_port(port)) != port:
        raise KitError(
            f"Port {port} is in use by another program.",
            f"Choose another one, such as {free}, which is free.",
        )


RAW_PORT, OPENAI_PORT, STREAMING_PORT = 5000, 5001, 5005


PORTS = {"raw": RAW_PORT, "streaming": STREAMING_PORT, "openai": OPENAI_PORT}


FLAGS = {"raw": "--api-blocking-port", "streaming": "--api-streaming-port", "openai": "--openai-port"}
