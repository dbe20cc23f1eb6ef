"""Who may ask: API key, Host header, the page that sends a body or opens a websocket.

Whatever can be refused is refused before anything of the request's body is read. All guards are plain ASGI
middlewares: behind starlette's BaseHTTPMiddleware an application does not notice that its client leaves.
"""

import asyncio
import hmac
import re
from abc import ABC, abstractmethod
from collections.abc import Collection

from fastapi import FastAPI
from fastapi.datastructures import Headers
from fastapi.middleware.cors import CORSMiddleware
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from helpers.generation.engine import EngineStopping
from helpers.server.errors import ApiError, make_error_response
from helpers.server.request_bodies import BodyGate

LOCAL_HOST = r"(localhost|127\.0\.0\.1|\[::1\])(:\d+)?"
LOCAL_ORIGIN = r"https?://" + LOCAL_HOST


class Gate(ABC):
    """Answers what `find_fault` refuses, a websocket before it is accepted; passes everything else on."""

    def __init__(self, app: ASGIApp):
        self.app = app

    @abstractmethod
    def find_fault(self, scope: Scope, headers: Headers) -> ApiError | None:
        """The refusal of a request or a websocket; None if it may pass."""

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """ASGI's entry point."""
        fault = None
        if scope["type"] in ("http", "websocket"):  # not "lifespan", which has no headers
            fault = self.find_fault(scope, Headers(scope=scope))
        if fault is None:
            await self.app(scope, receive, send)
        else:
            await make_error_response(fault)(scope, receive, send)


class KeyGate(Gate):
    """Lets requests pass that carry the API key as a bearer token, and those to a path in `open_paths`."""

    def __init__(self, app: ASGIApp, api_key: str, open_paths: Collection[str]):
        super().__init__(app)
        self.wanted = api_key.encode()
        self.open_paths = frozenset(open_paths)

    def find_fault(self, scope: Scope, headers: Headers) -> ApiError | None:
        """401 without the key."""
        scheme, _, sent = headers.get("authorization", "").partition(" ")
        right = hmac.compare_digest(sent.lstrip(" ").encode("latin-1"), self.wanted)
        if right and scheme.lower() == "bearer":  # RFC 9110: a scheme has no case, and one space or more
            return None
        if scope["type"] == "http" and scope["path"] in self.open_paths:
            return None
        return ApiError(401, "Wrong or missing API key: send Authorization: Bearer KEY.")


class HostGate(Gate):
    """Lets requests pass that address this computer by one of its own names.

    A page from another site can point its own name at 127.0.0.1 (DNS rebinding); the browser would then let
    it read this server's replies. The Host header gives it away.
    """

    def find_fault(self, scope: Scope, headers: Headers) -> ApiError | None:
        """400 for another name, or none."""
        if re.fullmatch(LOCAL_HOST, headers.get("host", ""), re.IGNORECASE):
            return None
        problem = "The Host header must be localhost, 127.0.0.1 or [::1]"
        return ApiError(400, f"{problem}; start the server with --listen to serve other machines.")


class OriginGate(Gate):
    """Refuses websockets that a page from another site opens, and bodies that it sends.

    Browsers do not ask before they open a websocket or send a form. A page that this server sent to another
    machine names the same host as its request does. Any site can bring that about for itself (DNS rebinding),
    so it counts with `asks_for_key` only: the site has no key.
    """

    def __init__(self, app: ASGIApp, asks_for_key: bool):
        super().__init__(app)
        self.asks_for_key = asks_for_key

    def find_fault(self, scope: Scope, headers: Headers) -> ApiError | None:
        """403 for a page from elsewhere. Programs that are not browsers send no Origin."""
        origin = headers.get("origin")
        harmless = scope["type"] == "http" and scope["method"] in ("GET", "HEAD", "OPTIONS")
        if harmless or origin is None or re.fullmatch(LOCAL_ORIGIN, origin):
            return None
        host = headers.get("host")
        if self.asks_for_key and host and re.fullmatch(f"https?://{re.escape(host)}", origin, re.IGNORECASE):
            return None
        return ApiError(403, "Only pages of this computer may send anything here.", None, "foreign_origin")


class EndGate:
    """Answers what the ending server cuts off, as far as nothing was sent; uvicorn would log a traceback."""

    def __init__(self, app: ASGIApp):
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """ASGI's entry point."""
        begun = False

        async def note(message: Message) -> None:
            nonlocal begun
            begun = True
            await send(message)

        try:
            await self.app(scope, receive, note)
        except asyncio.CancelledError:
            if not begun and scope["type"] == "http":
                await make_error_response(EngineStopping())(scope, receive, send)


def guard_app(app: FastAPI, api_key: str | None, open_paths: Collection[str]) -> None:
    """Limits bodies, asks for the key if there is one, and refuses pages of other sites.

    What is at `open_paths` needs no key. Whoever starts a server for this computer alone adds a HostGate.
    """
    app.add_middleware(BodyGate)
    if api_key:
        app.add_middleware(KeyGate, api_key=api_key, open_paths=open_paths)
    app.add_middleware(OriginGate, asks_for_key=bool(api_key))
    # Added last, so asked first: a browser's preflight carries no key, and a page may read a refusal.
    app.add_middleware(
        CORSMiddleware, allow_origin_regex=LOCAL_ORIGIN, allow_methods=["GET", "POST"], allow_headers=["*"]
    )
    app.add_middleware(EndGate)
