"""What can go wrong between this server and its upstream, in words for a client of this one. No torch."""

import json
from typing import Any

from helpers.common.errors import KitError, ServerAway, ServerError, ServerLate, UsageError
from helpers.common.http import REMEDIES
from helpers.generation.engine import EngineBusy

KEY_VARIABLE = "OPEN_LLM_KIT_UPSTREAM_KEY"
FIX_KEY = f"Start this server again with the upstream's key: --upstream-key-file FILE or {KEY_VARIABLE}."
REFUSALS = (400, 413, 422)  # what is wrong with the request, not with the key or the address
UPSTREAM_REMEDIES: dict[int | str, str] = {
    **REMEDIES,
    401: FIX_KEY,
    403: FIX_KEY,
    404: "Check --upstream and the model's name: the upstream has nothing there.",
    500: "Look at the upstream's output.",
    502: "Look at the upstream's output.",
    503: "Try again when the upstream is ready.",
    "timeout": "Look at the upstream's output, or ask for less.",
    "unreachable": "Start the upstream, or correct --upstream.",
    "closed": "Look at the upstream's output.",
    "not JSON": "Check --upstream: what answers there is not an OpenAI-style API.",
}


class UpstreamFailed(ServerError):
    """The upstream refuses this server's key, has failed, or replies with what is not its API's."""


class UpstreamAway(UpstreamFailed):
    """The upstream is out of reach."""


class UpstreamLate(UpstreamFailed):
    """The upstream takes too long."""


class UpstreamRefused(UsageError):
    """The upstream refuses a client's request; `param` is the field at fault, `code` OpenAI's word for it."""

    def __init__(self, problem: str, remedy: str, param: str | None = None, code: str | None = None):
        super().__init__(problem, remedy)
        self.param, self.code = param, code


def sort_out(error: ServerError, reply: str = "") -> KitError:
    """The error to raise for one that a request to the upstream ended with; `reply` is its body, if known."""
    status = error.status
    problem = f"The upstream: {error.problem}"
    if status in REFUSALS:
        said = read_error(reply)
        param, code = (said.get(name) for name in ("param", "code"))
        param, code = (value if isinstance(value, str) else None for value in (param, code))
        return UpstreamRefused(problem, error.remedy, param, code)
    if status == 429:
        return EngineBusy(problem, "Try again in a few seconds.")
    if isinstance(error, ServerLate):
        return UpstreamLate(problem, error.remedy)
    if isinstance(error, ServerAway):
        return UpstreamAway(problem, error.remedy)
    return UpstreamFailed(problem, error.remedy, status)


def read_error(reply: str) -> dict[str, Any]:
    """The error object of a reply, OpenAI's; {} if it has none."""
    try:
        parsed = json.loads(reply)
    except (ValueError, RecursionError):
        return {}
    error = parsed.get("error", parsed) if isinstance(parsed, dict) else {}
    return error if isinstance(error, dict) else {}
