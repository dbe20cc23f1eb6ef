"""The calls a user makes: the raw API and the OpenAI client, whole answers and streams, and starting a server to call.

They run against the kit's server and against the WebUI, of 2023 (raw) and of today (OpenAI); every failure is a KitError with a remedy.
"""

import html
from collections.abc import Iterator

import openai

from helpers import KitError
from helpers.running import RunningServer, find_port, refuse_taken_port
from helpers.transport import explain_openai_errors, send_request, stream_events

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

RAW_PORT, OPENAI_PORT, STREAMING_PORT = 5000, 5001, 5005
PORTS = {"raw": RAW_PORT, "streaming": STREAMING_PORT, "openai": OPENAI_PORT}
FLAGS = {"raw": "--api-blocking-port", "streaming": "--api-streaming-port", "openai": "--openai-port"}


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
        raise KitError("The reply has no history in it.", "Look at the address: what answers there is no raw API.") from None
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
    return read_history(reply["results"][0] if isinstance(reply, dict) and reply.get("results") else reply, body)


def last_reply(history: dict) -> str:
    """The newest reply as plain text, read the way clients of 2023 did: the visible one, its HTML escapes undone."""
    return html.unescape(history["visible"][-1][1])


def stream_raw(
    prompt: str, url: str = f"ws://127.0.0.1:{STREAMING_PORT}", timeout: float = 300, api_key: str | None = None, **params
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


def make_openai_client(base_url: str = f"http://127.0.0.1:{OPENAI_PORT}/v1", api_key: str = "none") -> openai.OpenAI:
    """The official client, pointed at a server of one's own; such a server asks for no key unless it was started with one."""
    return openai.OpenAI(base_url=base_url, api_key=api_key, max_retries=0)


def ask_openai(client: openai.OpenAI, messages: list[dict[str, str]], model: str = "x", **params) -> str:
    """The reply's text to messages, over the OpenAI API. KitError when the server is away or refuses."""
    with explain_openai_errors(client.base_url):
        return client.chat.completions.create(model=model, messages=messages, **params).choices[0].message.content


def stream_openai(client: openai.OpenAI, messages: list[dict[str, str]], model: str = "x", **params) -> Iterator[str]:
    """The pieces of the reply's text, as they come. KitError as ask_openai, and when the stream ends before the answer does."""
    finished = False
    with explain_openai_errors(client.base_url), client.chat.completions.create(model=model, messages=messages, stream=True, **params) as chunks:
        for choice in (choice for chunk in chunks for choice in chunk.choices):  # a chunk that brings only the usage has none
            finished = finished or choice.finish_reason is not None
            if choice.delta.content:
                yield choice.delta.content
    if not finished:
        remedy = "The WebUI does so for an error that it finds late: check that a model is loaded, the messages, the parameters; see its output."
        raise KitError(f"{client.base_url} ended the stream before the answer's end.", remedy)


def make_async_openai_client(base_url: str = f"http://127.0.0.1:{OPENAI_PORT}/v1", api_key: str = "none") -> openai.AsyncOpenAI:
    """As make_openai_client, for programs that ask many things at once; close it with `await client.close()` or `async with`."""
    return openai.AsyncOpenAI(base_url=base_url, api_key=api_key, max_retries=0)


async def ask_openai_async(client: openai.AsyncOpenAI, messages: list[dict[str, str]], model: str = "x", **params) -> str:
    """As ask_openai, without holding up the program while it waits."""
    with explain_openai_errors(client.base_url):
        return (await client.chat.completions.create(model=model, messages=messages, **params)).choices[0].message.content


def start_server(model: str, loras: list[str] | tuple[str, ...] = (), extra: list[str] | tuple[str, ...] = ()) -> RunningServer:
    """Starts the tutorial server with both APIs, on 5000, 5005 and 5001 when they are free, and returns when it answers.

    `extra` goes to its command line. Raises KitError with the server's last line when it does not start.
    """
    ports = {name: find_port(port) for name, port in PORTS.items()}
    raw, streaming, other = ports.values()
    taken = " and ".join(str(port) for name, port in PORTS.items() if port != ports[name])
    note = f"In use: port {taken}. This server listens on {raw} (raw), {streaming} (raw, streaming) and {other} (OpenAI)." if taken else ""
    server = launch_server(model, ports, loras, extra, note)
    server.wait_until_ready()
    return server


def launch_server(
    model: str, ports: dict[str, int], loras: list[str] | tuple[str, ...] = (), extra: list[str] | tuple[str, ...] = (), note: str = ""
) -> RunningServer:
    """Starts the tutorial server on these very ports and returns at once; its `wait_until_ready` waits.

    The names in `ports` choose the APIs: "raw" with "streaming", "openai". KitError for a port that is taken, and when there is no API.
    """
    if not {"raw", "openai"} & ports.keys():
        raise KitError("No API was chosen.", "Choose the raw API, the OpenAI-style one, or both.")
    for port in ports.values():
        refuse_taken_port(port)
    arguments = ["--model", model, *(["--lora", *loras] if loras else [])]
    arguments += [*(["--api"] if "raw" in ports else []), *(["--extensions", "openai"] if "openai" in ports else [])]
    arguments += [word for name, port in ports.items() if port != PORTS[name] for word in (FLAGS[name], str(port))]
    raw, streaming, other = ({**PORTS, **ports}[name] for name in PORTS)
    server = RunningServer([*arguments, *extra], raw, streaming, other, note, (*loras, model))
    addresses = {"raw": f"{server.raw_url}/api/v1/model", "openai": f"{server.openai_url}/models"}
    server.waits_for = tuple(url for name, url in addresses.items() if name in ports)
    return server
