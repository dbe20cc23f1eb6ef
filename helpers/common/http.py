"""One request to any of the servers: its reply or the messages of its stream, and every failure as a KitError with a remedy.

The servers: the kit's, the WebUI of 2023 (its raw API fails without words) and of today, whatever speaks OpenAI's API.
"""

import json

import requests

from helpers.common.errors import KitError

REMEDIES = {  # by HTTP status; for others the server's words name what to mend
    401: "Give the server's key: api_key, and admin_key for the models and LoRAs of today's WebUI.",
    403: "Look at the port: another program may listen there (on a Mac, AirPlay at 5000).",
    404: "Look at the address; today's WebUI has no raw API (/api/v1), that of 2023 had nothing below /v1/internal.",
    500: "Look at the server's output for the cause; it is often a model that is not loaded, or that cannot be.",
}


def build_refusal(status: int, reason: str, text: str) -> KitError:
    """The KitError for a refusal: the words in the reply's body, in the form of any of these servers, and what to do."""
    try:
        reply = json.loads(text)
        words = reply["error"]["message"] if "error" in reply else reply["detail"]
    except (ValueError, LookupError, TypeError):
        words = (
            "" if text.lstrip().startswith("<") else text
        )  # a page for a browser says no more than the status
    problem = f"The server refused the request: {str(words)[:300] or reason or 'it gave no reason.'} (status {status})"
    return KitError(problem, REMEDIES.get(status, "Mend what it names."))


def send_request(
    method: str, url: str, body: object = None, api_key: str | None = None, timeout: float = 300
) -> object:
    """The JSON that a server replies to a request with JSON. KitError when it is away, refuses, or replies with something else."""
    try:
        response = requests.request(method, url, json=body, headers=build_headers(api_key), timeout=timeout)
    except requests.Timeout:
        raise KitError(
            f"No reply from {url} in {timeout} s.", "Ask for fewer tokens, or give a longer timeout."
        ) from None
    except requests.ConnectionError as error:
        if "Connection aborted" in str(error):  # so urllib3 says that there was one
            raise KitError(
                f"{url} closed the connection without a reply.",
                "The server has ended, or takes no such body: see its output.",
            ) from None
        raise KitError(
            f"No server answers at {url}.", "Start one with --api, and look at its port."
        ) from None
    except requests.RequestException as error:
        raise KitError(
            f"The request to {url} failed: {error}.", "Check the address and the values sent."
        ) from None
    if response.status_code != 200:
        raise build_refusal(response.status_code, response.reason, response.text)
    try:
        return response.json()
    except ValueError:
        problem = f"The reply of {url} is {'no JSON' if response.content else 'empty'}."
        raise KitError(
            problem,
            "The WebUI of 2023 answers so to a wrong or missing field, or without a model: check both.",
        ) from None


def build_headers(api_key: str | None) -> dict[str, str]:
    """The header that carries the key, none without one."""
    return {"Authorization": f"Bearer {api_key}"} if api_key else {}
