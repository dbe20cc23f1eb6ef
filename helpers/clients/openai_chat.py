"""The OpenAI-style API through the official client: whole and streamed answers, and every error explained.

The same calls work with the kit's server, with the WebUI of 2023 and of today, and with OpenAI itself.
"""

import asyncio
import contextlib
import math
import os
import re
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, TypedDict

import openai

from helpers.clients.remedies import SERVER_REMEDIES
from helpers.common.addresses import check_proxies, is_local
from helpers.common.arguments import cut, escape
from helpers.common.bounded import TooLargeError, Watch, list_async_hooks, list_hooks
from helpers.common.errors import KitError, ServerError, UsageError
from helpers.common.forms import find_misfit
from helpers.common.http import (
    build_refusal,
    check_call,
    explain_certificates,
    explain_missing_socks,
    list_causes,
    refuse_too_large,
)
from helpers.common.values import check_wait, find_surrogates, refuse, repair_text
from helpers.server.ports import OPENAI_PORT
from helpers.weights._private import list_http_client_errors

Messages = list[dict[str, str]]  # [{"role": "user", "content": "..."}, ...]
DEFAULT_URL = f"http://127.0.0.1:{OPENAI_PORT}/v1"
# Each request has a connection of its own. Today's WebUI closes one after an error 500 without saying so: the
# next request on it would fail, and nobody could tell whether the server had read it.
ONE_REQUEST = {"Connection": "close"}
HEADERS = ("OPENAI_ORG_ID", "OPENAI_PROJECT_ID")  # that the client takes from the environment
NO_API = "Check the address: what answers there is not an OpenAI-style API."
NOT_SENT = re.compile("unexpected keyword argument|not JSON serializable")  # how the client says it


class Said(TypedDict, total=False):
    """What the assistant says; null if it calls a tool."""

    content: str | None


class Choice(TypedDict):
    """One of the answers."""

    message: Said


class Completion(TypedDict):
    """A whole reply."""

    choices: list[Choice]


class Piece(TypedDict, total=False):
    """A piece of an answer."""

    delta: Said | None
    finish_reason: str | None


class Chunk(TypedDict, total=False):
    """An event of a stream; one that carries only the usage has no choices."""

    choices: list[Piece] | None


def make_openai_client(base_url: str = DEFAULT_URL, api_key: str = "none") -> openai.OpenAI:
    """The official client for your own server, which needs no key unless it was started with one.

    It keeps the proxy rule of helpers.common.http: MissingPackageError if that needs a SOCKS proxy. Raises a
    UsageError for an address or a key that cannot be one.
    """
    check_client(base_url, api_key)
    with explain_missing_socks(), explain_certificates():
        transport = openai.DefaultHttpxClient(trust_env=not is_local(base_url), event_hooks=list_hooks())
    return openai.OpenAI(
        base_url=base_url, api_key=api_key, max_retries=0, default_headers=ONE_REQUEST, http_client=transport
    )


def make_async_openai_client(base_url: str = DEFAULT_URL, api_key: str = "none") -> openai.AsyncOpenAI:
    """Like `make_openai_client`, for programs that have many requests under way at the same time.

    Close it with `await client.close()`, or use `async with`.
    """
    check_client(base_url, api_key)
    hooks = list_async_hooks()
    with explain_missing_socks(), explain_certificates():
        transport = openai.DefaultAsyncHttpxClient(trust_env=not is_local(base_url), event_hooks=hooks)
    return openai.AsyncOpenAI(
        base_url=base_url, api_key=api_key, max_retries=0, default_headers=ONE_REQUEST, http_client=transport
    )


def check_client(base_url: object, api_key: object) -> None:
    """A UsageError for an address or a key that cannot be one."""
    check_call(base_url, api_key)
    if not is_local(str(base_url)):
        check_proxies()
    for name in HEADERS:
        if not (os.environ.get(name, "").isascii() and os.environ.get(name, " ").isprintable()):
            raise UsageError(f"{name} has characters that no header has.", "Correct or unset the variable.")
    if not api_key:
        raise UsageError("The api_key is empty.", "Leave it out if the server needs none.")


def ask_openai(client: openai.OpenAI, messages: Messages, model: str = "x", **params: Any) -> str:
    """The text of the reply to `messages`; `params` are further fields of the API, such as max_tokens.

    `timeout`, one of them, is in seconds for the whole reply. Raises a ServerError if the server is out of
    reach, refuses the request or gives no answer, and a UsageError for what cannot be sent.
    """
    request = build_request(messages, model, params)
    watch = Watch(find_seconds(client, params))
    with explain_openai_errors(client.base_url, watch), watch:
        completion = client.chat.completions.create(**request)
        return read_answer(completion, client.base_url)


async def ask_openai_async(
    client: openai.AsyncOpenAI, messages: Messages, model: str = "x", **params: Any
) -> str:
    """Like `ask_openai`, without blocking the program while it waits."""
    request = build_request(messages, model, params)
    watch = Watch(None)
    with explain_openai_errors(client.base_url, watch), watch:
        async with asyncio.timeout(find_seconds(client, params)):
            completion = await client.chat.completions.create(**request)
        return read_answer(completion, client.base_url)


def stream_openai(
    client: openai.OpenAI, messages: Messages, model: str = "x", **params: Any
) -> Iterator[str]:
    """The text of the reply, piece by piece as it comes; `timeout` is in seconds for each piece.

    Raises what `ask_openai` does, and a ServerError if the stream ends before the answer does.
    """
    request = build_request(messages, model, {**params, "stream": True})
    finished = False
    watch = Watch(find_seconds(client, params), is_stream=True)
    with explain_openai_errors(client.base_url, watch):
        with watch:
            chunks = client.chat.completions.create(**request)
        watch.renew()
        with chunks:
            for chunk in read_until_broken(chunks):
                for piece in read_form(chunk, Chunk).get("choices") or ():
                    finished = finished or piece.get("finish_reason") is not None
                    delta = piece.get("delta") or {}
                    if text := delta.get("content"):
                        yield repair_text(text)
                    if any(delta.get(key) for key in delta if key != "role"):  # also thoughts, and calls
                        watch.renew()
    if not finished:
        remedy = "Check that a model is loaded, and the messages and parameters; look at the server's output."
        raise ServerError(f"{client.base_url} ended the stream before the end of the answer.", remedy)


def read_until_broken(chunks: Iterable[Any]) -> Iterator[Any]:
    """The chunks of a stream, up to its end or to where the connection broke."""
    try:
        yield from chunks
    except openai.APITimeoutError:
        raise
    except openai.APIConnectionError:  # as with today's WebUI without a model
        return


def build_request(messages: Messages, model: str, params: dict[str, Any]) -> dict[str, Any]:
    """The arguments for the client's `chat.completions.create`; a UsageError for what cannot be sent."""
    if not isinstance(messages, Iterable) or isinstance(messages, str | bytes | Mapping):
        refuse("messages", messages, 'a list such as [{"role": "user", "content": "..."}]')
    request = {"messages": messages, "model": model, **params}
    for name, value in request.items():
        if find_surrogates(value):
            raise UsageError(f"{name} has half of a character in a text.", "Write it as it looks.")
        if isinstance(value, float) and not math.isfinite(value):
            refuse(name, value, "a finite number")
    if isinstance(timeout := params.get("timeout"), str | int | float):
        check_wait("timeout", timeout)
    return request


def find_seconds(client: openai.OpenAI | openai.AsyncOpenAI, params: dict[str, Any]) -> float | None:
    """How long a reply may take: the timeout of the request, or else of the client; None for no limit."""
    timeout = params.get("timeout", client.timeout)
    timeout = getattr(timeout, "read", timeout)  # httpx has one for each step
    return timeout if isinstance(timeout, int | float) else None


def read_form(reply: Any, form: Any) -> Any:
    """What the client made of a reply, as JSON. It does not check what a server sends: a ValueError then."""
    value = reply.to_dict(warnings=False) if isinstance(reply, openai.BaseModel) else reply
    if misfit := find_misfit(value, form):
        raise ValueError(misfit)
    return value


def read_answer(completion: Any, base_url: object) -> str:
    """The text of the first answer; "" if it has none (a tool call). A ServerError if there is no answer."""
    choices = read_form(completion, Completion)["choices"]
    if not choices:
        raise ServerError(f"The reply of {base_url} has no answer in it.", NO_API)
    return repair_text(choices[0]["message"].get("content") or "")


@contextlib.contextmanager
def explain_openai_errors(base_url: object, watch: Watch | None = None) -> Iterator[None]:
    """Turns what the OpenAI clients raise inside the block, sync or async, into a ServerError.

    A UsageError for arguments that they do not take.
    """
    try:
        yield
    except KitError:
        raise
    except Exception as error:
        causes = list(list_causes(error))
        late = (openai.APITimeoutError, TimeoutError)
        if (watch and watch.expired) or isinstance(error, late):
            remedy = "Ask for fewer tokens, or give timeout=, in seconds."
            raise ServerError(f"No reply from {base_url} in time.", remedy) from None
        if any(isinstance(cause, TooLargeError) for cause in causes):
            raise refuse_too_large(base_url) from None
        explained = explain_openai_error(error, base_url)
        if explained is None:
            raise
        raise explained from None


def explain_openai_error(error: Exception, base_url: object) -> KitError | None:
    """The error in the kit's words; None for one that has another source."""
    if isinstance(error, (openai.APIConnectionError, *list_http_client_errors())):
        problem = f"No server answers at {base_url}, or it broke off ({error.__cause__ or error})."
        return ServerError(problem, "Start one with --extensions openai, and check its port and its output.")
    if isinstance(error, openai.APIStatusError):
        response = error.response
        return build_refusal(error.status_code, response.reason_phrase, response.text, SERVER_REMEDIES)
    if isinstance(error, openai.APIError):
        said = escape(cut(" ".join(error.message.split()), 300)).rstrip(".")
        problem = f"{base_url} gave no complete answer: {said}."
        return ServerError(problem, "Look at the server's output.")
    if isinstance(error, TypeError) and NOT_SENT.search(str(error)):
        remedy = "Correct it; fields that the client does not know go into extra_body={...}."
        return UsageError(f"The request cannot be sent: {error}.", remedy)
    if isinstance(error, (ValueError, TypeError, LookupError, AttributeError, RecursionError)):
        reason = cut(" ".join(str(error).split()), 300)
        return ServerError(f"The reply of {base_url} has no answer in it: {reason}.", NO_API)
    return None
