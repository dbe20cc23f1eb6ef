"""Serves several applications at the same time, each on its socket, until a signal ends them all together."""

import asyncio
import os
import signal
import socket
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor, wait

import uvicorn
from fastapi import FastAPI

from helpers.common.command import interrupted
from helpers.server.connections import Connections, LimitedConfig
from helpers.server.request_bodies import BODY_LIMIT
from helpers.server.service import Service

# Seconds, the others from the signal that ends the server; after Ctrl-C nobody waits longer.
GRACE_S = 3  # answers may go on to their end; then they end at their next token
GIVE_UP_S = 2  # later, answers that have not ended, because a long prompt is being read, are given up
CUT_S = 6  # connections that are still open are cut off
END_S = 8  # the process ends, whatever its threads still do; the watchdog ends one that cannot do even that
KEEP_ALIVE_S = 10  # a connection may be without a request; longer than httpx, which then opens a new one
POLL_S = 0.5  # seconds between looks for a signal, where a signal does not interrupt a wait (Windows)


class ServerGroup:
    """uvicorn servers in one event loop, and the service whose engine they ask."""

    def __init__(self, apps: list[FastAPI], listeners: list[socket.socket], service: Service):
        connections = Connections()
        self.servers = [make_server(app, connections) for app in apps]
        self.listeners = listeners
        self.service = service
        self._called_again = threading.Event()

    async def run(self) -> None:
        """Serves until `stop` is called."""
        serving = []
        for server, listener in zip(self.servers, self.listeners, strict=True):
            serving.append(server.serve(sockets=[listener]))
        await asyncio.gather(*serving)

    def stop(self, *_: object) -> None:
        """Ends the servers, from any thread; as a signal's handler it is given the signal.

        Running answers get GRACE_S to end, then they are sent as far as they have come; a second call sends
        them at once.
        """
        if self.servers[0].should_exit:
            self._called_again.set()
            return
        for server in self.servers:
            server.should_exit = True
        threading.Thread(target=self._end_answers, daemon=True).start()

    def _end_answers(self) -> None:
        """Not in the event loop, which goes on, and without the service's lock, which a load holds."""
        self._called_again.wait(GRACE_S)
        giving_up = threading.Timer(GIVE_UP_S, self.service.abandon)  # while `stop` waits for the engine
        giving_up.daemon = True
        giving_up.start()
        self.service.stop()


def make_server(app: FastAPI, connections: Connections | None = None) -> uvicorn.Server:
    """A uvicorn server with the kit's settings; `connections` is shared with servers of other ports."""
    config = LimitedConfig(
        app,
        connections or Connections(),
        log_level="warning",
        use_colors=None if sys.stdout else False,  # None asks stdout, which may be closed
        access_log=False,
        timeout_graceful_shutdown=CUT_S,
        timeout_keep_alive=KEEP_ALIVE_S,
        ws_ping_interval=None,  # as in 2023: a client that waits in a notebook answers no pings
        ws_max_size=BODY_LIMIT,
    )
    return uvicorn.Server(config)


def end_process(seconds: float) -> None:
    """Ends this process with exit code 0 after some seconds, unless it ends by itself before."""

    def end() -> None:
        time.sleep(seconds)
        os._exit(0)

    threading.Thread(target=end, daemon=True).start()


def serve(apps: list[FastAPI], listeners: list[socket.socket], service: Service) -> None:
    """Serves every application on its socket until SIGINT or SIGTERM. Only the main thread may call it.

    Raises KeyboardInterrupt if Ctrl-C was pressed before and something has caught that.
    The servers run in another thread: there uvicorn installs no signal handlers of its own, which would end
    only one of them (uvicorn 0.13: "Skip installation of signal handlers when not in the main thread").
    """
    group = ServerGroup(apps, listeners, service)

    def stop(*_: object) -> None:
        group.stop()
        end_process(END_S)

    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, stop)
    if interrupted.is_set():
        raise KeyboardInterrupt
    with ThreadPoolExecutor(1, thread_name_prefix="servers") as pool:
        job = pool.submit(asyncio.run, group.run())
        while not job.done():
            wait([job], timeout=POLL_S)
    job.result()  # raises what the servers failed with
