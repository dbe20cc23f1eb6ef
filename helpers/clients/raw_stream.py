"""One request to any of the servers: its reply or the messages of its stream, and every failure as a KitError with a remedy.

The servers: the kit's, the WebUI of 2023 (its raw API fails without words) and of today, whatever speaks OpenAI's API.
"""

import json
from collections.abc import Iterator

from websockets.exceptions import ConnectionClosed, InvalidStatus, WebSocketException
from websockets.sync.client import connect

from helpers.common.errors import KitError
from helpers.common.http import build_headers, build_refusal


def stream_events(url: str, body: dict, api_key: str | None, timeout: float) -> Iterator[dict]:
    """The messages of one request over the raw API's websocket, until the one that ends the answer; `timeout` in seconds for each.

    KitError when the server is away, refuses, or closes the connection before that.
    """
    limits = {
        "max_size": None,
        "close_timeout": 2,
        "ping_interval": None,
    }  # a server may answer no ping while it computes
    try:
        with connect(url, additional_headers=build_headers(api_key), **limits) as connection:
            connection.send(json.dumps(body))
            while (message := json.loads(connection.recv(timeout)))["event"] == "text_stream":
                yield message
            if message["event"] != "stream_end":
                raise KitError(
                    f"The server refused the request: {message['error']['message']}", "Mend what it names."
                )
    except InvalidStatus as error:
        raise build_refusal(
            error.response.status_code, error.response.reason_phrase, (error.response.body or b"").decode()
        ) from None
    except ConnectionClosed as error:
        close = error.rcvd and f"code {error.rcvd.code} {error.rcvd.reason}".strip()
        remedy = "The WebUI of 2023 does so for a wrong or missing field or path, any server when it fails: check them, and its output."
        raise KitError(
            f"{url} closed the connection before the answer's end ({close or 'without a word'}).", remedy
        ) from None
    except TimeoutError:
        raise KitError(
            f"No reply from {url} in {timeout} s.", "Give a longer timeout, or look at the server's output."
        ) from None
    except OSError:
        raise KitError(
            f"No server answers at {url}.", "Start one with --api, and look at its streaming port."
        ) from None
    except (WebSocketException, ValueError, LookupError, TypeError) as error:
        raise KitError(
            f"{url} is no stream of the raw API ({error}).",
            "Give the streaming port's address: ws://127.0.0.1:5005.",
        ) from None
