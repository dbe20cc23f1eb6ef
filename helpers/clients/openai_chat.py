"""The OpenAI-style API through the official client: whole and streamed answers, and every error explained.

The same calls work with the kit's server, with the WebUI of 2023 and of today, and with OpenAI itself.
"""

import contextlib
from collections.abc import Iterable, Iterator
from typing import Any

import openai

from helpers.clients.remedies import SERVER_REMEDIES
from helpers.common.errors import ServerError
from helpers.common.http import build_refusal, explain_missing_socks, is_local
from helpers.server.ports import OPENAI_PORT

Messages = list[dict[str, str]]  # [{"role": "user", "content": "..."}, ...]
DEFAULT_URL = f"http://127.0.0.1:{OPENAI_PORT}/v1"
# Each request has a connection of its own. Today's WebUI closes one after an error 500 without saying so: the
# next request on it would fail, and nobody could tell whether the server had read it.
ONE_REQUEST = {"Connection": "close"}


def make_openai_client(base_url: str = DEFAULT_URL, api_key: str = "none") -> openai.OpenAI:
    """The official client for your own server, which needs no key unless it was started with one.

    It keeps the proxy rule of helpers.common.http: MissingPackageError if that needs a SOCKS proxy.
    """
    with explain_missing_socks():
        transport = openai.DefaultHttpxClient(trust_env=not is_local(base_url))
    return openai.OpenAI(
        base_url=base_url, api_key=api_key, max_retries=0, default_headers=ONE_REQUEST, http_client=transport
    )


def make_async_openai_client(base_url: str = DEFAULT_URL, api_key: str = "none") -> openai.AsyncOpenAI:
    """Like `make_openai_client`, for programs that have many requests under way at the same time.

    Close it with `await client.close()`, or use `async with`.
    """
    with explain_missing_socks():
        transport = openai.DefaultAsyncHttpxClient(trust_env=not is_local(base_url))
    return openai.AsyncOpenAI(
        base_url=base_url, api_key=api_key, max_retries=0, default_headers=ONE_REQUEST, http_client=transport
    )


def ask_openai(client: openai.OpenAI, messages: Messages, model: str = "x", **params: Any) -> str:
    """The text of the reply to `messages`; `params` are further fields of the API, such as max_tokens.

    Raises a ServerError if the server is out of reach, refuses the request or gives no answer.
    """
    request = build_request(messages, model, params)
    with explain_openai_errors(client.base_url):
        completion = client.chat.completions.create(**request)
    return read_answer(completion, client.base_url)


async def ask_openai_async(
    client: openai.AsyncOpenAI, messages: Messages, model: str = "x", **params: Any
) -> str:
    """Like `ask_openai`, without blocking the program while it waits."""
    request = build_request(messages, model, params)
    with explain_openai_errors(client.base_url):
        completion = await client.chat.completions.create(**request)
    return read_answer(completion, client.base_url)


def stream_openai(
    client: openai.OpenAI, messages: Messages, model: str = "x", **params: Any
) -> Iterator[str]:
    """The text of the reply, piece by piece as it comes.

    Raises a ServerError as `ask_openai` does, and if the stream ends before the answer does.
    """
    request = build_request(messages, model, {**params, "stream": True})
    finished = False
    with explain_openai_errors(client.base_url), client.chat.completions.create(**request) as chunks:
        for chunk in read_until_broken(chunks):
            for choice in chunk.choices or ():  # a chunk that carries only the usage has none
                finished = finished or choice.finish_reason is not None
                if choice.delta.content:
                    yield choice.delta.content
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
    """The arguments for the client's `chat.completions.create`."""
    return {"messages": messages, "model": model, **params}


def read_answer(completion: Any, base_url: object) -> str:
    """The text of the first answer; "" if it has none (a tool call). A ServerError if there is no answer."""
    choices = getattr(completion, "choices", None)  # the client does not check what a server replies
    if not choices:
        remedy = "Check the address: what answers there is not an OpenAI-style API."
        raise ServerError(f"The reply of {base_url} has no answer in it.", remedy)
    return choices[0].message.content or ""


@contextlib.contextmanager
def explain_openai_errors(base_url: object) -> Iterator[None]:
    """Turns what the OpenAI clients raise inside the block, sync or async, into a ServerError."""
    try:
        yield
    except openai.APITimeoutError:
        remedy = "Ask for fewer tokens, or give timeout=, in seconds."
        raise ServerError(f"No reply from {base_url} in time.", remedy) from None
    except openai.APIConnectionError as error:
        cause = error.__cause__ or error
        problem = f"No server answers at {base_url}, or it broke off ({cause})."
        remedy = "Start one with --extensions openai, and check its port and its output."
        raise ServerError(problem, remedy) from None
    except openai.APIStatusError as error:
        response = error.response
        text = response.text
        raise build_refusal(error.status_code, response.reason_phrase, text, SERVER_REMEDIES) from None
    except openai.APIError as error:
        problem = f"{base_url} gave no complete answer: {error.message}"
        raise ServerError(problem, "Look at the server's output.") from None
