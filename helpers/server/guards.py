"""Who may ask, and how much: API key, Host header, the page that opens a websocket, the length of a body.

Whatever can be refused is refused before anything of the request's body is read. All guards are plain ASGI
middlewares: behind starlette's BaseHTTPMiddleware an application does not notice that its client leaves.
"""

import hmac
import re
from abc import ABC, abstractmethod

from fastapi import FastAPI
from fastapi.datastructures import Headers
from fastapi.middleware.cors import CORSMiddleware
from starlette.middleware.body_limit import RequestBodyLimitMiddleware
from starlette.types import ASGIApp, Receive, Scope, Send

from helpers.server.errors import ApiError, make_error_response

BODY_LIMIT = 4 * 2**20  # bytes; a hundred times the text that fills a context of 8192 tokens
TOO_LARGE = f"The body is too large; the limit is {BODY_LIMIT} bytes."

LOCAL_HOST = r"(localhost|127\.0\.0\.1|\[::1\])(:\d+)?"
LOCAL_ORIGIN = r"https?://" + LOCAL_HOST


class Gate(ABC):
    """Answers what `find_fault` refuses, a websocket before it is accepted; passes everything else on."""

    def __init__(self, app: ASGIApp):
        self.app = app

    @abstractmethod
    def find_fault(self, kind: str, headers: Headers) -> ApiError | None:
        """The refusal of a request of kind "http" or "websocket"; None if it may pass."""

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """ASGI's entry point."""
        kind = scope["type"]
        fault = None
        if kind in ("http", "websocket"):  # not "lifespan", which has no headers
            fault = self.find_fault(kind, Headers(scope=scope))
        if fault is None:
            await self.app(scope, receive, send)
        else:
            await make_error_response(fault)(scope, receive, send)


class KeyGate(Gate):
    """Lets requests pass that carry the API key as a bearer token."""

    def __init__(self, app: ASGIApp, api_key: str):
        super().__init__(app)
        self.wanted = f"Bearer {api_key}".encode()

    def find_fault(self, kind: str, headers: Headers) -> ApiError | None:
        """401 without the key."""
        sent = headers.get("authorization", "").encode("latin-1")
        if hmac.compare_digest(sent, self.wanted):
            return None
        return ApiError(401, "Wrong or missing API key: send Authorization: Bearer KEY.")


class HostGate(Gate):
    """Lets requests pass that address this computer by one of its own names.

    A page from another site can point its own name at 127.0.0.1 (DNS rebinding); the browser would then let
    it read this server's replies. The Host header gives it away.
    """

    def find_fault(self, kind: str, headers: Headers) -> ApiError | None:
        """400 for another name, or none."""
        if re.fullmatch(LOCAL_HOST, headers.get("host", ""), re.IGNORECASE):
            return None
        problem = "The Host header must be localhost, 127.0.0.1 or [::1]"
        return ApiError(400, f"{problem}; start the server with --listen to serve other machines.")


class OriginGate(Gate):
    """Refuses websockets that a page from another site opens. Browsers do not ask before they open one."""

    def find_fault(self, kind: str, headers: Headers) -> ApiError | None:
        """403 for a page from elsewhere. Programs that are not browsers send no Origin."""
        origin = headers.get("origin")
        if kind != "websocket" or origin is None or re.fullmatch(LOCAL_ORIGIN, origin):
            return None
        return ApiError(403, "Only pages of this computer may open a websocket here.", None, "foreign_origin")


class LengthGate(Gate):
    """Refuses a body whose declared length is over the limit.

    starlette's middleware would refuse it too, but in plain text; it counts the bodies that declare no
    length.
    """

    def find_fault(self, kind: str, headers: Headers) -> ApiError | None:
        """413 for a body over the limit."""
        declared = headers.get("content-length", "")
        if declared.isdecimal() and int(declared) > BODY_LIMIT:
            return ApiError(413, TOO_LARGE)
        return None


def guard_app(app: FastAPI, api_key: str | None) -> None:
    """Limits bodies, asks for the key if there is one, and lets only pages of this computer read the replies.

    Whoever starts a server for this computer alone adds a HostGate.
    """
    app.add_middleware(RequestBodyLimitMiddleware, max_body_size=BODY_LIMIT)
    app.add_middleware(LengthGate)
    if api_key:
        app.add_middleware(KeyGate, api_key=api_key)
    app.add_middleware(OriginGate)
    # Added last, so asked first: a browser's preflight carries no key, and a page may read a refusal.
    app.add_middleware(
        CORSMiddleware, allow_origin_regex=LOCAL_ORIGIN, allow_methods=["GET", "POST"], allow_headers=["*"]
    )
