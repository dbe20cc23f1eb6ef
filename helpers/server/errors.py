"""Refusals in OpenAI's shape: {"error": {"message", "type", "param", "code"}}, with its HTTP status."""

from fastapi.responses import JSONResponse
from pydantic import BaseModel

from helpers.common.errors import KitError
from helpers.generation.engine import EngineBusy, EngineStopping, PromptTooLong, UnknownToken
from helpers.server.service import NoModel

RETRY_S = 2  # what Retry-After says: an answer or two are done by then


CODES = {
    401: "invalid_api_key",
    404: "unknown_url",
    405: "method_not_allowed",
    413: "body_too_large",
    429: "rate_limit_exceeded",
}


HEADERS = {
    401: {"WWW-Authenticate": "Bearer"},
    429: {"Retry-After": str(RETRY_S)},
    500: {
        "Connection": "close"
    },  # uvicorn closes it after an exception: a client that is not told sends its next request into it
    503: {"Retry-After": str(RETRY_S)},
}


# (status, OpenAI's word, field at fault) of the KitErrors that are not simply a 400
KNOWN = {
    EngineStopping: (503, None, None),
    NoModel: (503, None, None),
    EngineBusy: (429, None, None),
    PromptTooLong: (400, "context_length_exceeded", None),
    UnknownToken: (400, "invalid_value", "logit_bias"),
}


class ErrorDetail(BaseModel):
    """What is wrong, with the field at fault and OpenAI's word for it."""

    message: str
    type: str
    param: str | None
    code: str | None


class ErrorReply(BaseModel):
    """The body of every refusal."""

    error: ErrorDetail


class ApiError(Exception):
    """A refusal with its HTTP status; `param` is the field at fault, `code` OpenAI's word for it."""

    def __init__(self, status: int, message: str, param: str | None = None, code: str | None = None):
        super().__init__(message)
        self.status, self.message, self.param, self.code = status, message, param, code or CODES.get(status)


def as_api_error(error: Exception, param: str | None = None) -> ApiError:
    """The refusal that an exception amounts to; 500 for one that nobody foresaw. `param` is the field that a KitError is put down to."""
    if isinstance(error, ApiError):
        return error
    if isinstance(error, KitError):
        status, code, field = KNOWN.get(type(error), (400, None, None))
        return ApiError(status, str(error), field or (param if status == 400 else None), code)
    return ApiError(500, f"The server failed ({type(error).__name__}); its output says where.")


def describe_error(error: Exception) -> dict[str, str | None]:
    """OpenAI's error object."""
    refusal = as_api_error(error)
    kind = (
        "server_error"
        if refusal.status >= 500
        else "requests"
        if refusal.status == 429
        else "invalid_request_error"
    )
    return ErrorDetail(
        message=refusal.message, type=kind, param=refusal.param, code=refusal.code
    ).model_dump()


def error_response(error: Exception) -> JSONResponse:
    """A whole reply with that object, and the header that its status asks for."""
    status = as_api_error(error).status
    return JSONResponse({"error": describe_error(error)}, status_code=status, headers=HEADERS.get(status))
