"""How errors leave the server: as OpenAI's do, {"error": {"message", "type", "param", "code"}} and a status.

`REFUSALS` says which KitError becomes which status; an exception that nobody foresaw is a 500.
"""

import logging
from dataclasses import dataclass, replace

from fastapi.responses import JSONResponse
from pydantic import BaseModel

from helpers.common.arguments import cut
from helpers.common.errors import KitError
from helpers.generation.engine import EngineBusy, EngineStopping
from helpers.generation.prompts import PromptTooLong, UnknownPromptToken, UnknownToken
from helpers.generation.structure import StructureRefused
from helpers.generation.upstream_errors import UpstreamAway, UpstreamFailed, UpstreamLate, UpstreamRefused
from helpers.server.service import NoModel

LONGEST_MESSAGE = 400  # characters of a message, and of the name of a field
RETRY_S = 2  # value of Retry-After in seconds: one or two answers are finished by then

# OpenAI's code for a status; other statuses have none unless the refusal gives its own.
CODES = {
    401: "invalid_api_key",
    404: "unknown_url",
    405: "method_not_allowed",
    408: "too_slow",
    413: "body_too_large",
    429: "rate_limit_exceeded",
}

# Headers that belong to a status.
HEADERS = {
    401: {"WWW-Authenticate": "Bearer"},
    408: {"Connection": "close"},  # the rest of the body may still come
    429: {"Retry-After": str(RETRY_S)},
    # uvicorn closes the connection after an exception. Unwarned, a client sends its next request into it.
    500: {"Connection": "close"},
    503: {"Retry-After": str(RETRY_S)},
}


@dataclass(frozen=True)
class Refusal:
    """What a KitError becomes over HTTP."""

    status: int
    code: str | None = None  # OpenAI's word for the mistake
    param: str | None = None  # the field at fault


# A subclass that is not listed gets what its nearest base class gets, so KitError is the rule for all others:
# UsageError, NotFoundError, MismatchError and so on are mistakes in the request.
REFUSALS: dict[type, Refusal] = {
    KitError: Refusal(400),
    NoModel: Refusal(503),
    EngineStopping: Refusal(503),
    EngineBusy: Refusal(429),
    PromptTooLong: Refusal(400, code="context_length_exceeded"),
    UnknownToken: Refusal(400, code="invalid_value", param="logit_bias"),
    UnknownPromptToken: Refusal(400, code="invalid_value", param="prompt"),
    StructureRefused: Refusal(400, code="invalid_value"),
    UpstreamFailed: Refusal(502),
    UpstreamAway: Refusal(503),
    UpstreamLate: Refusal(504),
}


class ErrorDetail(BaseModel):
    """What is wrong, with the field at fault and OpenAI's code for it."""

    message: str
    type: str
    param: str | None
    code: str | None


class ErrorReply(BaseModel):
    """The body of every refusal."""

    error: ErrorDetail


class ApiError(Exception):
    """A refusal with its HTTP status; `param` is the field at fault, `code` OpenAI's word for the mistake."""

    def __init__(self, status: int, message: str, param: str | None = None, code: str | None = None):
        super().__init__(cut(message, LONGEST_MESSAGE))
        self.status = status
        self.message = cut(message, LONGEST_MESSAGE)  # it may quote what was sent
        self.param = param and cut(param, LONGEST_MESSAGE)
        self.code = code or CODES.get(status)


def find_refusal(error: KitError) -> Refusal:
    """The entry of REFUSALS for the error's class, or for its nearest base class."""
    return next(REFUSALS[kind] for kind in type(error).__mro__ if kind in REFUSALS)


def as_api_error(error: Exception, param: str | None = None) -> ApiError:
    """The refusal that an exception amounts to; 500 for one that nobody foresaw.

    `param` is the field that a KitError with status 400 is blamed on, unless REFUSALS names another.
    """
    if isinstance(error, ApiError):
        return error
    if not isinstance(error, KitError):
        return ApiError(500, f"The server failed ({type(error).__name__}); see its output for the cause.")
    refusal = find_refusal(error)
    if isinstance(error, UpstreamRefused):
        refusal = replace(refusal, code=error.code, param=error.param)
    field = refusal.param
    if field is None and refusal.status == 400:
        field = param
    return ApiError(refusal.status, str(error), field, refusal.code)


def log_unforeseen(error: Exception) -> None:
    """Logs an error that ends a stream, with its traceback, unless it is one for the client."""
    if not isinstance(error, ApiError | KitError):
        logging.getLogger("uvicorn.error").error("A streamed answer failed", exc_info=error)


def describe_error(error: Exception) -> dict[str, str | None]:
    """OpenAI's error object."""
    refusal = as_api_error(error)
    if refusal.status >= 500:
        kind = "server_error"
    elif refusal.status == 429:
        kind = "requests"
    else:
        kind = "invalid_request_error"
    detail = ErrorDetail(message=refusal.message, type=kind, param=refusal.param, code=refusal.code)
    return detail.model_dump()


def make_error_response(error: Exception) -> JSONResponse:
    """A whole reply with the error object, its status and the headers that belong to it."""
    status = as_api_error(error).status
    return JSONResponse({"error": describe_error(error)}, status_code=status, headers=HEADERS.get(status))
