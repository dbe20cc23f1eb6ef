"""The raw API of 2023: whole answers, streamed answers and the history of a chat.

The same calls work with the kit's server and with the WebUI of 2023.
"""

import html
from collections.abc import Iterator
from typing import Any, TypedDict

from helpers.clients.raw_stream import stream_events
from helpers.clients.remedies import SERVER_REMEDIES
from helpers.common.errors import ServerError, UsageError
from helpers.common.forms import find_misfit
from helpers.common.http import send_request
from helpers.common.values import refuse
from helpers.server.ports import RAW_PORT, STREAMING_PORT

# {"internal": [[user, reply], ...], "visible": [[user, reply], ...]}: the same turns twice, as the model
# reads them and as a web page shows them (with HTML escapes).
History = dict[str, list[list[str]]]


class HistoryForm(TypedDict):
    """The form of a history in a reply."""

    internal: list[tuple[str, str]]
    visible: list[tuple[str, str]]


class ChatReply(TypedDict):
    """One result of a chat."""

    history: HistoryForm


class Results(TypedDict):
    """A whole reply."""

    results: list[Any]


class TextEvent(TypedDict):
    """A piece of a streamed text."""

    text: str


# What the chat example of the 2023 tutorial sent besides the question and the history. It added those with
# dict(**DEFAULT_CHAT_PARAMS, user_input=..., history=..., context_instruct=...). None of the three is here:
# a key that is given twice is a TypeError. The names are those of text-generation-webui's raw API of August
# 2023; the values are its defaults, all but the mode.
DEFAULT_CHAT_PARAMS: dict[str, Any] = {
    "max_new_tokens": 200,
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
}
LOAD_A_MODEL = "No model is loaded there: load one."


def chat_raw(
    user_input: str,
    history: History | None = None,
    url: str = f"http://127.0.0.1:{RAW_PORT}",
    timeout: float = 300,
    api_key: str | None = None,
    **params: Any,
) -> History:
    """One turn of a chat over the raw API: the history with the new turn in it.

    `history` is that of the turns before, none for a new chat. `params` replace values of
    DEFAULT_CHAT_PARAMS; `timeout` is in seconds. Raises a ServerError if the server is out of reach, refuses
    the request or gives no answer.
    """
    body = build_chat_body(user_input, history, params)
    reply = send_request("POST", f"{url}/api/v1/chat", body, api_key, timeout, SERVER_REMEDIES)
    has_results = not find_misfit(reply, Results) and reply["results"]
    return read_history(reply["results"][0] if has_results else reply, body)


def last_reply(history: History) -> str:
    """The newest reply as plain text, read as it was in 2023: the visible one without its HTML escapes."""
    if misfit := find_misfit(history, HistoryForm):
        raise UsageError(f"This is not a history: {misfit}.", "Give what chat_raw returns.")
    if not history["visible"]:
        raise UsageError("The history has no reply in it.", "Give what chat_raw returns.")
    return html.unescape(history["visible"][-1][1])


def stream_raw(
    prompt: str,
    url: str = f"ws://127.0.0.1:{STREAMING_PORT}",
    timeout: float = 300,
    api_key: str | None = None,
    **params: Any,
) -> Iterator[str]:
    """The text that follows `prompt`, piece by piece, over the raw API.

    `params` are the fields of /api/v1/generate; `timeout` is in seconds for each piece. Raises a ServerError
    as `chat_raw` does, and if the stream breaks off.
    """
    body = {**params, "prompt": prompt}
    texts = []
    for message in stream_events(f"{url}/api/v1/stream", body, api_key, timeout, TextEvent):
        texts.append(message["text"])
        yield message["text"]
    if texts == [""]:  # an answer without a word has two of them
        raise ServerError("The server ended the stream without an answer.", LOAD_A_MODEL)


def stream_chat_raw(
    user_input: str,
    history: History | None = None,
    url: str = f"ws://127.0.0.1:{STREAMING_PORT}",
    timeout: float = 300,
    api_key: str | None = None,
    **params: Any,
) -> Iterator[History]:
    """One turn of a chat, like `chat_raw`: the whole history each time, with a last reply that grows.

    `timeout` is in seconds for each history. Raises a ServerError as `chat_raw` does, and if the stream
    breaks off.
    """
    body = build_chat_body(user_input, history, params)
    for message in stream_events(f"{url}/api/v1/chat-stream", body, api_key, timeout):
        yield read_history(message, body)


def build_chat_body(user_input: str, history: History | None, params: dict[str, Any]) -> dict[str, Any]:
    """The request of a raw chat: DEFAULT_CHAT_PARAMS, with `params` in place of some of its values."""
    body = {**DEFAULT_CHAT_PARAMS, **params, "user_input": user_input}
    if history is None:
        return {**body, "history": {"internal": [], "visible": []}}
    if not isinstance(history, dict) or not isinstance(history.get("internal", []), list):
        refuse("history", history, 'what chat_raw returns, such as {"internal": [], "visible": []}')
    return {**body, "history": history}


def read_history(reply: Any, body: dict[str, Any]) -> History:
    """The history in a reply to `body`; a ServerError if there is none, or if it has no new row."""
    if misfit := find_misfit(reply, ChatReply):
        remedy = "Check the address: what answers there is not a raw API."
        raise ServerError(f"The reply has no history in it: {misfit}.", remedy)
    history = reply["history"]
    adds_a_row = not (body["regenerate"] or body["_continue"])
    if adds_a_row and len(history["internal"]) <= len(body["history"].get("internal", [])):
        raise ServerError("The server returned the history without an answer.", LOAD_A_MODEL)
    return history
