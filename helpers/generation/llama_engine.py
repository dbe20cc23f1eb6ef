"""The engine on llama.cpp: it reads a GGUF file directly, and LoRAs that are converted to GGUF while loading.

llama.cpp itself computes simultaneous requests together.
"""

import tempfile
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

from helpers.adapters.folders import AdapterFolder
from helpers.adapters.gguf import export_gguf, read_base
from helpers.common.errors import UnsupportedError
from helpers.generation.engine import GREEDY_BELOW, Engine, UnknownToken
from helpers.generation.llama_answer import Answer
from helpers.generation.llama_chat import make_llama_chat
from helpers.generation.llama_server import PARALLEL, LlamaServer
from helpers.generation.request import Generation, GenerationRequest, Piece
from helpers.weights.folders import ModelFolder

RANDOM_SEED = 2**32 - 1  # llama.cpp's seeds have 32 bits, and for this one it draws another


class LlamaEngine(Engine):
    """Generates with a GGUF file in llama.cpp, and with LoRAs."""

    # The presence and frequency penalties count the tokens of the prompt, too.
    honoured = frozenset(
        {
            "presence_penalty",
            "frequency_penalty",
            "logit_bias",
            "repetition_penalty_range",
            "mirostat_mode",
            "mirostat_tau",
            "mirostat_eta",
            "ban_eos",
            "grammar",
        }
    )

    def __init__(
        self,
        folder: ModelFolder,
        loras: Sequence[AdapterFolder] = (),
        parallel: int = PARALLEL,
        chat_template: str | None = None,
    ):
        """Loads the GGUF file in `folder`, and `loras`.

        At most `parallel` answers are computed together. `chat_template` overrides pick_template. Raises what
        LlamaServer, export_gguf and make_llama_chat raise.
        """
        super().__init__()
        gguf = folder.gguf
        if gguf is None:
            raise UnsupportedError(f"{folder.name} has no GGUF file.", "Name a folder with one.")
        with tempfile.TemporaryDirectory() as scratch:  # llama.cpp has read the files when its server is up
            self.server = LlamaServer(gguf, convert_loras(loras, gguf, Path(scratch)), parallel)
        defaults = self.server.ask("/props")["default_generation_settings"]
        self._advice = defaults["params"]
        self.name = folder.name
        self.context = defaults["n_ctx"]
        self.vocabulary_size = self.server.ask("/v1/models")["data"][0]["meta"]["n_vocab"]
        self.adapters = [lora.name for lora in loras]
        encode = partial(self.encode, add_special=False)
        self.chat, self.template, self.bos_id = make_llama_chat(folder, encode, chat_template)
        self._threads = ThreadPoolExecutor(self.server.parallel, thread_name_prefix="inference")

    def read_advice(self, name: str, neutral: float) -> float:
        """llama.cpp's default for "temperature" or "top_p", since a GGUF file seldom recommends one."""
        return self._advice.get(name) or neutral

    def encode(self, text: str, add_special: bool) -> list[int]:
        """The text's token ids, with the special tokens that the tokenizer adds if `add_special` is true."""
        body = {"content": text, "add_special": add_special, "parse_special": True}
        return self.server.ask("/tokenize", body)["tokens"]

    def measure_log_probability(self, before: list[int], token: int) -> float:
        """Log-probability, in nats, of a token id after the ids `before`, without LoRAs.

        Raises UnknownToken.
        """
        found = self.server.find_likeliest(
            before, lambda entry: entry["id"] == token, self.describe_adapter(None)
        )
        if not found:
            raise UnknownToken(f"The model has no token {token}.", "Use token ids of its own tokenizer.")
        return found[0]["logprob"]

    def submit(
        self, request: GenerationRequest, prompt: list[int], emit: Callable[[Piece], None]
    ) -> Future[Generation]:
        """Hands the request to a thread; there are as many of them as llama.cpp has conversations."""
        return self._threads.submit(self._run, request, prompt, emit)

    def close(self) -> None:
        """Ends running answers at their next token and refuses waiting requests with EngineStopping."""
        super().close()
        self._threads.shutdown(wait=False)

    def _run(
        self, request: GenerationRequest, prompt: list[int], emit: Callable[[Piece], None]
    ) -> Generation:
        """Computes an answer, whose pieces go to `emit`. The Generation has no text."""
        self.refuse_if_closed()
        if request.cancelled.is_set():
            return Generation("", len(prompt), 0, "length")
        adapter = self.describe_adapter(request.adapter)
        find_likeliest = partial(self.server.find_likeliest, settings=adapter)
        answer = Answer(request, prompt, emit, partial(self.must_end, request), find_likeliest)
        body = build_body(request, prompt, self.context)
        self.server.complete({**body, **adapter}, answer.take)
        reason = answer.finish()
        return Generation("", len(prompt), answer.count, reason)

    def describe_adapter(self, adapter: str | None) -> dict[str, Any]:
        """The part of llama.cpp's request that turns a LoRA on and says whether the prompt cache may be used.

        With LoRAs it may not: llama.cpp would also take what another LoRA has computed.
        """
        turned_on = [{"id": self.adapters.index(adapter), "scale": 1.0}] if adapter else []
        return {"lora": turned_on, "cache_prompt": not self.adapters}


def convert_loras(loras: Sequence[AdapterFolder], gguf: Path, target: Path) -> list[Path]:
    """Converts LoRAs for the base model in `gguf`, into the folder `target`. Returns the new files."""
    if not loras:
        return []
    base = read_base(gguf)
    return [export_gguf(lora, base, target / f"{lora.name}.gguf") for lora in loras]


def build_body(request: GenerationRequest, prompt: list[int], context: int) -> dict[str, Any]:
    """llama.cpp's request for a prompt's ids: the kit's settings under llama.cpp's names."""
    greedy = request.temperature < GREEDY_BELOW
    logprobs = request.top_logprobs is not None
    return {
        "prompt": prompt,
        "n_predict": max(1, min(request.max_new_tokens, context - len(prompt))),
        # Sampling
        "temperature": 0 if greedy else request.temperature,
        "top_p": request.top_p,
        "top_k": request.top_k,
        "min_p": 0,  # off: it is on by default, and the kit has no setting for it
        "typical_p": request.typical_p,
        "mirostat": request.mirostat_mode,
        "mirostat_tau": request.mirostat_tau,
        "mirostat_eta": request.mirostat_eta,
        "seed": RANDOM_SEED if request.seed is None else request.seed % RANDOM_SEED,
        # Penalties and biases
        "repeat_penalty": request.repetition_penalty,
        "repeat_last_n": request.repetition_penalty_range or context,  # 0 would turn the penalties off
        "presence_penalty": request.presence_penalty,
        "frequency_penalty": request.frequency_penalty,
        "logit_bias": [[token, bias] for token, bias in request.logit_bias.items()],
        # What the answer may contain
        "ignore_eos": request.ban_eos,
        "grammar": request.grammar,  # "" is none
        # What the events contain
        "timings_per_token": True,  # among other things, the number of tokens so far
        "n_probs": max(1, request.top_logprobs or 0) if logprobs else 0,
    }
