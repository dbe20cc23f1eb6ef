"""One HTTP request with JSON in and JSON out. Every failure becomes a KitError with a remedy.

The proxy rule of the kit is here too: what is on this computer is asked directly, and everything else through
the proxies that the environment names (HTTP_PROXY, HTTPS_PROXY, ALL_PROXY, NO_PROXY). Clients that do not use
`send_request` or `open_session` ask `is_local`.
"""

import contextlib
import http.client
import json
import os
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import requests
from requests.adapters import HTTPAdapter

from helpers.common.addresses import HTTP, find_fault, is_local
from helpers.common.arguments import cut, escape, shorten
from helpers.common.bounded import BLOCK, TooLargeError, Watch
from helpers.common.errors import (
    KitError,
    MissingPackageError,
    ServerAway,
    ServerError,
    ServerLate,
    UsageError,
)
from helpers.common.forms import find_misfit
from helpers.common.values import check_key, check_text, check_wait, find_surrogates, repair

# What the user can do about a failure, one sentence each. The key is the HTTP status that the server replied
# with, or a word for what went wrong with the request. A client that knows more about its server passes a
# copy with better ones.
REMEDIES: dict[int | str, str] = {
    401: "Give the server's API key.",
    403: "Check the address and the port: another program may be listening there.",
    404: "Check the address: the server has nothing there.",
    429: "Wait, then try again.",
    500: "Look at the server's output for the cause.",
    "timeout": "Give a longer timeout, or look at the server's output.",
    "unreachable": "Check the address, and that the server is running.",
    "closed": "The server has ended, or it does not accept this request: look at its output.",
    "not JSON": "Check the address and the values sent.",
}
# What Python raises if a connection was there and broke.
BROKEN = (http.client.HTTPException, ConnectionResetError, ConnectionAbortedError, BrokenPipeError)
MAX_REASON = 300  # characters of a server's own words that an error repeats
CERTIFICATES = ("SSL_CERT_FILE", "SSL_CERT_DIR", "REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE")


class ProxyRule(HTTPAdapter):
    """What sends the requests of a session, those after a redirect too: without a proxy on this computer."""

    def __init__(self, watch: Watch | None = None):
        super().__init__()
        self.watch = watch

    def get_connection_with_tls_context(self, *args: Any, **kwargs: Any) -> Any:
        """The pool of connections, which the watch follows."""
        pool = super().get_connection_with_tls_context(*args, **kwargs)
        if self.watch:
            self.watch.follow_pool(pool)
        return pool

    def send(
        self,
        request: requests.PreparedRequest,
        stream: bool = False,
        timeout: Any = None,
        verify: Any = True,
        cert: Any = None,
        proxies: Mapping[str, str] | None = None,
    ) -> requests.Response:
        """The reply; raises what requests raises."""
        allowed = {} if is_local(request.url or "") else dict(proxies or {})
        return super().send(request, stream, timeout, verify, cert, allowed)


def open_session(watch: Watch | None = None) -> requests.Session:
    """A session of requests that keeps the proxy rule, for one request if there is a watch.

    Use it in a `with` block.
    """
    session = requests.Session()
    for scheme in ("http://", "https://"):
        session.mount(scheme, ProxyRule(watch))
    return session


@contextlib.contextmanager
def explain_missing_socks() -> Iterator[None]:
    """Turns a library's complaint that it lacks a package for the SOCKS proxy into a MissingPackageError."""
    try:
        yield
    except (ImportError, requests.exceptions.InvalidSchema) as error:
        if "SOCKS" not in str(error):
            raise
        problem = "The environment names a SOCKS proxy, and a package that speaks to it is missing."
        raise MissingPackageError(problem, "Install it: pip install pysocks socksio python-socks") from None


def send_request(
    method: str,
    url: str,
    body: Any = None,
    api_key: str | None = None,
    timeout: float = 300,
    remedies: Mapping[int | str, str] = REMEDIES,
    form: Any = Any,
) -> Any:
    """The JSON that a server replies to `body`, which is sent as JSON. `timeout` is in seconds, for it all.

    Raises a UsageError if an argument cannot be right, a ServerError if the server is out of reach, refuses
    the request or replies with anything but JSON of this `form` (helpers.common.forms), and a
    MissingPackageError if a SOCKS proxy cannot be used.
    """
    check_call(url, api_key, timeout)
    refuse_unsendable(url, body)
    watch = Watch(timeout)
    try:
        with explain_missing_socks(), explain_certificates(), watch, open_session(watch) as session:
            headers = build_headers(api_key)
            response = session.request(method, url, json=body, headers=headers, timeout=timeout, stream=True)
            content = watch.read(response.iter_content(BLOCK))
            if watch.expired:  # a reply that is cut in its headers looks like one without a body
                raise requests.Timeout
    except TooLargeError:
        raise refuse_too_large(url) from None
    except (requests.RequestException, ValueError) as error:
        raise explain_failure(error, url, timeout, remedies, watch.expired) from None
    if response.status_code != 200:
        text = content.decode(errors="replace")
        raise build_refusal(response.status_code, response.reason, text, remedies)
    return expect(parse_reply(content, url, remedies), form, url, remedies)


def parse_reply(content: bytes, url: str, remedies: Mapping[int | str, str] = REMEDIES) -> Any:
    """The value in a reply of JSON, without halves of characters; a ServerError if it is not JSON."""
    try:
        return repair(json.loads(content))
    except (ValueError, RecursionError):  # also for a number of thousands of digits
        found = "not JSON" if content else "empty"
        raise ServerError(f"The reply of {url} is {found}.", remedies["not JSON"]) from None


def expect(value: Any, form: Any, url: str, remedies: Mapping[int | str, str] = REMEDIES) -> Any:
    """The value from a reply; a ServerError if it has another form."""
    if misfit := find_misfit(value, form):
        problem = f"The reply of {url} is not what was asked for: {misfit}."
        raise ServerError(problem, remedies["not JSON"])
    return value


def refuse_too_large(url: object) -> ServerError:
    """The error to raise for a reply without an end in sight."""
    problem = f"The reply of {url} was given up: it is packed, or larger than any that was expected."
    return ServerError(problem, "Check the address: another program may be listening there.")


def check_call(
    url: object, api_key: object = None, timeout: object = 1, schemes: Sequence[str] = HTTP
) -> None:
    """A UsageError for an address, a key or a timeout that cannot be right."""
    check_address(url, schemes)
    check_key(api_key)
    check_wait("timeout", timeout)


def check_address(url: object, schemes: Sequence[str] = HTTP) -> None:
    """A UsageError for what is not the address of a server, or has a password in it: errors would show it."""
    check_text("The address", url)
    if "@" in str(url).partition("://")[2].partition("/")[0]:
        raise UsageError(
            "The address has a name or password in it.", "Take it out: a key is given apart from the address."
        )
    if fault := find_fault(str(url), schemes):
        raise UsageError(f"{shorten(url)} is not an address: {fault}.", "Correct it.")


@contextlib.contextmanager
def explain_certificates() -> Iterator[None]:
    """Turns what TLS says of certificates that the environment names wrongly into a UsageError."""
    try:
        yield
    except (requests.RequestException, ConnectionError, TimeoutError):
        raise
    except OSError as error:
        named = [name for name in CERTIFICATES if os.environ.get(name)]
        if not named:
            raise
        problem = (
            f"The certificates that {' or '.join(named)} names cannot be read: {error.strerror or error}."
        )
        raise UsageError(problem, "Correct or unset it.") from None


def refuse_unsendable(url: str, body: Any) -> None:
    """A UsageError for a body that JSON in UTF-8 cannot hold."""
    try:
        written = json.dumps(body, allow_nan=False)
        reason = "a text has half of a character" if "\\ud" in written and find_surrogates(body) else ""
    except (TypeError, ValueError, RecursionError) as error:
        reason = str(error)
    if reason:
        raise UsageError(f"The request to {url} is not valid: {reason}.", "Check the values.")


def build_headers(api_key: str | None) -> dict[str, str]:
    """The header that carries the key; no header if there is no key."""
    return {"Authorization": f"Bearer {api_key}"} if api_key else {}


def explain_failure(
    error: Exception,
    url: str,
    timeout: float,
    remedies: Mapping[int | str, str] = REMEDIES,
    expired: bool = False,
) -> KitError:
    """The error to raise for a request that got no reply, or not in time: a UsageError or a ServerError."""
    causes = list(list_causes(error))
    timed_out = expired or isinstance(error, requests.Timeout)
    if timed_out or any(isinstance(cause, TimeoutError) for cause in causes):
        return ServerLate(f"No reply from {url} in {timeout} s.", remedies["timeout"])
    if any(isinstance(cause, BROKEN) for cause in causes):
        return ServerError(f"{url} closed the connection before it had replied.", remedies["closed"])
    if isinstance(error, requests.ConnectionError):
        return ServerAway(f"No server answers at {url}.", remedies["unreachable"])
    odd_address = isinstance(error, requests.exceptions.InvalidURL | requests.exceptions.InvalidSchema)
    if odd_address or not isinstance(error, requests.RequestException):  # `url` itself was checked
        reason = cut(" ".join(str(error).split()), MAX_REASON)
        return ServerError(
            f"{url} redirects to something that is not an address ({reason}).", remedies["not JSON"]
        )
    if isinstance(error, ValueError | requests.exceptions.InvalidJSONError):  # it was never sent
        return UsageError(f"The request to {url} is not valid: {error}.", "Check the address and the values.")
    return ServerAway(f"The request to {url} failed: {error}.", remedies["unreachable"])


def list_causes(error: BaseException | None) -> Iterator[BaseException]:
    """An error and the errors that it was raised from: requests wraps urllib3's, which wrap Python's own."""
    while error is not None:
        yield error
        error = error.__cause__ or error.__context__


def build_refusal(
    status: int, reason: str, text: str, remedies: Mapping[int | str, str] = REMEDIES
) -> ServerError:
    """The error to raise for a reply that is a refusal, with the server's own words from its body `text`."""
    said = read_reason(text)[:MAX_REASON] or escape(reason or "") or "it gave no reason."
    if status < 400:  # such as a server that is not one of websockets
        return ServerError(f"The server replied with status {status} ({said}).", remedies["not JSON"], status)
    problem = f"The server refused the request: {said} (status {status})"
    return ServerError(problem, remedies.get(status, "Correct what it names."), status)


def read_reason(text: str) -> str:
    """Why a server refused, from the body of its reply: OpenAI's JSON, FastAPI's JSON or plain text.

    Example: "Unauthorized" for '{"detail": "Unauthorized"}'. A page for a browser gives "", because it says
    no more than the status.
    """
    if text.lstrip().startswith("<"):
        return ""
    try:
        reply = json.loads(text)
        text = str(reply["error"]["message"] if "error" in reply else reply["detail"])
    except (ValueError, LookupError, TypeError, RecursionError):
        pass
    return escape(" ".join(text.split()))
