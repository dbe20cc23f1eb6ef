"""The application that each dialect starts from: guarded, and with every error in OpenAI's shape.

That includes the errors that FastAPI and starlette raise themselves: a body that cannot be parsed, an unknown
path, a wrong method, a body that is too large, and exceptions that nobody foresaw.
"""

from typing import Any

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from starlette.exceptions import HTTPException
from starlette.routing import Match, Route

from helpers.common.errors import KitError
from helpers.server.errors import ApiError, ErrorReply, make_error_response
from helpers.server.guards import TOO_LARGE, guard_app

# For /openapi.json: what a refused or failed request is answered with.
ERROR_REPLIES: dict[int | str, dict[str, Any]] = {
    "4XX": {"model": ErrorReply, "description": "Refused"},
    "5XX": {"model": ErrorReply, "description": "Failed"},
}


def make_app(title: str, api_key: str | None) -> FastAPI:
    """An application without routes, which asks for `api_key` if there is one."""
    app = FastAPI(title=title, responses=ERROR_REPLIES)
    guard_app(app, api_key)

    @app.exception_handler(Exception)
    @app.exception_handler(KitError)
    @app.exception_handler(ApiError)
    async def refuse(request: Request, error: Exception) -> JSONResponse:
        return make_error_response(error)

    @app.exception_handler(RequestValidationError)
    async def refuse_body(request: Request, error: RequestValidationError) -> JSONResponse:
        content_type = request.headers.get("content-type", "")
        return make_error_response(explain_validation(error, content_type))

    @app.exception_handler(HTTPException)
    async def refuse_request(request: Request, error: HTTPException) -> JSONResponse:
        response = make_error_response(explain_http_error(error, request))
        if error.status_code == 405:
            response.headers["Allow"] = ", ".join(list_methods(app, request))
        return response

    return app


def explain_http_error(error: HTTPException, request: Request) -> ApiError:
    """The refusal for an error that starlette raises: an unknown path, a wrong method, a body too large."""
    if error.status_code == 413:
        return ApiError(413, TOO_LARGE)
    return ApiError(error.status_code, f"{request.method} {request.url.path}: {error.detail}.")


def list_methods(app: FastAPI, request: Request) -> list[str]:
    """The methods that the path takes, sorted. (starlette's Allow header has the first route's only.)"""
    methods: set[str] = set()
    for route in app.routes:
        match, _ = route.matches(request.scope)
        if match is not Match.NONE and isinstance(route, Route):
            methods |= route.methods or set()
    return sorted(methods)


def explain_validation(error: RequestValidationError, content_type: str) -> ApiError:
    """The refusal of a body that does not have the right form; it names the first wrong field."""
    first = error.errors()[0]
    if first["type"] == "json_invalid":
        return ApiError(400, "The body is not valid JSON.", None, "json_invalid")
    path = first["loc"][1:]  # the first part is "body"
    field = ".".join(str(part) for part in path) or "body"
    if field == "body" and "json" not in content_type:
        return ApiError(400, "Send JSON, with the header Content-Type: application/json.", field, "not_json")
    problem = first["msg"].removeprefix("Value error, ")
    return ApiError(400, f"{field}: {problem}.", field, first["type"])
