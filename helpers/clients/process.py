"""A server in a process of its own: a free port for it, the wait until it answers, and its end in every case."""

import atexit
import shlex
import subprocess
import sys
import tempfile
import time

import requests

from helpers.common.errors import KitError
from helpers.server.ports import FLAGS, PORTS, find_port, refuse_taken_port


def wait_until_ready(
    url: str, process: subprocess.Popen | None = None, timeout_s: float = 180, log=None
) -> None:
    """Returns when GET `url` is answered. KitError when `process` has ended (with its last line in `log`) or after `timeout_s`."""
    deadline = time.monotonic() + timeout_s
    while time.monotonic() < deadline:
        if process is not None and process.poll() is not None:
            raise KitError(
                f"The server has ended: {read_last_line(log)}", "Mend what it says, then start it again."
            )
        try:
            requests.get(url, timeout=2)
            return
        except requests.RequestException:
            time.sleep(0.2)
    raise KitError(
        f"No answer from {url} in {timeout_s:.0f} s.",
        "Look at the server's output; a large model needs more time.",
    )


def read_last_line(log) -> str:
    """The last line that a process wrote into the open file `log`."""
    if log is None:
        return "no output kept."
    log.seek(0)
    return (log.read().strip().splitlines() or ["it wrote nothing."])[-1]


class RunningServer:
    """A tutorial server in a process of its own; stopped by `stop()`, at the end of a `with` block, and when this Python ends.

    `note` says in words which usual ports were taken; it is empty otherwise. `command` is the line to type in a terminal. `models` are the names
    that it answers to over the OpenAI API, the base last; no key is needed.
    """

    api_key = "none"

    def __init__(
        self,
        arguments: list[str],
        raw_port: int,
        streaming_port: int,
        openai_port: int,
        note: str,
        models: tuple[str, ...] = (),
    ):
        self.note, self.models = note, models
        self.raw_url, self.openai_url = f"http://127.0.0.1:{raw_port}", f"http://127.0.0.1:{openai_port}/v1"
        self.streaming_url = f"ws://127.0.0.1:{streaming_port}"
        self.command = "python -m helpers.server " + shlex.join(arguments)
        self.waits_for: tuple[str, ...] = ()  # addresses that answer when it is ready
        self.log = tempfile.TemporaryFile("w+", encoding="utf-8")
        command = [sys.executable, "-m", "helpers.server", *arguments, "--stop-with-parent"]
        # A session of its own: Jupyter's interrupt goes to all processes of the kernel's, and is meant for the cell.
        self.process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=self.log, stderr=self.log, start_new_session=True
        )
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


def start_server(
    model: str, loras: list[str] | tuple[str, ...] = (), extra: list[str] | tuple[str, ...] = ()
) -> RunningServer:
    """Starts the tutorial server with both APIs, on 5000, 5005 and 5001 when they are free, and returns when it answers.

    `extra` goes to its command line. Raises KitError with the server's last line when it does not start.
    """
    ports = {name: find_port(port) for name, port in PORTS.items()}
    raw, streaming, other = ports.values()
    taken = " and ".join(str(port) for name, port in PORTS.items() if port != ports[name])
    note = (
        f"In use: port {taken}. This server listens on {raw} (raw), {streaming} (raw, streaming) and {other} (OpenAI)."
        if taken
        else ""
    )
    server = launch_server(model, ports, loras, extra, note)
    server.wait_until_ready()
    return server


def launch_server(
    model: str,
    ports: dict[str, int],
    loras: list[str] | tuple[str, ...] = (),
    extra: list[str] | tuple[str, ...] = (),
    note: str = "",
) -> RunningServer:
    """Starts the tutorial server on these very ports and returns at once; its `wait_until_ready` waits.

    The names in `ports` choose the APIs: "raw" with "streaming", "openai". KitError for a port that is taken, and when there is no API.
    """
    if not {"raw", "openai"} & ports.keys():
        raise KitError("No API was chosen.", "Choose the raw API, the OpenAI-style one, or both.")
    for port in ports.values():
        refuse_taken_port(port)
    arguments = ["--model", model, *(["--lora", *loras] if loras else [])]
    arguments += [
        *(["--api"] if "raw" in ports else []),
        *(["--extensions", "openai"] if "openai" in ports else []),
    ]
    arguments += [
        word for name, port in ports.items() if port != PORTS[name] for word in (FLAGS[name], str(port))
    ]
    raw, streaming, other = ({**PORTS, **ports}[name] for name in PORTS)
    server = RunningServer([*arguments, *extra], raw, streaming, other, note, (*loras, model))
    addresses = {"raw": f"{server.raw_url}/api/v1/model", "openai": f"{server.openai_url}/models"}
    server.waits_for = tuple(url for name, url in addresses.items() if name in ports)
    return server
