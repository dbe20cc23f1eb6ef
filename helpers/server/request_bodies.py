"""The body of a request, read before the application sees it: JSON, in time, not too large or deep.

A page of any site may send a form or plain text to this computer without asking; for JSON its browser asks
first, and is refused. So JSON is all that is taken. What a websocket sends is checked in the same way.
"""

import asyncio
import re
from itertools import accumulate

from fastapi.datastructures import Headers
from starlette.routing import Match
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from helpers.server.errors import ApiError, make_error_response

BODY_LIMIT = 4 * 2**20  # bytes; a hundred times the text that fills a context of 8192 tokens
TOO_LARGE = f"The body is too large; the limit is {BODY_LIMIT} bytes."
BODY_S = 30  # for the whole body; 4 MiB need a line of 1.2 Mbit/s
MAX_DEPTH = 64  # lists and objects inside one another; a request of the OpenAI client has five
TOO_DEEP = f"The body has more than {MAX_DEPTH} lists and objects inside one another."

MAX_DIGITS = 1000  # of a number; Python itself reads whole numbers of up to 4,300

JSON_TYPE = re.compile(r"application/([\w.-]+\+)?json *(;.*)?", re.IGNORECASE)
SIMPLE_STRING = re.compile(r'"[^"]*"?')  # without escapes; to the end of the text if it has no end
DIGITS = re.compile(r"[0-9]+")
OPENING = {"[": 1, "{": 1, "]": -1, "}": -1}


def decode_json(content: bytes) -> str:
    """The text of a JSON document that the functions which walk through it can read.

    Raises an ApiError unless it is UTF-8, and for one that is nested too deep or has a huge number. Takes
    time in proportion to the length, whatever the content. The grammar of JSON is not checked.
    """
    try:
        text = content.decode("utf-8-sig")
    except UnicodeDecodeError:
        raise refuse_json("The body is not UTF-8.") from None
    if "\0" in text:  # JSON has none, but ASCII letters in UTF-16 and UTF-32 do; json.loads would read these
        raise refuse_json("The body is not UTF-8, or has a NUL character.")
    # Without strings. Behind an unterminated one, or a backslash outside a string, no parser reads on.
    bare = SIMPLE_STRING.sub("", text.replace("\\\\", "").replace('\\"', ""))
    if measure_depth(bare) > MAX_DEPTH:
        raise refuse_json(TOO_DEEP)
    if any(len(digits) > MAX_DIGITS for digits in DIGITS.findall(bare)):
        raise refuse_json(f"A number has too many digits; the limit is {MAX_DIGITS}.")
    return text


def refuse_json(problem: str) -> ApiError:
    """The refusal of a document that is not read."""
    return ApiError(400, problem, None, "json_invalid")


def measure_depth(bare: str) -> int:
    """How many brackets are open at the same time, in a text without strings."""
    brackets = re.sub(r"[^][{}]+", "", bare)
    return max(accumulate(map(OPENING.__getitem__, brackets)), default=0)


def check_head(headers: Headers) -> None:
    """Raises an ApiError for a body that is not JSON, or is too large according to its head."""
    if not JSON_TYPE.fullmatch(headers.get("content-type", "")):
        problem = "Send JSON, with the header Content-Type: application/json."
        raise ApiError(415, problem, "body", "not_json")
    declared = headers.get("content-length", "")
    if declared.isdecimal() and int(declared) > BODY_LIMIT:
        raise ApiError(413, TOO_LARGE)


async def read_body(receive: Receive) -> bytes | None:
    """The whole body; None if the client leaves. Raises an ApiError if it is too large or takes too long."""
    body = bytearray()
    try:
        async with asyncio.timeout(BODY_S):
            while True:
                message = await receive()
                if message["type"] != "http.request":
                    return None
                body += message.get("body", b"")
                if len(body) > BODY_LIMIT:
                    raise ApiError(413, TOO_LARGE)
                if not message.get("more_body"):
                    return bytes(body)
    except TimeoutError:
        raise ApiError(408, f"The body did not come within {BODY_S} s.") from None


def takes_body(scope: Scope) -> bool:
    """Whether a route takes the body. A wrong path or method is refused by the application, unread."""
    routes = scope["app"].routes
    return scope["method"] == "POST" and any(route.matches(scope)[0] is Match.FULL for route in routes)


class BodyGate:
    """Reads each body that a route takes and passes it on in one piece, or answers what is wrong with it."""

    def __init__(self, app: ASGIApp):
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """ASGI's entry point."""
        if scope["type"] != "http" or not takes_body(scope):
            await self.app(scope, receive, send)
            return
        try:
            check_head(Headers(scope=scope))
            body = await read_body(receive)
            if body is None:
                return
            decode_json(body)
        except ApiError as fault:
            await make_error_response(fault)(scope, receive, send)
            return
        await self.app(scope, replay(body, receive), send)


def replay(body: bytes, receive: Receive) -> Receive:
    """`receive`, whose first message is the body."""
    first: list[Message] = [{"type": "http.request", "body": body, "more_body": False}]

    async def receive_again() -> Message:
        return first.pop() if first else await receive()

    return receive_again
