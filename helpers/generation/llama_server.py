"""llama.cpp in this process (xllamacpp): its own server, spoken to by function calls where answers stream, over HTTP for the rest.

It listens on this computer only, on a port of the system's choice, and answers to a key that is drawn at the start.
"""

import importlib
import importlib.util
import json
import os
import secrets
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import psutil
import requests

from helpers.common.errors import KitError
from helpers.weights.gguf_header import read_header

CONTEXT = 8192  # tokens of a conversation at most


PARALLEL = 4  # answers that are computed together at most; more wait. 16 have the same speed in sum


MEMORY_PART = 4  # what conversations hold is at most this part of the memory that is free: a fourth


PROMPT_STEP = (
    256  # tokens of a prompt between two looks at whether it is still wanted: half a second on two cores
)


def import_xllamacpp() -> ModuleType:
    """The module; KitError where it is not installed."""
    if not importlib.util.find_spec("xllamacpp"):
        raise KitError(
            "GGUF files need xllamacpp.", "Install it: pip install -c constraints.txt -e '.[llamacpp]'"
        )
    return importlib.import_module("xllamacpp")


def plan_conversations(header: dict[str, object], free: float, most: int = PARALLEL) -> tuple[int, int]:
    """(how many at once, tokens of each) for a GGUF file's settings and bytes of free memory; `most` is the limit of the first.

    Each gets its whole room at the start: in a room that all share, they end in an error when it is full.
    """
    family = header.get("general.architecture")
    number = {
        key: header.get(f"{family}.{key}")
        for key in ("context_length", "block_count", "embedding_length", "attention.head_count")
    }
    context, heads = min(number["context_length"] or CONTEXT, CONTEXT), number["attention.head_count"] or 1
    size = header.get(f"{family}.attention.key_length") or (number["embedding_length"] or 0) / heads
    heads = header.get(f"{family}.attention.head_count_kv") or heads
    needed = context * (number["block_count"] or 0) * heads * size * 2 * 2  # keys and values, two bytes each
    return max(1, min(most, int(free / MEMORY_PART / needed) if needed else most)), context


class LlamaServer:
    """llama.cpp with one GGUF file and the LoRAs in `adapters`, GGUF files too, each of which a request turns on by its place in the list."""

    def __init__(self, gguf: Path, adapters: list[Path], parallel: int = PARALLEL):
        xllamacpp = import_xllamacpp()
        settings = xllamacpp.CommonParams()
        settings.model.path = str(gguf)
        self.parallel, context = plan_conversations(
            read_header(gguf)[0], psutil.virtual_memory().available, parallel
        )
        settings.n_parallel, settings.n_ctx, settings.kv_unified = (
            self.parallel,
            self.parallel * context,
            False,
        )
        settings.n_batch = PROMPT_STEP
        settings.cache_ram_mib = (
            0  # else it keeps old conversations aside, and takes one of another LoRA's for its own
        )
        settings.lora_adapters = [xllamacpp.CommonAdapterLoraInfo(str(path), 0.0) for path in adapters]
        settings.cpuparams.n_threads = os.cpu_count()
        settings.api_keys, settings.verbosity = [secrets.token_hex()], 0  # 3, its default, is a page of log
        try:
            self._server = xllamacpp.Server(settings)
        except RuntimeError:  # it says no more than that
            raise KitError(
                f"llama.cpp cannot load {gguf}: damaged, or too large.", "Fetch it again, or free memory."
            ) from None
        self._headers = {"Authorization": f"Bearer {settings.api_keys[0]}"}

    def ask(self, path: str, body: dict | None = None) -> dict:
        """llama.cpp's whole reply to a POST, or to a GET where there is no body; its refusals as KitError."""
        method = "GET" if body is None else "POST"
        reply = requests.request(
            method, self._server.listening_address + path, json=body, headers=self._headers
        )
        refuse_error(reply.json())
        return reply.json()

    def complete(self, body: dict, take: Callable[[dict], bool]) -> None:
        """Streams a completion, in the shape of OpenAI's /v1/completions: each event goes to `take`, until it returns False.

        `prompt_progress` events come while a long prompt is read.
        """
        failures = []

        def hand_over(event: bytes) -> bool:  # true ends the answer; what it raises would be lost
            try:
                return not take(refuse_error(json.loads(event)))
            except BaseException as error:
                failures.append(error)
                return True

        self._server.handle_completions(
            json.dumps({**body, "stream": True, "return_progress": True}).encode(), hand_over
        )
        if failures:
            raise failures[0]

    def find_likeliest(
        self, before: list[int], matches: Callable[[dict], bool], settings: dict
    ) -> list[dict]:
        """The tokens that may follow the ids `before` and match, likeliest first: {"id", "bytes", "logprob"} each.

        llama.cpp lists the likeliest only, so the list grows until one matches.
        """
        for count in (64, 2048, 1 << 20):
            # It says nothing of a token that is half a character: the grammar makes it choose another one, and changes no probability.
            body = {
                "prompt": before,
                "n_predict": 1,
                "temperature": 0,
                "n_probs": count,
                "grammar": 'root ::= "a"',
                **settings,
            }
            listed = self.ask("/completion", body)["completion_probabilities"][0]["top_logprobs"]
            if found := [entry for entry in listed if matches(entry)]:
                return found
        return []


def refuse_error(reply: dict) -> dict:
    """The reply; KitError for one that tells of an error."""
    if "error" in reply:
        raise KitError(
            f"llama.cpp refuses this: {reply['error'].get('message', reply['error'])}.", "Change the request."
        )
    return reply
