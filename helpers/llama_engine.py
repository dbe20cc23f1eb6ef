"""The engine on llama.cpp: a GGUF file as it is, and LoRAs converted to GGUF while loading; what comes together is batched by llama.cpp."""

import tempfile
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from functools import partial
from pathlib import Path

from helpers import KitError
from helpers.engines import GREEDY_BELOW, Engine
from helpers.generation import Generation, GenerationRequest, Piece, Token
from helpers.llama_server import PARALLEL, LlamaServer
from helpers.lora_gguf import export_gguf, read_base
from helpers.stopping import StopGate

SEEDS = 2**32  # llama.cpp's have 32 bits


class LlamaEngine(Engine):
    """A GGUF file in llama.cpp, with the LoRAs in the folders `loras`; `parallel` answers at most are computed together."""

    # Its penalties look at the prompt too, the two of OpenAI's as well.
    honoured = frozenset("presence_penalty frequency_penalty logit_bias repetition_penalty_range grammar ban_eos".split()) | frozenset(
        "mirostat_mode mirostat_tau mirostat_eta".split()
    )

    def __init__(self, folder: Path, loras: list[Path] | tuple[Path, ...] = (), parallel: int = PARALLEL):
        super().__init__()
        gguf = next(folder.glob("*.gguf"))
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
        return self.server.ask("/tokenize", {"content": text, "add_special": add_special, "parse_special": True})["tokens"]

    def measure_log_probability(self, before: list[int], token: int) -> float:
        """Log-probability, in nats, of `token` after the tokens `before`."""
        if found := self.server.find_likeliest(before, lambda entry: entry["id"] == token, self.describe_cache(None)):
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

    def _run(self, request: GenerationRequest, prompt: list[int], emit: Callable[[Piece], None]) -> Generation:
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
        body = {"prompt": ids, "n_predict": max(1, min(request.max_new_tokens, self.context - len(ids))), "timings_per_token": True}
        body |= {"temperature": 0 if greedy else request.temperature, "top_p": request.top_p, "top_k": request.top_k, "min_p": 0}
        body |= {"typical_p": request.typical_p, "repeat_penalty": request.repetition_penalty}
        body |= {"repeat_last_n": request.repetition_penalty_range or self.context}
        body |= {"presence_penalty": request.presence_penalty, "frequency_penalty": request.frequency_penalty}
        body |= {"mirostat": request.mirostat_mode, "mirostat_tau": request.mirostat_tau, "mirostat_eta": request.mirostat_eta}
        body |= {"logit_bias": [[token, bias] for token, bias in request.logit_bias.items()], "ignore_eos": request.ban_eos}
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


class Answer:
    """Takes the events of one answer and hands it on in pieces."""

    def __init__(self, engine: LlamaEngine, request: GenerationRequest, prompt: list[int], emit: Callable[[Piece], None]):
        self.engine, self.request, self.ids = engine, request, list(prompt)
        self.gate = StopGate(request.stop, emit)
        self.count, self.reason = 0, "length"

    def take(self, event: dict) -> bool:
        """Whether the answer is to go on."""
        choice, before = event["choices"][0], self.count
        self.count = event["timings"]["predicted_n"]
        if choice["finish_reason"]:
            self.reason = choice["finish_reason"]
            return False
        tokens = self._read_tokens(choice["logprobs"]["content"][0], self.count - before) if choice["logprobs"] else ()
        self.gate.push("", tokens[:-1])  # parts of a character
        self.gate.push(choice["text"], tokens[-1:])
        return not (self.gate.stopped or self.engine.must_end(self.request))

    def _read_tokens(self, last: dict, count: int) -> tuple[Token, ...]:
        """The `count` tokens that make up a piece.

        llama.cpp tells of the last one only, with the whole piece's bytes, when those before it were parts of the same character.
        """
        data, begun = bytes(last["bytes"]), []
        if count > 1:
            whole, same = data, [entry for entry in last["top_logprobs"] if entry["id"] == last["id"]]
            data = bytes((same or self._find_likeliest(lambda entry: entry["id"] == last["id"]))[0]["bytes"])
            begun = self._find_lost(whole[: len(whole) - len(data)], count - 1)
        self.ids.append(last["id"])
        told = [self._describe(entry) for entry in (*begun, {**last, "bytes": data})]
        return tuple(token for token in told if token.data)  # not the special one that ends an answer

    def _find_lost(self, data: bytes, count: int) -> list[dict]:
        """`count` tokens whose bytes together are `data`: of those that may come next, the likeliest each time."""
        lost = []
        for after in range(count - 1, -1, -1):
            fits = partial(begins, data, after)
            if not data or not (found := self._find_likeliest(fits)):
                break  # one of them was a special token, which has no bytes
            lost.append(found[0])
            self.ids.append(found[0]["id"])
            data = data[len(found[0]["bytes"]) :]
        return lost

    def _find_likeliest(self, matches: Callable[[dict], bool]) -> list[dict]:
        return self.engine.server.find_likeliest(self.ids, matches, self.engine.describe_cache(self.request.adapter))

    def _describe(self, entry: dict) -> Token:
        top = entry.get("top_logprobs", [])[: self.request.top_logprobs]
        return Token(bytes(entry["bytes"]), entry["logprob"], tuple((bytes(rival["bytes"]), rival["logprob"]) for rival in top))


def begins(data: bytes, after: int, entry: dict) -> bool:
    """Whether a token can be the first of those that make up `data`, with `after` more behind it, of a byte or more each."""
    size = len(entry["bytes"])
    return data.startswith(bytes(entry["bytes"])) and (0 < size <= max(1, len(data) - after) if after else size == len(data))
