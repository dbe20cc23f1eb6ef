"""One HTTP request with JSON in and JSON out. Every failure becomes a KitError with a remedy."""

import http.client
import json
from collections.abc import Iterator, Mapping
from typing import Any

import requests

from helpers.common.errors import KitError, ServerError, UsageError

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


def send_request(
    method: str,
    url: str,
    body: Any = None,
    api_key: str | None = None,
    timeout: float = 300,
    remedies: Mapping[int | str, str] = REMEDIES,
) -> Any:
    """The JSON that a server replies to `body`, which is sent as JSON. `timeout` is in seconds.

    Raises a UsageError if the address or the body cannot be right, and a ServerError if the server is out of
    reach, refuses the request or replies with anything but JSON.
    """
    try:
        response = requests.request(method, url, json=body, headers=build_headers(api_key), timeout=timeout)
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
    return ServerError(problem, remedies.get(status, "Correct what it names."))


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
