"""The engine on llama.cpp: it reads a GGUF file directly, and LoRAs that are converted to GGUF while loading.

llama.cpp itself computes simultaneous requests together, each in a slot.
"""

import re
import tempfile
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

from helpers.adapters.folders import AdapterFolder
from helpers.common.errors import UnsupportedError
from helpers.generation.engine import GREEDY_BELOW, Engine
from helpers.generation.forms import TextForm
from helpers.generation.llama_answer import Answer
from helpers.generation.llama_chat import cut_behind_controls, make_llama_chat
from helpers.generation.llama_server import PARALLEL, PROMPT_STEP, ListedToken, LlamaServer, convert_loras
from helpers.generation.llama_slots import SlotPool
from helpers.generation.prompts import UnknownToken
from helpers.generation.request import MIROSTAT_MODES, Generation, GenerationRequest, Piece
from helpers.generation.structure import Structure, translate
from helpers.weights.folders import ModelFolder

SEPARATOR = -1  # not a token; llama.cpp returns ids among the texts that it tokenizes unchanged
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
            "structure",
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
        self._advice = folder.advice
        self.name = folder.name
        self.context = defaults["n_ctx"]
        self.vocabulary_size = self.server.ask("/v1/models")["data"][0]["meta"]["n_vocab"]
        self.adapters = [lora.name for lora in loras]
        self._control = re.compile("(?!)")  # matches nothing, until the control tokens are known
        encode = partial(self.encode, add_special=False)
        self.chat, self.template, self.bos_id = make_llama_chat(folder, encode, chat_template)
        if self.chat:
            self._control = self.chat.control_pattern
        self._threads = ThreadPoolExecutor(self.server.parallel, thread_name_prefix="inference")
        self._slots = SlotPool(self.server.parallel)

    def read_advice(self, name: str, neutral: float) -> float:
        """The advice in generation_config.json beside the GGUF file; `neutral` without one."""
        return self._advice.get(name) or neutral

    def encode(self, text: str, add_special: bool) -> list[int]:
        """The text's token ids, with the special tokens that the tokenizer adds if `add_special` is true."""
        content = cut_behind_controls(text, self._control)
        body = {"content": content, "add_special": add_special, "parse_special": True}
        return self.server.ask("/tokenize", body)["tokens"]

    def decode(self, ids: list[int]) -> str:
        """The text of token ids, special tokens included."""
        return self.server.ask("/detokenize", {"tokens": ids})["content"]

    def encode_all(self, texts: list[str]) -> list[list[int]]:
        """The ids of each text, without special tokens, in one call."""
        content: list[str | int] = []
        for text in texts:
            content += [*cut_behind_controls(text, self._control), SEPARATOR]
        body = {"content": content, "add_special": False, "parse_special": True}
        encoded: list[list[int]] = [[]]
        for token in self.server.ask("/tokenize", body)["tokens"]:
            if token == SEPARATOR:
                encoded.append([])
            else:
                encoded[-1].append(token)
        return encoded[:-1]

    def measure_log_probability(self, before: list[int], token: int) -> float:
        """Log-probability, in nats, of a token id after the ids `before`, without LoRAs.

        Raises UnknownToken.
        """
        found = self._find_likeliest(before, lambda entry: entry["id"] == token, self.describe_adapter(None))
        if not found:
            raise UnknownToken(f"The model has no token {token}.", "Use token ids of its own tokenizer.")
        return found[0]["logprob"]

    def submit(
        self, request: GenerationRequest, prompt: list[int], emit: Callable[[Piece], None]
    ) -> Future[Generation]:
        """Hands the request to a thread; there are as many of them as slots for answers."""
        return self._threads.submit(self._run, request, prompt, emit)

    def close(self) -> None:
        """Ends running answers at their next token and refuses waiting requests with EngineStopping."""
        super().close()
        self._threads.shutdown(wait=False)

    def check(self, request: GenerationRequest) -> list[int]:
        """The prompt's token ids. Raises what Engine.check raises, and StructureRefused."""
        if request.structure:
            translate(request.structure)
        return super().check(request)

    def _run(
        self, request: GenerationRequest, prompt: list[int], emit: Callable[[Piece], None]
    ) -> Generation:
        """Computes an answer, whose pieces go to `emit`. The Generation has no text."""
        self.refuse_if_closed()
        if request.cancelled.is_set() or request.max_new_tokens == 0:
            return Generation("", len(prompt), 0, "length")
        adapter = self.describe_adapter(request.adapter)
        find_likeliest = partial(self._find_likeliest, settings=adapter)
        body = {**build_body(request, prompt, self.context), **adapter}
        form = self._make_form(request.structure, body["n_predict"]) if request.structure else None
        answer = Answer(request, prompt, emit, partial(self.must_end, request), find_likeliest, form)
        with self._slots.take(request.adapter, prompt) as (slot, held):
            body |= {"id_slot": slot, "cache_prompt": held > 0}
            for part in self._read_parts(prompt, held):
                if self.must_end(request):
                    return Generation("", len(prompt), 0, "length")
                self.server.ask("/completion", {**body, "prompt": part, "n_predict": 0, "grammar": ""})
                body["cache_prompt"] = True
            self.server.complete(body, answer.take)
        reason = answer.finish()
        return Generation("", len(prompt), answer.count, reason)

    def _find_likeliest(self, *question: Any, **settings: Any) -> list[ListedToken]:
        """LlamaServer.find_likeliest."""
        with self._slots.ask():
            return self.server.find_likeliest(*question, **settings)

    @staticmethod
    def _read_parts(prompt: list[int], held: int) -> Iterator[list[int]]:
        """The begins of a long prompt that are read one after another, each with PROMPT_STEP tokens more.

        llama.cpp itself would read all of it before it begins another answer.
        """
        for end in range(held + PROMPT_STEP, len(prompt), PROMPT_STEP):
            yield prompt[:end]

    def _make_form(self, structure: Structure, most: int) -> TextForm:
        """What leads an answer of at most `most` tokens to its end."""
        return TextForm(structure, most, lambda text: len(self.encode(text, add_special=False)))

    def describe_adapter(self, adapter: str | None) -> dict[str, Any]:
        """The part of llama.cpp's request that turns a LoRA on."""
        return {"lora": [{"id": self.adapters.index(adapter), "scale": 1.0}] if adapter else []}


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
        "min_p": request.min_p,
        "typical_p": request.typical_p,
        "mirostat": request.mirostat_mode if request.mirostat_mode in MIROSTAT_MODES else 0,
        "mirostat_tau": request.mirostat_tau,
        "mirostat_eta": request.mirostat_eta,
        "seed": RANDOM_SEED if request.seed is None else request.seed % RANDOM_SEED,
        # Penalties and biases
        "repeat_penalty": request.repetition_penalty,
        # llama.cpp reserves memory for as many tokens as it is told; 0 would turn the penalties off.
        "repeat_last_n": min(request.repetition_penalty_range or context, context),
        "presence_penalty": request.presence_penalty,
        "frequency_penalty": request.frequency_penalty,
        "logit_bias": [[token, bias] for token, bias in request.logit_bias.items()],
        # What the answer may contain
        "ignore_eos": request.ban_eos and not request.structure,  # a form says where it may end
        "grammar": translate(request.structure) if request.structure else "",
        # What the events contain
        "timings_per_token": True,  # among other things, the number of tokens so far
        "n_probs": max(1, request.top_logprobs or 0) if logprobs else 0,
    }
