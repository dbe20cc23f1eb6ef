"""Real HTTP servers in threads of the test's process, and a tiny model with two LoRAs for them to serve."""

import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from fastapi import FastAPI

from helpers.server.connections import Connections
from helpers.server.service import ModelChoice, Service
from helpers.server.serving import make_server
from support.tiny import make_tiny_adapter, make_tiny_model


def make_tiny_service(home: Path) -> Service:
    """Serves models/tiny with the LoRAs shift (the default) and twist, in float32."""
    model = make_tiny_model(home / "models" / "tiny")
    for seed, name in enumerate(("shift", "twist"), 1):
        make_tiny_adapter(home / "loras" / name, model, seed=seed)
    service = Service(home / "models", home / "loras")
    service.load(ModelChoice("tiny", ("shift", "twist"), dtype="float32"))
    return service


@contextmanager
def serve_app(app: FastAPI, connections: Connections | None = None) -> Iterator[str]:
    """The address of an application that is served inside the block, with the settings of the real server."""
    listener = socket.create_server(("127.0.0.1", 0))
    server = make_server(app, connections)
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]})
    thread.start()
    try:
        while not server.started:
            assert thread.is_alive()
            time.sleep(0.01)
        yield f"http://127.0.0.1:{listener.getsockname()[1]}"
    finally:
        server.should_exit = True
        thread.join()
        listener.close()
