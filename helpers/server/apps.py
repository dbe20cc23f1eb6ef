"""What both dialects share: applications whose every error has OpenAI's shape, and answers whose client may leave."""

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from starlette.exceptions import HTTPException
from starlette.routing import Match

from helpers.common.errors import KitError
from helpers.server.errors import ApiError, ErrorReply, error_response
from helpers.server.guards import TOO_LARGE, guard_app


def make_app(title: str, api_key: str | None) -> FastAPI:
    """An application whose every error has that shape, and which asks for the key when there is one."""
    replies = {
        "4XX": {"model": ErrorReply, "description": "Refused"},
        "5XX": {"model": ErrorReply, "description": "Failed"},
    }
    app = FastAPI(title=title, responses=replies)
    guard_app(app, api_key)

    @app.exception_handler(Exception)
    @app.exception_handler(KitError)
    @app.exception_handler(ApiError)
    async def refuse(request: Request, error: Exception) -> JSONResponse:
        return error_response(error)

    @app.exception_handler(RequestValidationError)
    async def refuse_body(request: Request, error: RequestValidationError) -> JSONResponse:
        return error_response(explain_validation(error, request.headers.get("content-type", "")))

    @app.exception_handler(HTTPException)
    async def refuse_request(request: Request, error: HTTPException) -> JSONResponse:
        message = (
            TOO_LARGE if error.status_code == 413 else f"{request.method} {request.url.path}: {error.detail}."
        )
        response = error_response(ApiError(error.status_code, message))
        if error.status_code == 405:  # starlette names the methods of the first route only
            matching = [route for route in app.routes if route.matches(request.scope)[0] is not Match.NONE]
            response.headers["Allow"] = ", ".join(
                sorted({method for route in matching for method in route.methods})
            )
        return response

    return app


def explain_validation(error: RequestValidationError, content_type: str) -> ApiError:
    """The refusal of a body that does not have the right form, naming its first wrong field."""
    first = error.errors()[0]
    if first["type"] == "json_invalid":
        return ApiError(400, "The body is no JSON.", None, "json_invalid")
    field = ".".join(str(part) for part in first["loc"][1:]) or "body"
    if field == "body" and "json" not in content_type:
        return ApiError(400, "Send JSON, with the header Content-Type: application/json.", field, "not_json")
    return ApiError(400, f"{field}: {first['msg'].removeprefix('Value error, ')}.", field, first["type"])
