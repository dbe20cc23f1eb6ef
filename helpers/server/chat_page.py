"""The chat page at / of the OpenAI-style API's port: the files in page/, and what a browser may do with them.

The page is a client of the API like any other. It holds no secret, so it is loaded without the API key, and
its addresses are relative, so a proxy may put a prefix before them. The browser takes scripts and styles from
this server alone, sends nothing anywhere else, and never reads a text as HTML (Trusted Types).
"""

from functools import partial
from pathlib import Path

from fastapi import FastAPI, Request
from fastapi.responses import FileResponse

FOLDER = Path(__file__).parent / "page"

PAGE_FILES = {  # path of the address: file
    "/": FOLDER / "index.html",
    "/page/chat.css": FOLDER / "chat.css",
    "/page/chat.js": FOLDER / "chat.js",
    "/page/icon.svg": FOLDER / "icon.svg",
}

# Not what the system's own table says, which a Windows registry may change.
MEDIA_TYPES = {
    ".html": "text/html",
    ".css": "text/css",
    ".js": "text/javascript",
    ".svg": "image/svg+xml",
}

POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'",
    "base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
    "require-trusted-types-for 'script'; trusted-types 'none'",
)

HEADERS = {
    "Content-Security-Policy": "; ".join(POLICY),
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    "Cache-Control": "no-cache",  # asks each time, so that a newer kit's page is shown at once
}


def add_chat_page(app: FastAPI) -> None:
    """GET and HEAD of every path in PAGE_FILES."""
    for path, file in PAGE_FILES.items():
        app.add_route(path, partial(send_file, file), methods=["GET"], include_in_schema=False)


async def send_file(file: Path, request: Request) -> FileResponse:
    """The file with the headers above."""
    return FileResponse(file, media_type=MEDIA_TYPES[file.suffix], headers=HEADERS)
