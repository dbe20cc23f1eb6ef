"""The calls a user makes: the raw API and the OpenAI client, whole answers and streams, and starting a server to call.

They run against the kit's server and against the WebUI, of 2023 (raw) and of today (OpenAI); every failure is a KitError with a remedy.
"""

import html
from collections.abc import Iterator

from helpers.clients.raw_stream import stream_events
from helpers.common.errors import KitError
from helpers.common.http import send_request
from helpers.server.ports import RAW_PORT, STREAMING_PORT

# The request of the 2023 tutorial's chat example, with the values it sent. Names: text-generation-webui's raw API, August 2023.
DEFAULT_CHAT_PARAMS = {
    "max_new_tokens": 200,
    "history": {"internal": [], "visible": []},
    "mode": "instruct",
    "regenerate": False,
    "_continue": False,
    "do_sample": True,
    "temperature": 0.5,
    "top_p": 1,
    "typical_p": 1,
    "repetition_penalty": 1.1,
    "top_k": 0,
    "seed": -1,
    "stopping_strings": [],
}  # fmt: skip


def build_chat_body(user_input: str, history: dict | None, params: dict) -> dict:
    """The request of a raw chat: `params` replace values of DEFAULT_CHAT_PARAMS."""
    body = {**DEFAULT_CHAT_PARAMS, **params, "user_input": user_input}
    return body if history is None else {**body, "history": history}


def read_history(reply: object, body: dict) -> dict:
    """The history in a part of a raw reply; KitError when there is none, or when it has no new row."""
    try:
        history = reply["history"]
        rows, before = len(history["internal"]), len(body["history"].get("internal", []))
    except (LookupError, TypeError):
        raise KitError(
            "The reply has no history in it.", "Look at the address: what answers there is no raw API."
        ) from None
    if rows <= before and not body["regenerate"] and not body["_continue"]:
        raise KitError("The server gave the history back without an answer.", "It has no model: load one.")
    return history


def chat_raw(
    user_input: str,
    history: dict | None = None,
    url: str = f"http://127.0.0.1:{RAW_PORT}",
    timeout: float = 300,
    api_key: str | None = None,
    **params,
) -> dict:
    """One turn of a chat over the raw API; returns the history {"internal": [[user, reply], ...], "visible": ...} with the new turn.

    `params` replace values of DEFAULT_CHAT_PARAMS. Raises KitError when the server is away or refuses the request.
    """
    body = build_chat_body(user_input, history, params)
    reply = send_request("POST", f"{url}/api/v1/chat", body, api_key, timeout)
    return read_history(
        reply["results"][0] if isinstance(reply, dict) and reply.get("results") else reply, body
    )


def last_reply(history: dict) -> str:
    """The newest reply as plain text, read the way clients of 2023 did: the visible one, its HTML escapes undone."""
    return html.unescape(history["visible"][-1][1])


def stream_raw(
    prompt: str,
    url: str = f"ws://127.0.0.1:{STREAMING_PORT}",
    timeout: float = 300,
    api_key: str | None = None,
    **params,
) -> Iterator[str]:
    """The pieces of the text that follows `prompt`, as they come, over the raw API; `params` are the fields of /api/v1/generate."""
    for message in stream_events(f"{url}/api/v1/stream", {**params, "prompt": prompt}, api_key, timeout):
        yield message["text"]


def stream_chat_raw(
    user_input: str,
    history: dict | None = None,
    url: str = f"ws://127.0.0.1:{STREAMING_PORT}",
    timeout: float = 300,
    api_key: str | None = None,
    **params,
) -> Iterator[dict]:
    """One turn of a chat over the raw API, as chat_raw: the whole history again and again, its last reply a little longer each time."""
    body = build_chat_body(user_input, history, params)
    for message in stream_events(f"{url}/api/v1/chat-stream", body, api_key, timeout):
        yield read_history(message, body)
