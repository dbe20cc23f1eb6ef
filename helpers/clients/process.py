"""The tutorial server in a process of its own: started on free ports, waited for, and always stopped."""

import atexit
import os
import shlex
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from typing import IO, Self

import requests

from helpers.common.bounded import Watch
from helpers.common.errors import ServerError, UsageError
from helpers.common.http import check_call, open_session
from helpers.common.values import check_choice, check_kind, check_text, check_whole
from helpers.server.ports import FLAGS, PORTS, find_ports, refuse_taken_port

LOG_BYTES = 1 << 20  # of a server's output, in which its addresses are


class RunningServer:
    """A tutorial server in a process of its own.

    It is stopped by `stop()`, at the end of a `with` block, and when this Python ends.

    Attributes:
        model: the base model's name
        loras: the names of its LoRAs
        raw_url, streaming_url, openai_url: its addresses; only those of the APIs that it serves answer
        command: the line to type in a terminal for the same server
        note: says in words which of the usual ports were taken; "" if none was
        process, log: the process, and the open text file with its output
        api_key: "none": the server needs no key, but the OpenAI client does
    """

    api_key = "none"

    def __init__(
        self,
        model: str,
        ports: Mapping[str, int],
        *,
        loras: Sequence[str] = (),
        extra: Sequence[str] = (),
        note: str = "",
    ):
        """Starts the process and returns at once. Takes the arguments of `launch_server`, and a note."""
        self.model = model
        self.loras = tuple(loras)
        self.note = note
        all_ports = {**PORTS, **ports}
        self.raw_url = f"http://127.0.0.1:{all_ports['raw']}"
        self.streaming_url = f"ws://127.0.0.1:{all_ports['streaming']}"
        self.openai_url = f"http://127.0.0.1:{all_ports['openai']}/v1"
        probes = {"raw": f"{self.raw_url}/api/v1/model", "openai": f"{self.openai_url}/models"}
        self.probes = [url for name, url in probes.items() if name in ports]

        arguments = list_arguments(model, ports, loras, extra)
        self.command = "python -m helpers.server " + shlex.join(arguments)
        self.log = tempfile.TemporaryFile("w+", encoding="utf-8")
        self.process = subprocess.Popen(
            [sys.executable, "-m", "helpers.server", *arguments, "--stop-with-parent"],
            stdin=subprocess.PIPE,  # when it closes, --stop-with-parent ends the server
            stdout=self.log,
            stderr=self.log,
            # Jupyter's interrupt is meant for the cell, but it reaches every process in the kernel's session.
            start_new_session=True,
        )
        atexit.register(self.stop)

    @property
    def models(self) -> tuple[str, ...]:
        """The names that it answers to over the OpenAI API: those of the LoRAs, then the base model's."""
        return (*self.loras, self.model)

    def choose_model(self, name: str) -> str:
        """`name` if the server has a LoRA or model of that name, or else the base model's name."""
        return name if name in self.models else self.model

    def runs_here(self) -> bool:
        """Whether it is still running."""
        return self.process.poll() is None

    def wait_until_ready(self) -> None:
        """Returns when the server answers.

        If it does not start, raises a ServerError with the last line of its output.
        """
        try:
            for url in self.probes:
                wait_until_ready(url, self.process, log=self.log, begun=self.has_its_ports)
        except BaseException:
            self.stop()
            raise

    def has_its_ports(self) -> bool:
        """Whether it has written its addresses. Until then, what answers there may be another server."""
        if not hasattr(os, "pread"):  # on Windows two programs never share a port
            return True
        said = os.pread(self.log.fileno(), LOG_BYTES, 0)  # without moving the place where the server writes
        return any(address in said for address in (b"raw API: ", b"OpenAI API: "))

    def stop(self) -> None:
        """Ends the server and waits until it is gone; does nothing if it has ended already."""
        atexit.unregister(self.stop)
        if self.process.stdin:
            self.process.stdin.close()
        if not self.runs_here():
            return
        self.process.terminate()
        try:
            self.process.wait(10)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self.stop()


def start_server(model: str, loras: Sequence[str] = (), extra: Sequence[str] = ()) -> RunningServer:
    """Starts the tutorial server with both APIs and returns when it answers.

    It listens on the usual ports, 5000, 5005 and 5001, or on free ones in place of those that are taken.
    `extra` is added to its command line. If it does not start, raises a ServerError with the last line of its
    output.
    """
    ports = dict(zip(PORTS, find_ports(PORTS.values()), strict=True))
    server = RunningServer(model, ports, loras=loras, extra=extra, note=describe_taken_ports(ports))
    try:
        server.wait_until_ready()
    except ServerError as error:
        if "cannot be used" not in error.problem or "Port" not in error.problem:
            raise
        # Another program took a port in the seconds before the server did.
        return start_server(model, loras, extra)
    return server


def launch_server(
    model: str, ports: Mapping[str, int], loras: Sequence[str] = (), extra: Sequence[str] = ()
) -> RunningServer:
    """Starts the tutorial server on exactly these ports and returns at once; `wait_until_ready` waits for it.

    The names in `ports` choose the APIs: "raw" and "streaming" together, "openai". Raises a UsageError if
    they choose none or another, or for a port that cannot be one, and refuses a port that is taken.
    """
    check_text("model", model)
    check_kind("ports", ports, Mapping, 'an object such as {"openai": 5001}')
    if not {"raw", "openai"} & ports.keys():
        raise UsageError("No API was chosen.", "Choose the raw API, the OpenAI-style one, or both.")
    for name, port in ports.items():
        check_choice("An API in ports", name, PORTS)
        check_whole(f"The port {name}", port, 1, 65535)
    for port in ports.values():
        refuse_taken_port(port)
    return RunningServer(model, ports, loras=loras, extra=extra)


def list_arguments(
    model: str, ports: Mapping[str, int], loras: Sequence[str], extra: Sequence[str]
) -> list[str]:
    """The command line of the server. Ports that are the usual ones are not named in it."""
    arguments = ["--model", model]
    if loras:
        arguments += ["--lora", *loras]
    if "raw" in ports:
        arguments += ["--api"]
    if "openai" in ports:
        arguments += ["--extensions", "openai"]
    for name, port in ports.items():
        if port != PORTS[name]:
            arguments += [FLAGS[name], str(port)]
    return [*arguments, *extra]


def describe_taken_ports(ports: Mapping[str, int]) -> str:
    """Says which usual ports are taken and which ones the server has in their place; "" if all were free."""
    taken = [str(usual) for name, usual in PORTS.items() if ports[name] != usual]
    if not taken:
        return ""
    return (
        f"In use: port {' and '.join(taken)}. This server listens on {ports['raw']} (raw), "
        f"{ports['streaming']} (raw, streaming) and {ports['openai']} (OpenAI)."
    )


def wait_until_ready(
    url: str,
    process: subprocess.Popen | None = None,
    timeout_s: float = 180,
    log: IO[str] | None = None,
    begun: Callable[[], bool] = lambda: True,
) -> None:
    """Returns when GET `url` is answered, with whatever status, and `begun` returns true.

    Raises a ServerError if `process` ends first (with the last line of its output, from the open file `log`),
    or if there is no answer within `timeout_s` seconds.
    """
    check_call(url, None, timeout_s)
    deadline = time.monotonic() + timeout_s
    while time.monotonic() < deadline:
        if process is not None and process.poll() is not None:
            problem = f"The server has ended: {read_last_line(log)}"
            raise ServerError(problem, "Fix what it reports, then start it again.")
        if begun() and is_answered(url, min(2, timeout_s)):
            return
        time.sleep(0.2)
    problem = f"No answer from {url} in {timeout_s:.0f} s."
    raise ServerError(problem, "Look at the server's output; a large model needs more time.")


def is_answered(url: str, seconds: float) -> bool:
    """Whether GET `url` is answered in this time. What the answer says is not read."""
    watch = Watch(seconds)
    try:
        with watch, open_session(watch) as session:
            session.get(url, timeout=seconds, stream=True, allow_redirects=False)
    except requests.RequestException:
        return False
    except ValueError:  # it redirects to something that is not an address
        return True
    return not watch.expired


def read_last_line(log: IO[str] | None) -> str:
    """The last line that a process wrote into the open file `log`, or a phrase if there is none."""
    if log is None:
        return "its output was not kept."
    log.seek(0)
    lines = log.read().strip().splitlines()
    return lines[-1] if lines else "it wrote nothing."
