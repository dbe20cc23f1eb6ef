"""llama.cpp in this process, through the package xllamacpp.

xllamacpp runs llama.cpp's own server. Answers stream through a function call; everything else goes over HTTP.
The server listens on this computer only, on a free port, and requires a key that is drawn at the start.
"""

import contextlib
import importlib
import importlib.util
import json
import os
import secrets
import signal
import threading
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any, NotRequired, TypedDict

import psutil

from helpers.adapters.folders import AdapterFolder
from helpers.adapters.gguf import export_gguf, read_base
from helpers.common.errors import DamagedError, MissingPackageError, UsageError
from helpers.common.http import open_session
from helpers.weights.gguf_header import TOKENS, read_header

MAX_CONTEXT = 8192  # tokens of a conversation at most
PARALLEL = 16  # answers computed together at most; more wait. On 2 cores 16 are 1.3 times as fast as 4
MEMORY_SHARE = 1 / 4  # the conversations may take this share of the free memory
BYTES_PER_NUMBER = 2  # llama.cpp keeps keys and values in 16 bits
# Tokens of a prompt that are read at once, in half a second on two cores. Between two such steps llama.cpp
# notices that the answer is no longer wanted.
PROMPT_STEP = 256
# How many next tokens are listed at the first, second and third try. The last is more than any vocabulary
# has.
LIST_LENGTHS = (64, 2048, 1 << 20)


class ListedToken(TypedDict):
    """A token in llama.cpp's replies."""

    id: int
    bytes: list[int]
    logprob: float  # nats
    top_logprobs: NotRequired[list["ListedToken"]]  # the likeliest tokens in its place


def import_xllamacpp() -> ModuleType:
    """The module xllamacpp. MissingPackageError if it is not installed."""
    if not importlib.util.find_spec("xllamacpp"):
        raise MissingPackageError(
            "GGUF files need xllamacpp.", "Install it: pip install -c constraints.txt -e '.[llamacpp]'"
        )
    return importlib.import_module("xllamacpp")


@dataclass(frozen=True)
class ConversationPlan:
    """How many answers llama.cpp computes at the same time, and how long each conversation may become."""

    count: int
    context: int  # tokens of each


def plan_conversations(settings: Mapping[str, Any], free: float, most: int = PARALLEL) -> ConversationPlan:
    """The plan for a model with these settings (those of the GGUF header) and `free` bytes of memory.

    There are at least one and at most `most` conversations. Each gets memory for its whole context at the
    start: if they shared it, all of them would end in an error once it is full.
    """
    family = settings.get("general.architecture")

    def read(key: str) -> int:
        return settings.get(f"{family}.{key}") or 0

    context = min(read("context_length") or MAX_CONTEXT, MAX_CONTEXT)
    heads = read("attention.head_count") or 1
    head_size = read("attention.key_length") or read("embedding_length") / heads
    kv_heads = read("attention.head_count_kv") or heads
    numbers_per_token = 2 * read("block_count") * kv_heads * head_size  # 2: keys and values
    needed = context * numbers_per_token * BYTES_PER_NUMBER
    if not needed:  # the header does not say how large the model is
        return ConversationPlan(most, context)
    fitting = int(free * MEMORY_SHARE / needed)
    return ConversationPlan(max(1, min(most, fitting)), context)


def make_settings(
    xllamacpp: ModuleType, gguf: Path, loras: list[Path], plan: ConversationPlan, api_key: str
) -> Any:
    """llama.cpp's settings, an xllamacpp.CommonParams."""
    settings = xllamacpp.CommonParams()
    settings.model.path = str(gguf)
    settings.n_parallel = plan.count
    settings.n_ctx = plan.count * plan.context  # of all conversations together
    settings.kv_unified = False  # each conversation has its own part of the context
    settings.n_batch = PROMPT_STEP
    # Otherwise it keeps old conversations, and may continue one that another LoRA has computed.
    settings.cache_ram_mib = 0
    turned_off = 0.0  # each request turns on the one that it wants
    settings.lora_adapters = [xllamacpp.CommonAdapterLoraInfo(str(lora), turned_off) for lora in loras]
    settings.cpuparams.n_threads = os.cpu_count()
    settings.api_keys = [api_key]  # no other program on this computer may use it
    settings.verbosity = 0  # the default, 3, writes a page of log
    return settings


def convert_loras(loras: Sequence[AdapterFolder], gguf: Path, target: Path) -> list[Path]:
    """Converts LoRAs for the base model in `gguf`, into the folder `target`. Returns the new files."""
    if not loras:
        return []
    base = read_base(gguf)
    return [export_gguf(lora, base, target / f"{lora.name}.gguf") for lora in loras]


@contextlib.contextmanager
def hold_interrupts() -> Iterator[None]:
    """Lets Ctrl-C take effect behind the block. Only in the main thread, which alone gets it.

    llama.cpp is taken apart by Python when nobody needs it any more. Between its start and its first answer
    that waits for ever, with Python's lock.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    came: list[int] = []
    before = signal.signal(signal.SIGINT, lambda number, _: came.append(number))
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before or signal.SIG_DFL)
        if came:
            signal.raise_signal(signal.SIGINT)


def check_vocabulary(gguf: Path, tokens: list[str]) -> None:
    """Raises DamagedError if a token is there twice: llama.cpp would end the process, with no exception."""
    readable = [token for token in tokens if "\ufffd" not in token]  # others can look alike and differ
    twice = [token for token, count in Counter(readable).items() if count > 1]
    if twice:
        raise DamagedError(f"{gguf} is damaged: its vocabulary has {twice[0]!r} twice.", "Fetch it again.")


class LlamaServer:
    """llama.cpp with a GGUF file and LoRAs (GGUF, too), which requests turn on by their place in the list."""

    def __init__(self, gguf: Path, loras: list[Path], parallel: int = PARALLEL):
        """Loads the model and returns when the server answers; computes at most `parallel` answers together.

        Raises DamagedError if llama.cpp cannot load the file, and MissingPackageError.
        """
        xllamacpp = import_xllamacpp()
        header = read_header(gguf, (TOKENS,))[0]
        check_vocabulary(gguf, header.get(TOKENS, []))
        plan = plan_conversations(header, psutil.virtual_memory().available, parallel)
        self.parallel = plan.count
        api_key = secrets.token_hex()
        self._headers = {"Authorization": f"Bearer {api_key}"}
        with hold_interrupts():
            try:
                self._server = xllamacpp.Server(make_settings(xllamacpp, gguf, loras, plan, api_key))
            except RuntimeError:  # it does not say why
                raise DamagedError(
                    f"llama.cpp cannot load {gguf}: it is damaged or too large.",
                    "Fetch it again, or free memory.",
                ) from None
            self.ask("/lora-adapters")  # answered by its loop, without which it cannot be taken apart

    def ask(self, path: str, body: dict[str, Any] | None = None) -> Any:
        """llama.cpp's reply to a POST with this body, or to a GET without one; UsageError if it refuses."""
        method = "GET" if body is None else "POST"
        address = self._server.listening_address + path
        with open_session() as session:
            reply = session.request(method, address, json=body, headers=self._headers).json()
        refuse_error(reply)
        return reply

    def complete(self, body: dict[str, Any], take: Callable[[dict[str, Any]], bool]) -> None:
        """Streams a completion: passes each event to `take`, until `take` returns False.

        The events have the shape of OpenAI's /v1/completions. While a long prompt is read, there are events
        with `prompt_progress`. Raises UsageError if llama.cpp refuses the request, and what `take` raises.
        """
        failures: list[BaseException] = []

        def pass_on(event: bytes) -> bool:
            """What llama.cpp calls with each event; True ends the answer. It would lose an exception."""
            try:
                parsed = json.loads(event)
                refuse_error(parsed)
                return not take(parsed)
            except BaseException as error:
                failures.append(error)
                return True

        request = {**body, "stream": True, "return_progress": True}
        self._server.handle_completions(json.dumps(request).encode(), pass_on)
        if failures:
            raise failures[0]

    def find_likeliest(
        self, before: list[int], matches: Callable[[ListedToken], bool], settings: dict[str, Any]
    ) -> list[ListedToken]:
        """The tokens that may follow the ids `before` and for which `matches` is true, likeliest first.

        llama.cpp lists only as many next tokens as it is asked for, so the list grows until one of them
        matches. `settings`, which name the LoRA, are added to the request.

        The list comes with the token that llama.cpp chooses, and it omits both if that token is a part of a
        character, since it then waits for the rest. Hence the grammar, which allows no answer but "a": it
        forces the choice of a whole character. The listed probabilities stay the model's own, since llama.cpp
        takes them before the grammar.
        """
        for length in LIST_LENGTHS:
            body = {
                "prompt": before,
                "n_predict": 1,
                "temperature": 0,
                "n_probs": length,
                "grammar": 'root ::= "a"',
                "cache_prompt": False,  # another LoRA may have computed what the slot holds
                **settings,
            }
            listed = self.ask("/completion", body)["completion_probabilities"][0]["top_logprobs"]
            found = [entry for entry in listed if matches(entry)]
            if found:
                return found
        return []


def refuse_error(reply: Any) -> None:
    """UsageError if llama.cpp's reply reports an error."""
    if "error" in reply:
        error = reply["error"]
        message = error.get("message", error) if isinstance(error, dict) else error
        raise UsageError(f"llama.cpp refuses this request: {message}.", "Change the request.")
