"""The calls a user makes: the raw API, the OpenAI client, starting a server and waiting until it answers."""

import atexit
import html
import os
import shlex
import socket
import subprocess
import sys
import tempfile
import time

import openai
import requests

from helpers import KitError

# The request of the 2023 tutorial's chat example, with the values it sent. Names: text-generation-webui's raw API, August 2023.
DEFAULT_CHAT_PARAMS = {
    "max_new_tokens": 200,
    "history": {"internal": [], "visible": []},
    "mode": "instruct",
    "regenerate": False,
    "_continue": False,
    "do_sample": True,
    "temperature": 0.5,
    "top_p": 1,
    "typical_p": 1,
    "repetition_penalty": 1.1,
    "top_k": 0,
    "seed": -1,
    "stopping_strings": [],
}  # fmt: skip

RAW_PORT, OPENAI_PORT = 5000, 5001


def chat_raw(user_input: str, history: dict | None = None, url: str = f"http://127.0.0.1:{RAW_PORT}", timeout: float = 300, **params) -> dict:
    """One turn of a chat over the raw API; returns the history {"internal": [[user, reply], ...], "visible": ...} with the new turn.

    `params` replace values of DEFAULT_CHAT_PARAMS. Raises KitError when the server is away or refuses the request.
    """
    body = {**DEFAULT_CHAT_PARAMS, **params, "user_input": user_input}
    if history is not None:
        body["history"] = history
    try:
        response = requests.post(f"{url}/api/v1/chat", json=body, timeout=timeout)
    except requests.Timeout:
        raise KitError(f"No reply from {url} in {timeout} s.", "Ask for fewer tokens, or give a longer timeout.") from None
    except requests.ConnectionError:
        raise KitError(f"No server answers at {url}.", "Start one with --api, and look at its port.") from None
    if response.status_code != 200:
        raise KitError(f"The server refused the request: {response.text[:300]}", "Mend the field that it names.")
    try:
        return response.json()["results"][0]["history"]
    except (ValueError, LookupError, TypeError):
        raise KitError(f"The reply of {url} has no history in it.", "The WebUI of 2023 answered so to a wrong field: check the parameters.") from None


def last_reply(history: dict) -> str:
    """The newest reply as plain text, read the way clients of 2023 did: the visible one, its HTML escapes undone."""
    return html.unescape(history["visible"][-1][1])


def make_openai_client(base_url: str = f"http://127.0.0.1:{OPENAI_PORT}/v1", api_key: str = "none") -> openai.OpenAI:
    """The official client, pointed at a server of one's own; such a server asks for no key unless it was started with one."""
    return openai.OpenAI(base_url=base_url, api_key=api_key, max_retries=0)


def ask_openai(client: openai.OpenAI, messages: list[dict[str, str]], model: str = "x", **params) -> str:
    """The reply's text to messages, over the OpenAI API. KitError when the server is away or refuses."""
    try:
        return client.chat.completions.create(model=model, messages=messages, **params).choices[0].message.content
    except openai.APIConnectionError:
        raise KitError(f"No server answers at {client.base_url}.", "Start one with --extensions openai, and look at its port.") from None
    except openai.APIStatusError as error:
        raise KitError(f"The server refused the request: {error.message}", "Mend what it names.") from None


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


class RunningServer:
    """A tutorial server in a process of its own; stopped by `stop()`, at the end of a `with` block, and when this Python ends.

    `note` says in words when 5000 or 5001 was taken; it is empty otherwise. `command` is the line to type in a terminal.
    """

    def __init__(self, arguments: list[str], raw_port: int, openai_port: int):
        self.raw_url, self.openai_url = f"http://127.0.0.1:{raw_port}", f"http://127.0.0.1:{openai_port}/v1"
        taken = [str(wanted) for wanted, got in ((RAW_PORT, raw_port), (OPENAI_PORT, openai_port)) if wanted != got]
        self.note = f"In use: port {' and '.join(taken)}. This server listens on {raw_port} (raw) and {openai_port} (OpenAI)." if taken else ""
        self.command = "python -m helpers.server " + shlex.join(arguments)
        self.log = tempfile.TemporaryFile("w+", encoding="utf-8")
        command = [sys.executable, "-m", "helpers.server", *arguments, "--stop-with-parent"]
        # A session of its own: Jupyter's interrupt goes to all processes of the kernel's, and is meant for the cell.
        self.process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=self.log, stderr=self.log, start_new_session=True)
        atexit.register(self.stop)

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

    def __enter__(self) -> "RunningServer":
        return self

    def __exit__(self, *error: object) -> None:
        self.stop()


def start_server(model: str, loras: list[str] | tuple[str, ...] = (), extra: list[str] | tuple[str, ...] = ()) -> RunningServer:
    """Starts the tutorial server with both APIs, on 5000 and 5001 when they are free, and returns when it answers.

    `extra` goes to its command line. Raises KitError with the server's last line when it does not start.
    """
    raw_port, openai_port = find_port(RAW_PORT), find_port(OPENAI_PORT)
    arguments = ["--model", model, *(["--lora", *loras] if loras else []), "--api", "--extensions", "openai"]
    if raw_port != RAW_PORT:
        arguments += ["--api-blocking-port", str(raw_port)]
    if openai_port != OPENAI_PORT:
        arguments += ["--openai-port", str(openai_port)]
    server = RunningServer([*arguments, *extra], raw_port, openai_port)
    try:
        wait_until_ready(f"{server.raw_url}/api/v1/model", server.process, log=server.log)
        wait_until_ready(f"{server.openai_url}/models", server.process, log=server.log)
    except BaseException:
        server.stop()
        raise
    return server
