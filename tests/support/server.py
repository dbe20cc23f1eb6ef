"""Real HTTP servers in threads of the test's own process, and a tiny model with two LoRAs for them to serve."""

import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import uvicorn

from helpers.server.service import Choice, Service
from support.tiny import make_tiny_adapter, make_tiny_model


def make_tiny_service(home: Path) -> Service:
    """Serves models/tiny with the LoRAs shift (the default) and twist, in float32."""
    model = make_tiny_model(home / "models" / "tiny")
    for seed, name in enumerate(("shift", "twist"), 1):
        make_tiny_adapter(home / "loras" / name, model, seed=seed)
    service = Service(home / "models", home / "loras")
    service.load(Choice("tiny", ("shift", "twist"), dtype="float32"))
    return service


@contextmanager
def serve_app(app) -> Iterator[str]:
    """The address of an application that is served inside the block."""
    listener = socket.create_server(("127.0.0.1", 0))
    server = uvicorn.Server(uvicorn.Config(app, log_level="warning", timeout_graceful_shutdown=2))
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
