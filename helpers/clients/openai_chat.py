"""The calls a user makes: the raw API and the OpenAI client, whole answers and streams, and starting a server to call.

They run against the kit's server and against the WebUI, of 2023 (raw) and of today (OpenAI); every failure is a KitError with a remedy.
"""

import contextlib
from collections.abc import Iterator

import openai

from helpers.common.errors import KitError
from helpers.common.http import build_refusal
from helpers.server.ports import OPENAI_PORT


def make_openai_client(
    base_url: str = f"http://127.0.0.1:{OPENAI_PORT}/v1", api_key: str = "none"
) -> openai.OpenAI:
    """The official client, pointed at a server of one's own; such a server asks for no key unless it was started with one."""
    return openai.OpenAI(base_url=base_url, api_key=api_key, max_retries=0)


def ask_openai(client: openai.OpenAI, messages: list[dict[str, str]], model: str = "x", **params) -> str:
    """The reply's text to messages, over the OpenAI API. KitError when the server is away or refuses."""
    with explain_openai_errors(client.base_url):
        return (
            client.chat.completions.create(model=model, messages=messages, **params)
            .choices[0]
            .message.content
        )


def stream_openai(
    client: openai.OpenAI, messages: list[dict[str, str]], model: str = "x", **params
) -> Iterator[str]:
    """The pieces of the reply's text, as they come. KitError as ask_openai, and when the stream ends before the answer does."""
    finished = False
    with (
        explain_openai_errors(client.base_url),
        client.chat.completions.create(model=model, messages=messages, stream=True, **params) as chunks,
    ):
        for choice in (
            choice for chunk in chunks for choice in chunk.choices
        ):  # a chunk that brings only the usage has none
            finished = finished or choice.finish_reason is not None
            if choice.delta.content:
                yield choice.delta.content
    if not finished:
        remedy = "The WebUI does so for an error that it finds late: check that a model is loaded, the messages, the parameters; see its output."
        raise KitError(f"{client.base_url} ended the stream before the answer's end.", remedy)


def make_async_openai_client(
    base_url: str = f"http://127.0.0.1:{OPENAI_PORT}/v1", api_key: str = "none"
) -> openai.AsyncOpenAI:
    """As make_openai_client, for programs that ask many things at once; close it with `await client.close()` or `async with`."""
    return openai.AsyncOpenAI(base_url=base_url, api_key=api_key, max_retries=0)


async def ask_openai_async(
    client: openai.AsyncOpenAI, messages: list[dict[str, str]], model: str = "x", **params
) -> str:
    """As ask_openai, without holding up the program while it waits."""
    with explain_openai_errors(client.base_url):
        return (
            (await client.chat.completions.create(model=model, messages=messages, **params))
            .choices[0]
            .message.content
        )


@contextlib.contextmanager
def explain_openai_errors(base_url: object) -> Iterator[None]:
    """Turns what the OpenAI clients raise, the plain and the async one, into a KitError."""
    try:
        yield
    except openai.APITimeoutError:
        raise KitError(
            f"No reply from {base_url} in time.", "Ask for fewer tokens, or give timeout=, in seconds."
        ) from None
    except openai.APIConnectionError as error:
        problem = f"No server answers at {base_url}, or it broke off ({error.__cause__ or error})."
        raise KitError(
            problem, "Start one with --extensions openai, and look at its port and its output."
        ) from None
    except openai.APIStatusError as error:
        raise build_refusal(error.status_code, error.response.reason_phrase, error.response.text) from None
    except openai.APIError as error:
        raise KitError(
            f"{base_url} gave no whole answer: {error.message}", "Look at the server's output."
        ) from None
