"""The websockets of the raw API: the messages of one streamed answer, and every failure explained."""

import contextlib
import json
from collections.abc import Iterator
from typing import Any, TypedDict

from websockets.exceptions import ConnectionClosed, InvalidStatus, WebSocketException
from websockets.sync.client import connect

from helpers.clients.remedies import SERVER_REMEDIES
from helpers.common.addresses import HTTP, WEBSOCKETS, is_local
from helpers.common.bounded import LARGEST_REPLY
from helpers.common.errors import ServerError
from helpers.common.forms import find_misfit
from helpers.common.http import (
    build_headers,
    build_refusal,
    check_call,
    explain_certificates,
    explain_missing_socks,
    refuse_unsendable,
)
from helpers.common.values import repair
from helpers.server.ports import STREAMING_PORT


class Reason(TypedDict):
    """Why a request is refused."""

    message: str


class Event(TypedDict):
    """A message of the server."""

    event: str


class Failure(TypedDict):
    """The message of a request that is refused."""

    error: Reason


def stream_events(
    url: str, body: dict[str, Any], api_key: str | None, timeout: float, form: Any = dict
) -> Iterator[dict[str, Any]]:
    """The messages of one request over the raw API's websocket, up to the one that ends the answer.

    `timeout` is in seconds, for the connection and for each message; `form` is that of the messages with
    text. Raises a ServerError if the server is out of reach, refuses the request, sends something else, or
    closes the connection before the answer is complete.
    """
    check_call(url, api_key, timeout, (*WEBSOCKETS, *HTTP))  # what answers over HTTP is named below
    refuse_unsendable(url, body)
    with (
        explain_missing_socks(),
        explain_certificates(),
        explain_stream_errors(url, timeout),
        connect(
            url,
            proxy=None if is_local(url) else True,  # True: the environment's
            additional_headers=build_headers(api_key),
            max_size=LARGEST_REPLY,
            open_timeout=timeout,
            close_timeout=2,
            ping_interval=None,  # a server may not answer pings while it computes
        ) as connection,
    ):
        connection.send(json.dumps(body))
        while (message := read_message(connection.recv(timeout), form))["event"] == "text_stream":
            yield message
        if message["event"] != "stream_end":
            problem = f"The server refused the request: {message['error']['message']}"
            raise ServerError(problem, "Correct what it names.")


def read_message(text: str | bytes, form: Any) -> dict[str, Any]:
    """A message of the server; a ValueError for anything else."""
    message = repair(json.loads(text))
    misfit = find_misfit(message, Event)
    if not misfit and message["event"] != "stream_end":
        misfit = find_misfit(message, form if message["event"] == "text_stream" else Failure)
    if misfit:
        raise ValueError(misfit)
    return message


@contextlib.contextmanager
def explain_stream_errors(url: str, timeout: float) -> Iterator[None]:
    """Turns what can go wrong with a websocket inside the block into a ServerError."""
    try:
        yield
    except InvalidStatus as error:
        response = error.response
        text = bytes(response.body or b"").decode(errors="replace")
        raise build_refusal(response.status_code, response.reason_phrase, text, SERVER_REMEDIES) from None
    except ConnectionClosed as error:
        problem = f"{url} closed the connection before the end of the answer ({describe_close(error)})."
        remedy = "Check the path and the fields (the WebUI of 2023 says no more), and the server's output."
        raise ServerError(problem, remedy) from None
    except TimeoutError:
        raise ServerError(f"No reply from {url} in {timeout} s.", SERVER_REMEDIES["timeout"]) from None
    except OSError:
        remedy = "Start one with --api, and check its streaming port."
        raise ServerError(f"No server answers at {url}.", remedy) from None
    except (WebSocketException, ValueError, RecursionError) as error:
        remedy = f"Give the address of the streaming port, such as ws://127.0.0.1:{STREAMING_PORT}."
        raise ServerError(f"{url} is not a stream of the raw API ({error}).", remedy) from None


def describe_close(error: ConnectionClosed) -> str:
    """How the server closed the connection: "code 1011" and its reason, or "without a word"."""
    if error.rcvd is None:
        return "without a word"
    return f"code {error.rcvd.code} {error.rcvd.reason}".strip()
