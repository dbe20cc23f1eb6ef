"""The application that each dialect starts from: guarded, and with every error in OpenAI's shape.

That includes the errors that FastAPI and starlette raise themselves: a body that cannot be parsed, an unknown
path, a wrong method, and exceptions that nobody foresaw.
"""

import re
from collections.abc import Iterable
from typing import Any

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from starlette.exceptions import HTTPException
from starlette.routing import Match, Route

from helpers.common.errors import KitError
from helpers.server.connections import HEALTH
from helpers.server.errors import ApiError, ErrorReply, make_error_response
from helpers.server.guards import guard_app

# For /openapi.json: what a refused or failed request is answered with.
ERROR_REPLIES: dict[int | str, dict[str, Any]] = {
    "4XX": {"model": ErrorReply, "description": "Refused"},
    "5XX": {"model": ErrorReply, "description": "Failed"},
}


def make_app(title: str, api_key: str | None, open_paths: Iterable[str] = ()) -> FastAPI:
    """An application with GET /health alone.

    It asks for `api_key`, if there is one, except for /health and `open_paths`.
    """
    app = FastAPI(title=title, responses=ERROR_REPLIES)
    guard_app(app, api_key, {HEALTH, *open_paths})

    @app.exception_handler(Exception)
    @app.exception_handler(KitError)
    @app.exception_handler(ApiError)
    async def refuse(request: Request, error: Exception) -> JSONResponse:
        return make_error_response(error)

    @app.exception_handler(RequestValidationError)
    async def refuse_body(request: Request, error: RequestValidationError) -> JSONResponse:
        return make_error_response(explain_validation(error))

    @app.exception_handler(HTTPException)
    async def refuse_request(request: Request, error: HTTPException) -> JSONResponse:
        response = make_error_response(explain_http_error(error, request))
        if error.status_code == 405:
            response.headers["Allow"] = ", ".join(list_methods(app, request))
        return response

    @app.get(HEALTH)
    async def show_health() -> dict[str, str]:
        return {"status": "ok"}

    return app


def explain_http_error(error: HTTPException, request: Request) -> ApiError:
    """The refusal for an error that starlette raises: an unknown path, a wrong method."""
    return ApiError(error.status_code, f"{request.method} {request.url.path}: {error.detail}.")


def list_methods(app: FastAPI, request: Request) -> list[str]:
    """The methods that the path takes, sorted. (starlette's Allow header has the first route's only.)"""
    methods: set[str] = set()
    for route in app.routes:
        match, _ = route.matches(request.scope)
        if match is not Match.NONE and isinstance(route, Route):
            methods |= route.methods or set()
    return sorted(methods)


def name_field(place: tuple[int | str, ...]) -> str:
    """The field at a place in the body, without pydantic's words for which of several forms it tried.

    They are "list[str]", the name of a class, or a field again. Example: "tool_choice.type" for
    ("body", "tool_choice", "ChosenTool", "type").
    """
    path = [str(part) for part in place[1:]]  # the first part is "body"
    kept = [
        part
        for number, part in enumerate(path)
        if not re.search(r"[\[(]", part)
        and not (part[:1].isupper() and number < len(path) - 1)
        and (part.isdigit() or part not in path[max(0, number - 1) : number])
    ]
    return ".".join(kept)


def explain_validation(error: RequestValidationError) -> ApiError:
    """The refusal of a body that does not have the right form; it names the first wrong field.

    A wrong "type" comes before all else: other fields may only be wrong because they are those of that type.
    """
    wrong = error.errors()
    first = next((each for each in wrong if each["loc"][-1] == "type"), wrong[0])
    if first["type"] == "json_invalid":
        return ApiError(400, "The body is not valid JSON.", None, "json_invalid")
    field = name_field(first["loc"]) or "body"
    problem = first["msg"].removeprefix("Value error, ").replace(" found using name_kind()", "")
    return ApiError(400, f"{field}: {problem}.", field, first["type"])
