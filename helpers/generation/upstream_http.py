"""Another server with an OpenAI-style API, over HTTP: small questions, and answers that stream. No torch.

A thread that waits for the next bytes of an answer sees nothing else. `Cutter` looks instead whether the
answer is still wanted and still in time, and cuts its connection; the upstream then ends the answer, too.
"""

import json
import threading
import time
from collections.abc import Callable, Generator, Iterable, Iterator
from dataclasses import dataclass, field
from itertools import islice
from typing import Any
from urllib.parse import urlsplit

import requests

from helpers.common.arguments import shorten
from helpers.common.bounded import BLOCK, TooLargeError, Watch
from helpers.common.errors import ServerError, UsageError
from helpers.common.http import (
    build_headers,
    build_refusal,
    check_call,
    explain_failure,
    explain_missing_socks,
    open_session,
    refuse_too_large,
    send_request,
)
from helpers.generation.upstream_errors import UPSTREAM_REMEDIES, UpstreamFailed, sort_out

CONNECT_S = 10  # seconds until the upstream takes a connection
ASK_S = 30  # for a small question
WAIT_S = 300  # for the next text of an answer; the first one waits for its turn and for the prompt
END_S = 5  # for the usage, which comes after the answer
POLL_S = 0.1  # between two looks at the running answers
ERROR_BLOCKS = 16  # of BLOCK bytes, that are read of a refusal


@dataclass(frozen=True)
class Upstream:
    """Where the other server is."""

    url: str  # with or without /v1
    api_key: str | None = field(default=None, repr=False)
    wait_s: float = WAIT_S

    @property
    def root(self) -> str:
        """The address without /v1."""
        return self.url.rstrip("/").removesuffix("/v1")

    def check(self) -> None:
        """A UsageError for what cannot be an address."""
        check_call(self.url, self.api_key, self.wait_s)
        if urlsplit(self.url).query:
            problem = f"{shorten(self.url)} is not the address of a server: it has a query."
            raise UsageError(problem, "Write --upstream http://HOST:PORT/v1.")


class Exchange:
    """A streamed answer while it comes."""

    def __init__(self, must_end: Callable[[], bool], seconds: float):
        self.must_end = must_end
        self.watch = Watch(None, is_stream=True)  # by which the connection can be cut
        self.wait(seconds)

    def wait(self, seconds: float) -> None:
        """The next text may take so long."""
        self.deadline = time.monotonic() + seconds
        self.watch.renew()

    @property
    def is_late(self) -> bool:
        """Whether it did not come in time."""
        return time.monotonic() > self.deadline


class Cutter:
    """A thread that cuts the connections of answers that are late or no longer wanted."""

    def __init__(self):
        self.running: set[Exchange] = set()
        self._ended = threading.Event()
        threading.Thread(target=self._work, name="upstream", daemon=True).start()

    def _work(self) -> None:
        while not self._ended.wait(POLL_S):
            for exchange in list(self.running):
                if exchange.must_end() or exchange.is_late:
                    exchange.watch.expire()

    def end(self) -> None:
        """Cuts all connections, and ends the thread."""
        self._ended.set()
        for exchange in list(self.running):
            exchange.watch.expire()


class UpstreamServer:
    """Asks the upstream. Every failure is a KitError, as upstream_errors has them."""

    def __init__(self, upstream: Upstream):
        upstream.check()
        self.upstream = upstream
        self.cutter = Cutter()

    def ask(self, path: str, body: Any = None, form: Any = Any) -> Any:
        """The reply to a POST with this body, or to a GET without one."""
        upstream, method = self.upstream, "GET" if body is None else "POST"
        url = upstream.root + path
        try:
            return send_request(method, url, body, upstream.api_key, ASK_S, UPSTREAM_REMEDIES, form)
        except ServerError as error:
            raise sort_out(error) from None

    def stream(self, path: str, body: dict[str, Any], exchange: Exchange) -> Generator[Any]:
        """The events of a streamed reply, which ends early if the exchange is cut. Close it to cut it."""
        url = self.upstream.root + path
        self.cutter.running.add(exchange)
        try:
            with explain_missing_socks(), open_session(exchange.watch) as session:
                with self._post(session, url, body) as response:
                    refuse_status(response)
                    yield from read_events(read_lines(exchange.watch, response), url)
        except TooLargeError:
            raise sort_out(refuse_too_large(url)) from None
        except (requests.RequestException, ValueError) as error:
            if not exchange.watch.expired:
                failure = explain_failure(error, url, CONNECT_S, UPSTREAM_REMEDIES)
                raise sort_out(failure) if isinstance(failure, ServerError) else failure from None
        finally:
            self.cutter.running.discard(exchange)

    def _post(self, session: requests.Session, url: str, body: dict[str, Any]) -> requests.Response:
        headers = {**build_headers(self.upstream.api_key), "Connection": "close"}
        timeout = (CONNECT_S, None)  # the Cutter ends what takes too long
        return session.post(
            url, json=body, headers=headers, timeout=timeout, stream=True, allow_redirects=False
        )


def refuse_status(response: requests.Response) -> None:
    """Raises an error for a reply that is not a stream."""
    if response.status_code != 200:
        text = b"".join(islice(response.iter_content(BLOCK), ERROR_BLOCKS)).decode(errors="replace")
        error = build_refusal(response.status_code, response.reason, text, UPSTREAM_REMEDIES)
        raise sort_out(error, text)
    kind = response.headers.get("Content-Type", "")
    if not kind.startswith("text/event-stream"):
        problem = f"The upstream does not stream: it replies with {kind[:60] or 'nothing that has a name'}."
        raise UpstreamFailed(problem, UPSTREAM_REMEDIES["not JSON"])


def read_lines(watch: Watch, response: requests.Response) -> Iterator[bytes]:
    """The lines of a reply as they come, without one that has no end.

    Raises what requests raises, and TooLargeError.
    """
    rest: list[bytes] = []
    for block in read_blocks(response):
        first, *others = watch.count(block).split(b"\n")
        rest.append(first)
        for part in others:
            yield b"".join(rest)
            rest = [part]


def read_blocks(response: requests.Response) -> Iterator[bytes]:
    """The bytes of a reply as they come. Raises what requests raises."""
    if getattr(response.raw, "chunked", False):
        yield from response.iter_content(BLOCK)
        return
    while block := read_block(response.raw):
        yield block


def read_block(raw: Any) -> bytes:
    """What has come of a reply without chunks, of which requests itself would wait for a whole block."""
    try:
        return raw.read1(BLOCK)
    except Exception as error:  # urllib3's, when the connection breaks: requests turns its own into this
        raise requests.exceptions.ChunkedEncodingError(error) from error


def read_events(lines: Iterable[bytes], url: str) -> Iterator[Any]:
    """The values of server-sent events, each of them one line of JSON, up to [DONE]."""
    for line in lines:
        if not line.startswith(b"data:"):
            continue  # empty lines, comments, names of events
        data = line.removeprefix(b"data:").strip()
        if data == b"[DONE]":
            return
        try:
            yield json.loads(data)
        except (ValueError, RecursionError):
            problem = f"The upstream: An event of {url} is not JSON."
            raise UpstreamFailed(problem, UPSTREAM_REMEDIES["not JSON"]) from None
