"""Who may ask, and how much: the key, the Host header, the page that a websocket comes from, the length.

What can be refused is refused before anything of the request is read.

All are plain ASGI middlewares: behind starlette's BaseHTTPMiddleware a request would not see its client leave.
"""

import hmac
import re
from abc import ABC, abstractmethod

from fastapi import FastAPI
from fastapi.middleware.cors import CORSMiddleware
from starlette.datastructures import Headers
from starlette.middleware.body_limit import RequestBodyLimitMiddleware
from starlette.types import ASGIApp, Receive, Scope, Send

from helpers.server.errors import ApiError, error_response

BODY_LIMIT = 4 * 2**20  # bytes; a hundred times what a context of 8192 tokens holds


TOO_LARGE = f"The body is too large; the limit is {BODY_LIMIT} bytes."


LOCAL_HOST = r"(localhost|127\.0\.0\.1|\[::1\])(:\d+)?"


LOCAL_ORIGIN = r"https?://" + LOCAL_HOST


class Gate(ABC):
    """Answers what `find_fault` refuses, a websocket before it is accepted, and hands everything else on."""

    def __init__(self, app: ASGIApp):
        self.app = app

    @abstractmethod
    def find_fault(self, kind: str, headers: Headers) -> ApiError | None:
        """The refusal of a request of kind "http" or "websocket", or None."""

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """ASGI's call."""
        fault = (
            self.find_fault(scope["type"], Headers(scope=scope))
            if scope["type"] in ("http", "websocket")
            else None
        )
        await (error_response(fault) if fault else self.app)(scope, receive, send)


class KeyGate(Gate):
    """Lets pass what carries the key as a bearer token."""

    def __init__(self, app: ASGIApp, api_key: str):
        super().__init__(app)
        self.wanted = f"Bearer {api_key}".encode()

    def find_fault(self, kind: str, headers: Headers) -> ApiError | None:
        """401 without the key."""
        sent = headers.get("authorization", "").encode("latin-1")
        return (
            None
            if hmac.compare_digest(sent, self.wanted)
            else ApiError(401, "Wrong or missing API key: send Authorization: Bearer KEY.")
        )


class HostGate(Gate):
    """Lets pass what was addressed to this computer by one of its own names.

    A page of elsewhere can let its own name point to 127.0.0.1 (DNS rebinding) and would then be read as a page of this server; its Host header
    tells it apart.
    """

    def find_fault(self, kind: str, headers: Headers) -> ApiError | None:
        """400 for another name, or none."""
        if re.fullmatch(LOCAL_HOST, headers.get("host", ""), re.IGNORECASE):
            return None
        return ApiError(
            400,
            "The Host header must be localhost, 127.0.0.1 or [::1]; a server for other machines is started with --listen.",
        )


class OriginGate(Gate):
    """Refuses websockets that a page of elsewhere opens: browsers ask nobody before they do, unlike with other requests."""

    def find_fault(self, kind: str, headers: Headers) -> ApiError | None:
        """403 for a page that is not of this computer; programs send no Origin."""
        origin = headers.get("origin")
        if kind == "websocket" and origin is not None and not re.fullmatch(LOCAL_ORIGIN, origin):
            return ApiError(
                403, "Pages of this computer only may open a websocket here.", None, "foreign_origin"
            )
        return None


class LengthGate(Gate):
    """Refuses a body by the length that is declared for it. starlette's middleware would too, in plain text; it counts what declares none."""

    def find_fault(self, kind: str, headers: Headers) -> ApiError | None:
        """413 for a body over the limit."""
        declared = headers.get("content-length", "")
        return ApiError(413, TOO_LARGE) if declared.isdecimal() and int(declared) > BODY_LIMIT else None


def guard_app(app: FastAPI, api_key: str | None) -> None:
    """Asks for the key when there is one, and lets pages of this computer only read the replies. `HostGate` is the server's to add."""
    app.add_middleware(RequestBodyLimitMiddleware, max_body_size=BODY_LIMIT)
    app.add_middleware(LengthGate)
    if api_key:
        app.add_middleware(KeyGate, api_key=api_key)
    app.add_middleware(OriginGate)
    # Added last, so first to be asked: a browser's preflight carries no key, and a page may read a refusal.
    app.add_middleware(
        CORSMiddleware, allow_origin_regex=LOCAL_ORIGIN, allow_methods=["GET", "POST"], allow_headers=["*"]
    )
