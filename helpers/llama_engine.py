"""The engine on llama.cpp: a GGUF file as it is, with llama.cpp's own server inside this process (xllamacpp), which batches what comes together.

It listens on this computer only, on a port of the system's choice, and answers to a key that is drawn at the start.
"""

import importlib
import importlib.util
import json
import os
import secrets
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from types import ModuleType

import requests

from helpers import KitError
from helpers.engines import GREEDY_BELOW, Engine
from helpers.generation import Generation, GenerationRequest, Piece

CONTEXT = 8192  # tokens, all conversations of a moment together; 23 kB each for the embedded model
PARALLEL = 4  # answers that are computed together; more wait
SEEDS = 2**32  # llama.cpp's have 32 bits


def import_xllamacpp() -> ModuleType:
    """The module; KitError where it is not installed.

    Its threads meet so often that waiting ones must spin for a moment: with the kit's setting for torch (OMP_WAIT_POLICY=PASSIVE) it has less
    than half of its speed. The setting is read at import. ACTIVE would spin on between two answers.
    """
    if not importlib.util.find_spec("xllamacpp"):
        raise KitError("GGUF files need xllamacpp.", "Install it: pip install -c constraints.txt -e '.[llamacpp]'")
    policy = os.environ.pop("OMP_WAIT_POLICY", None)
    try:
        return importlib.import_module("xllamacpp")
    finally:
        if policy:
            os.environ["OMP_WAIT_POLICY"] = policy


class LlamaEngine(Engine):
    """A GGUF file in llama.cpp."""

    def __init__(self, folder: Path):
        super().__init__()
        self._threads = ThreadPoolExecutor(PARALLEL, thread_name_prefix="inference")
        xllamacpp = import_xllamacpp()
        settings = xllamacpp.CommonParams()
        settings.model.path = str(next(folder.glob("*.gguf")))
        settings.n_ctx, settings.n_parallel, settings.kv_unified = CONTEXT, PARALLEL, True
        settings.cpuparams.n_threads = os.cpu_count()
        settings.api_keys, settings.verbosity = [secrets.token_hex()], 0  # 3, its default, is a page of log
        try:
            self._server = xllamacpp.Server(settings)
        except RuntimeError:  # it says no more than that
            raise KitError(f"llama.cpp cannot load {settings.model.path}: damaged, or too large.", "Fetch it again, or free memory.") from None
        self._headers = {"Authorization": f"Bearer {settings.api_keys[0]}"}
        defaults = self._ask("GET", "/props").json()["default_generation_settings"]
        self._advice, self.context = defaults["params"], defaults["n_ctx"]
        self.name, self.adapters = folder.name, []

    def _ask(self, method: str, path: str, body: dict | None = None, stream: bool = False) -> requests.Response:
        """llama.cpp's reply; its refusals as KitError."""
        reply = requests.request(method, self._server.listening_address + path, json=body, stream=stream, headers=self._headers)
        if reply.status_code >= 400:
            raise KitError(f"llama.cpp refuses this: {reply.json()['error']['message']}.", "Change the request.")
        return reply

    def read_advice(self, name: str, neutral: float) -> float:
        """llama.cpp's default for the setting, since a GGUF file seldom has one."""
        return self._advice.get(name) or neutral

    def count_tokens(self, text: str) -> int:
        """How many tokens a text has, special ones that the tokenizer adds included."""
        return len(self.tokenize(text))

    def tokenize(self, text: str, add_special: bool = True) -> list[int]:
        """The text's token ids, with the special ones that the tokenizer adds unless `add_special` is False."""
        return self._ask("POST", "/tokenize", {"content": text, "add_special": add_special, "parse_special": True}).json()["tokens"]

    def measure_log_probability(self, before: list[int], token: int) -> float:
        """Log-probability, in nats, of `token` after the tokens `before`. llama.cpp lists the likeliest only, so the list grows until it is in it."""
        for count in (64, 2048, 1 << 20):
            body = {"prompt": before, "n_predict": 1, "temperature": 0, "n_probs": count, "cache_prompt": True}
            listed = self._ask("POST", "/completion", body).json()["completion_probabilities"][0]["top_logprobs"]
            if found := [entry["logprob"] for entry in listed if entry["id"] == token]:
                return found[0]
        raise KitError(f"The model has no token {token}.", "Take token ids from its own tokenizer.")

    def render(self, messages: list[dict[str, str]], continue_last: bool = False) -> str:
        """The prompt of the model's own chat template; llama.cpp lengthens a last message of the assistant by itself."""
        return self._ask("POST", "/apply-template", {"messages": messages}).json()["prompt"]

    def check(self, request: GenerationRequest) -> list[int]:
        """The prompt's token ids. KitError for an adapter, a template that refuses the messages, a prompt that leaves no room."""
        self.check_adapter(request)
        if request.prompt is None:
            ids = self.tokenize(self.render(request.messages, request.continue_last), add_special=False)
        else:
            ids = self.tokenize(request.prompt, request.add_special_tokens)
        return self.fit_prompt(ids, request.keep_last)

    def submit(self, request: GenerationRequest, prompt: list[int], emit: Callable[[Piece], None]) -> Future:
        """One of PARALLEL threads reads llama.cpp's stream."""
        return self._threads.submit(self._run, request, prompt, emit)

    def _run(self, request: GenerationRequest, prompt: list[int], emit: Callable[[Piece], None]) -> Generation:
        """llama.cpp stops when its client leaves."""
        self.refuse_when_closed()
        count, reason = 0, "length"
        if request.cancelled.is_set():
            return Generation("", len(prompt), count, reason)
        with self._ask("POST", "/completion", self._build_body(request, prompt), stream=True) as reply:
            for event in read_events(reply):
                if event["content"]:
                    emit(Piece(event["content"]))
                count = event["tokens_predicted"]
                if event["stop"]:
                    reason = "length" if event["stop_type"] == "limit" else "stop"
                elif self.must_end(request):
                    break
        return Generation("", len(prompt), count, reason)

    def _build_body(self, request: GenerationRequest, ids: list[int]) -> dict:
        """llama.cpp's request: every sampler that the kit has no setting for is off."""
        body = {"prompt": ids, "stream": True, "cache_prompt": True, "stop": [text for text in request.stop if text], "min_p": 0}
        body["n_predict"] = max(1, min(request.max_new_tokens, self.context - len(ids)))
        body |= {"repeat_penalty": request.repetition_penalty, "repeat_last_n": self.context}
        body |= {} if request.seed is None else {"seed": request.seed % SEEDS}
        temperature = request.temperature if request.temperature >= GREEDY_BELOW else 0
        return body | {"temperature": temperature, "top_p": request.top_p, "top_k": request.top_k, "typical_p": request.typical_p}


def read_events(reply: requests.Response) -> Iterator[dict]:
    """The JSON of server-sent events; a KitError for an error that comes in mid-stream."""
    for line in reply.iter_lines(chunk_size=None):
        if line.startswith(b"data: {"):
            event = json.loads(line[6:])
            if "content" not in event:
                raise KitError(f"llama.cpp failed: {event.get('error', event)}.", "Ask again.")
            yield event
