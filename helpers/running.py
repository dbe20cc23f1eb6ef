"""A server in a process of its own: a free port for it, the wait until it answers, and its end in every case."""

import atexit
import os
import shlex
import socket
import subprocess
import sys
import tempfile
import time

import requests

from helpers import KitError


def wait_until_ready(url: str, process: subprocess.Popen | None = None, timeout_s: float = 180, log=None) -> None:
    """Returns when GET `url` is answered. KitError when `process` has ended (with its last line in `log`) or after `timeout_s`."""
    deadline = time.monotonic() + timeout_s
    while time.monotonic() < deadline:
        if process is not None and process.poll() is not None:
            raise KitError(f"The server has ended: {read_last_line(log)}", "Mend what it says, then start it again.")
        try:
            requests.get(url, timeout=2)
            return
        except requests.RequestException:
            time.sleep(0.2)
    raise KitError(f"No answer from {url} in {timeout_s:.0f} s.", "Look at the server's output; a large model needs more time.")


def read_last_line(log) -> str:
    """The last line that a process wrote into the open file `log`."""
    if log is None:
        return "no output kept."
    log.seek(0)
    return (log.read().strip().splitlines() or ["it wrote nothing."])[-1]


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
        raise KitError(f"Port {port} is in use by another program.", f"Choose another one, such as {free}, which is free.")


class RunningServer:
    """A tutorial server in a process of its own; stopped by `stop()`, at the end of a `with` block, and when this Python ends.

    `note` says in words which usual ports were taken; it is empty otherwise. `command` is the line to type in a terminal. `models` are the names
    that it answers to over the OpenAI API, the base last; no key is needed.
    """

    api_key = "none"

    def __init__(self, arguments: list[str], raw_port: int, streaming_port: int, openai_port: int, note: str, models: tuple[str, ...] = ()):
        self.note, self.models = note, models
        self.raw_url, self.openai_url = f"http://127.0.0.1:{raw_port}", f"http://127.0.0.1:{openai_port}/v1"
        self.streaming_url = f"ws://127.0.0.1:{streaming_port}"
        self.command = "python -m helpers.server " + shlex.join(arguments)
        self.waits_for: tuple[str, ...] = ()  # addresses that answer when it is ready
        self.log = tempfile.TemporaryFile("w+", encoding="utf-8")
        command = [sys.executable, "-m", "helpers.server", *arguments, "--stop-with-parent"]
        # A session of its own: Jupyter's interrupt goes to all processes of the kernel's, and is meant for the cell.
        self.process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=self.log, stderr=self.log, start_new_session=True)
        atexit.register(self.stop)

    @property
    def model(self) -> str:
        """The base's name."""
        return self.models[-1]

    def choose_model(self, name: str) -> str:
        """`name` where the server has it, else the base's."""
        return name if name in self.models else self.model

    def runs_here(self) -> bool:
        """Whether it has not ended yet."""
        return self.process.poll() is None

    def stop(self) -> None:
        """Ends the server and waits until it is gone; does nothing when it is."""
        atexit.unregister(self.stop)
        self.process.stdin.close()
        if self.process.poll() is None:
            self.process.terminate()
            try:
                self.process.wait(10)
            except subprocess.TimeoutExpired:
                self.process.kill()
                self.process.wait()

    def wait_until_ready(self) -> None:
        """Returns when the server answers; where it does not, ends it and raises a KitError with its last line."""
        try:
            for url in self.waits_for:
                wait_until_ready(url, self.process, log=self.log)
        except BaseException:
            self.stop()
            raise

    def __enter__(self) -> "RunningServer":
        return self

    def __exit__(self, *error: object) -> None:
        self.stop()
