"""Serves several applications at the same time, each on its socket, until a signal ends them all together."""

import asyncio
import contextlib
import signal
import socket
from concurrent.futures import ThreadPoolExecutor, wait

import uvicorn
from fastapi import FastAPI

from helpers.server.guards import BODY_LIMIT
from helpers.server.service import Service

GRACE_S = 3  # seconds that running answers get when the server stops; after Ctrl-C nobody waits longer
POLL_S = 0.5  # seconds between looks for a signal, where a signal does not interrupt a wait (Windows)


class ServerGroup:
    """uvicorn servers in one event loop, and the service whose engine they ask."""

    def __init__(self, apps: list[FastAPI], listeners: list[socket.socket], service: Service):
        self.servers = [make_server(app) for app in apps]
        self.listeners = listeners
        self.service = service
        self.loop: asyncio.AbstractEventLoop | None = None

    async def run(self) -> None:
        """Serves until `stop` is called."""
        self.loop = asyncio.get_running_loop()
        serving = []
        for server, listener in zip(self.servers, self.listeners, strict=True):
            serving.append(server.serve(sockets=[listener]))
        await asyncio.gather(*serving)

    def stop(self, *_: object) -> None:
        """Ends the servers, from any thread; as a signal's handler it is given the signal.

        Running answers get GRACE_S to end, then they are sent as far as they have come; a second call sends
        them at once.
        """
        called_again = self.servers[0].should_exit
        for server in self.servers:
            server.should_exit = True
        delay = 0 if called_again else GRACE_S
        if self.loop:
            with contextlib.suppress(RuntimeError):  # the loop has just ended
                self.loop.call_soon_threadsafe(self.loop.call_later, delay, self.service.unload)


def make_server(app: FastAPI) -> uvicorn.Server:
    """A uvicorn server with the kit's settings."""
    config = uvicorn.Config(
        app,
        log_level="warning",
        access_log=False,
        timeout_graceful_shutdown=GRACE_S + 4,  # longer than answers get: uvicorn would cut connections off
        ws_ping_interval=None,  # as in 2023: a client that waits in a notebook answers no pings
        ws_max_size=BODY_LIMIT,
    )
    return uvicorn.Server(config)


def serve(apps: list[FastAPI], listeners: list[socket.socket], service: Service) -> None:
    """Serves every application on its socket until SIGINT or SIGTERM. Only the main thread may call it.

    The servers run in another thread: there uvicorn installs no signal handlers of its own, which would end
    only one of them (uvicorn 0.13: "Skip installation of signal handlers when not in the main thread").
    """
    group = ServerGroup(apps, listeners, service)
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, group.stop)
    with ThreadPoolExecutor(1, thread_name_prefix="servers") as pool:
        job = pool.submit(asyncio.run, group.run())
        while not job.done():
            wait([job], timeout=POLL_S)
    job.result()  # raises what the servers failed with
