"""One HTTP request with JSON in and JSON out. Every failure becomes a KitError with a remedy.

The proxy rule of the kit is here too: what is on this computer is asked directly, and everything else through
the proxies that the environment names (HTTP_PROXY, HTTPS_PROXY, ALL_PROXY, NO_PROXY). Clients that do not use
`send_request` or `open_session` ask `is_local`.
"""

import contextlib
import http.client
import ipaddress
import json
import os
from collections.abc import Iterator, Mapping
from typing import Any
from urllib.parse import urlsplit
from urllib.request import getproxies_environment

import requests
from requests.adapters import HTTPAdapter

from helpers.common.errors import KitError, MissingPackageError, ServerError, UsageError

# What the user can do about a failure, one sentence each. The key is the HTTP status that the server replied
# with, or a word for what went wrong with the request. A client that knows more about its server passes a
# copy with better ones.
REMEDIES: dict[int | str, str] = {
    401: "Give the server's API key.",
    403: "Check the address and the port: another program may be listening there.",
    404: "Check the address: the server has nothing there.",
    500: "Look at the server's output for the cause.",
    "timeout": "Give a longer timeout, or look at the server's output.",
    "unreachable": "Check the address, and that the server is running.",
    "closed": "The server has ended, or it does not accept this request: look at its output.",
    "not JSON": "Check the address and the values sent.",
}
# What Python raises if a connection was there and broke.
BROKEN = (http.client.HTTPException, ConnectionResetError, ConnectionAbortedError, BrokenPipeError)
MAX_REASON = 300  # characters of a server's own words that an error repeats
# This computer, as NO_PROXY names it. Not every library understands a network: hence its usual address, too.
LOCAL_NAMES = ("localhost", "127.0.0.1", "127.0.0.0/8", "::1", "0.0.0.0")


def is_local(url: str) -> bool:
    """True if the address is on this computer: localhost, 127.0.0.0/8, ::1 or 0.0.0.0."""
    try:
        host = urlsplit(url).hostname or ""
    except ValueError:  # a bracket without its counterpart
        return False
    if host == "localhost":
        return True
    with contextlib.suppress(ValueError):  # the host is a name
        address = ipaddress.ip_address(host)
        return address.is_loopback or address.is_unspecified
    return False


class ProxyRule(HTTPAdapter):
    """What sends the requests of a session, those after a redirect too: without a proxy on this computer."""

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


def open_session() -> requests.Session:
    """A session of requests that keeps the proxy rule. Use it in a `with` block."""
    session = requests.Session()
    for scheme in ("http://", "https://"):
        session.mount(scheme, ProxyRule())
    return session


def spare_localhost() -> None:
    """Adds this computer to NO_PROXY, for what reads the environment: libraries, lessons, child processes.

    Without a proxy in the environment it does nothing, because NO_PROXY alone would make Python ignore the
    proxies in the settings of macOS and Windows.
    """
    proxies = getproxies_environment()
    if not proxies.keys() - {"no"}:
        return
    names = [name.strip() for name in proxies.get("no", "").split(",") if name.strip()]
    names += [name for name in LOCAL_NAMES if name not in names]
    os.environ["NO_PROXY"] = os.environ["no_proxy"] = ",".join(names)


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
) -> Any:
    """The JSON that a server replies to `body`, which is sent as JSON. `timeout` is in seconds.

    Raises a UsageError if the address or the body cannot be right, a ServerError if the server is out of
    reach, refuses the request or replies with anything but JSON, and a MissingPackageError if a SOCKS proxy
    cannot be used.
    """
    try:
        with explain_missing_socks(), open_session() as session:
            headers = build_headers(api_key)
            response = session.request(method, url, json=body, headers=headers, timeout=timeout)
    except requests.RequestException as error:
        raise explain_failure(error, url, timeout, remedies) from None
    if response.status_code != 200:
        raise build_refusal(response.status_code, response.reason, response.text, remedies)
    try:
        return response.json()
    except ValueError:
        found = "not JSON" if response.content else "empty"
        raise ServerError(f"The reply of {url} is {found}.", remedies["not JSON"]) from None


def build_headers(api_key: str | None) -> dict[str, str]:
    """The header that carries the key; no header if there is no key."""
    return {"Authorization": f"Bearer {api_key}"} if api_key else {}


def explain_failure(
    error: requests.RequestException, url: str, timeout: float, remedies: Mapping[int | str, str] = REMEDIES
) -> KitError:
    """The error to raise for a request that got no reply: a UsageError or a ServerError."""
    causes = list(list_causes(error))
    if isinstance(error, requests.Timeout) or any(isinstance(cause, TimeoutError) for cause in causes):
        return ServerError(f"No reply from {url} in {timeout} s.", remedies["timeout"])
    if any(isinstance(cause, BROKEN) for cause in causes):
        return ServerError(f"{url} closed the connection before it had replied.", remedies["closed"])
    if isinstance(error, requests.ConnectionError):
        return ServerError(f"No server answers at {url}.", remedies["unreachable"])
    if isinstance(error, ValueError | requests.exceptions.InvalidJSONError):  # it was never sent
        return UsageError(f"The request to {url} is not valid: {error}.", "Check the address and the values.")
    return ServerError(f"The request to {url} failed: {error}.", remedies["unreachable"])


def list_causes(error: BaseException | None) -> Iterator[BaseException]:
    """An error and the errors that it was raised from: requests wraps urllib3's, which wrap Python's own."""
    while error is not None:
        yield error
        error = error.__cause__ or error.__context__


def build_refusal(
    status: int, reason: str, text: str, remedies: Mapping[int | str, str] = REMEDIES
) -> ServerError:
    """The error to raise for a reply that is a refusal, with the server's own words from its body `text`."""
    said = read_reason(text)[:MAX_REASON] or reason or "it gave no reason."
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
        return str(reply["error"]["message"] if "error" in reply else reply["detail"])
    except (ValueError, LookupError, TypeError):
        return text
