"""The engine on llama.cpp: a GGUF file as it is, and LoRAs converted to GGUF while loading; what comes together is batched by llama.cpp."""

import tempfile
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

from helpers.adapters.folders import AdapterFolder
from helpers.adapters.gguf import export_gguf, read_base
from helpers.common.errors import KitError
from helpers.generation.engine import GREEDY_BELOW, Engine
from helpers.generation.llama_answer import Answer
from helpers.generation.llama_server import PARALLEL, LlamaServer
from helpers.generation.request import Generation, GenerationRequest, Piece
from helpers.weights.folders import ModelFolder

SEEDS = 2**32  # llama.cpp's have 32 bits


class LlamaEngine(Engine):
    """A GGUF file in llama.cpp, with the LoRAs in the folders `loras`; `parallel` answers at most are computed together."""

    # Its penalties look at the prompt too, the two of OpenAI's as well.
    honoured = frozenset(
        "presence_penalty frequency_penalty logit_bias repetition_penalty_range grammar ban_eos".split()
    ) | frozenset("mirostat_mode mirostat_tau mirostat_eta".split())

    def __init__(self, folder: ModelFolder, loras: Sequence[AdapterFolder] = (), parallel: int = PARALLEL):
        super().__init__()
        gguf = folder.gguf
        with tempfile.TemporaryDirectory() as scratch:  # llama.cpp has read the files when it is up
            base = read_base(gguf) if loras else None
            converted = [export_gguf(lora, base, Path(scratch) / f"{lora.name}.gguf") for lora in loras]
            self.server = LlamaServer(gguf, converted, parallel)
        defaults = self.server.ask("/props")["default_generation_settings"]
        self._advice, self.context = defaults["params"], defaults["n_ctx"]
        self.vocabulary = self.server.ask("/v1/models")["data"][0]["meta"]["n_vocab"]
        self.name, self.adapters = folder.name, [lora.name for lora in loras]
        self._threads = ThreadPoolExecutor(self.server.parallel, thread_name_prefix="inference")

    def read_advice(self, name: str, neutral: float) -> float:
        """llama.cpp's default for the setting, since a GGUF file seldom has one."""
        return self._advice.get(name) or neutral

    def count_tokens(self, text: str) -> int:
        """How many tokens a text has, special ones that the tokenizer adds included."""
        return len(self.tokenize(text))

    def tokenize(self, text: str, add_special: bool = True) -> list[int]:
        """The text's token ids, with the special ones that the tokenizer adds unless `add_special` is False."""
        return self.server.ask(
            "/tokenize", {"content": text, "add_special": add_special, "parse_special": True}
        )["tokens"]

    def measure_log_probability(self, before: list[int], token: int) -> float:
        """Log-probability, in nats, of `token` after the tokens `before`."""
        if found := self.server.find_likeliest(
            before, lambda entry: entry["id"] == token, self.describe_cache(None)
        ):
            return found[0]["logprob"]
        raise KitError(f"The model has no token {token}.", "Take token ids from its own tokenizer.")

    def render(self, messages: list[dict[str, str]], continue_last: bool = False) -> str:
        """The prompt of the model's own chat template; llama.cpp lengthens a last message of the assistant by itself."""
        return self.server.ask("/apply-template", {"messages": messages})["prompt"]

    def check(self, request: GenerationRequest) -> list[int]:
        """The prompt's token ids. KitError for an adapter, a template that refuses the messages, a prompt that leaves no room."""
        self.check_adapter(request)
        self.check_bias(request, self.vocabulary)
        if request.prompt is None:
            ids = self.tokenize(self.render(request.messages, request.continue_last), add_special=False)
        else:
            ids = self.tokenize(request.prompt, request.add_special_tokens)
        return self.fit_prompt(ids, request.keep_last)

    def submit(self, request: GenerationRequest, prompt: list[int], emit: Callable[[Piece], None]) -> Future:
        """One of as many threads as llama.cpp computes answers together."""
        return self._threads.submit(self._run, request, prompt, emit)

    def close(self) -> None:
        """Ends what runs at its next token; what waits is refused."""
        super().close()
        self._threads.shutdown(wait=False)

    def _run(
        self, request: GenerationRequest, prompt: list[int], emit: Callable[[Piece], None]
    ) -> Generation:
        """llama.cpp stops when its client leaves."""
        self.refuse_when_closed()
        if request.cancelled.is_set():
            return Generation("", len(prompt), 0, "length")
        answer = Answer(self, request, prompt, emit)
        self.server.complete(self._build_body(request, prompt), answer.take)
        answer.gate.finish()
        return Generation("", len(prompt), answer.count, "stop" if answer.gate.stopped else answer.reason)

    def _build_body(self, request: GenerationRequest, ids: list[int]) -> dict:
        """llama.cpp's request: every sampler that the kit has no setting for is off."""
        greedy = request.temperature < GREEDY_BELOW
        body = {
            "prompt": ids,
            "n_predict": max(1, min(request.max_new_tokens, self.context - len(ids))),
            "timings_per_token": True,
        }
        body |= {
            "temperature": 0 if greedy else request.temperature,
            "top_p": request.top_p,
            "top_k": request.top_k,
            "min_p": 0,
        }
        body |= {"typical_p": request.typical_p, "repeat_penalty": request.repetition_penalty}
        body |= {"repeat_last_n": request.repetition_penalty_range or self.context}
        body |= {"presence_penalty": request.presence_penalty, "frequency_penalty": request.frequency_penalty}
        body |= {
            "mirostat": request.mirostat_mode,
            "mirostat_tau": request.mirostat_tau,
            "mirostat_eta": request.mirostat_eta,
        }
        body |= {
            "logit_bias": [[token, bias] for token, bias in request.logit_bias.items()],
            "ignore_eos": request.ban_eos,
        }
        body |= {"grammar": request.grammar} if request.grammar else {}
        body |= {} if request.seed is None else {"seed": request.seed % SEEDS}
        body |= {} if request.top_logprobs is None else {"n_probs": max(1, request.top_logprobs)}
        return body | self.describe_cache(request.adapter)

    def describe_cache(self, adapter: str | None) -> dict:
        """The part of llama.cpp's request that says which LoRA computes, and whether what an earlier prompt left may be used.

        With LoRAs it may not: llama.cpp would take it from another LoRA's answers too.
        """
        turned_on = [{"id": self.adapters.index(adapter), "scale": 1.0}] if adapter else []
        return {"lora": turned_on, "cache_prompt": not self.adapters}
