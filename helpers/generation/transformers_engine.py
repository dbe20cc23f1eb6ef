"""The engine on transformers with PEFT adapters. It computes simultaneous requests together, in one thread.

One thread, because a pool of threads costs 40% of the speed on a CPU. Requests for different adapters take
turns, token by token.
"""

import queue
import threading
from collections.abc import Callable
from concurrent.futures import Future
from functools import cache, cached_property, partial
from typing import Any, cast

from llguidance import LLTokenizer
from llguidance.hf import from_tokenizer
from transformers import PreTrainedTokenizerFast

from helpers.adapters.attaching import activate, list_attached
from helpers.common.errors import UnsupportedError
from helpers.common.machine import Choice
from helpers.generation.batching import Batch, PendingAnswer
from helpers.generation.chunks import choose_chunk
from helpers.generation.decoding import TextStream, read_bytes
from helpers.generation.engine import Engine, EngineStopping
from helpers.generation.forms import Form, prepare
from helpers.generation.reading import PromptListing
from helpers.generation.request import Generation, GenerationRequest, Piece
from helpers.generation.sampling import HONOURED, Sampler
from helpers.generation.slots import SlotBatch, choose_slots
from helpers.generation.structure import translate
from helpers.loading.messages import list_end_ids, make_chat_tokenizer
from helpers.loading.model import LoadedModel, free

MAX_BATCH = 16  # answers that are computed together; more wait
JOIN_TIMEOUT_S = 30  # a pass over a long prompt takes seconds
NOT_SWITCHED = ""  # instead of an adapter's name, until the engine has activated one


def list_choices(loaded: LoadedModel, slots: Choice[bool]) -> dict[str, Choice[Any]]:
    """What was chosen for a model: the kernel, and on a GPU whether steps are CUDA graphs (`slots`)."""
    return {**loaded.choices, **({} if loaded.device.value == "cpu" else {"cuda_graphs": slots})}


class TransformersEngine(Engine):
    """Generates with a loaded model and the PEFT adapters attached to it."""

    honoured = HONOURED

    def __init__(self, loaded: LoadedModel):
        super().__init__()
        self.loaded = loaded
        self.name = loaded.name
        self.context = loaded.context
        # Read now: a request may still be checked after `free`, when the model is gone.
        self.vocabulary_size = loaded.model.get_input_embeddings().weight.shape[0]
        self._advice = loaded.model.generation_config
        self.chat = make_chat_tokenizer(loaded.tokenizer) if loaded.tokenizer.chat_template else None
        self.template = loaded.chat_template
        self.bos_id = cast(int | None, loaded.tokenizer.bos_token_id)
        self._eos_ids = list_end_ids(loaded)
        self._read_bytes = cache(partial(read_bytes, loaded.tokenizer))  # of a token id
        self.adapters = list_attached(loaded)
        self.slots = choose_slots(loaded.model, self.context)  # whether CUDA graphs are used, and why
        self.choices = list_choices(loaded, self.slots)
        self.chunk = choose_chunk(loaded.model, self.context)  # tokens of long prompts that are read at once
        self._active: str | None = NOT_SWITCHED  # the adapter that computes; None is the base model
        self._batches: dict[str | None, Batch] = {}  # by adapter
        # None wakes the thread when the engine closes.
        self._waiting: queue.Queue[PendingAnswer | None] = queue.Queue()
        self._thread = threading.Thread(target=self._work, name="inference", daemon=True)
        self._thread.start()

    def read_advice(self, name: str, neutral: float) -> float:
        """The model's advice for "temperature" or "top_p" (generation_config); `neutral` if it has none."""
        return getattr(self._advice, name, None) or neutral

    def check(self, request: GenerationRequest) -> list[int]:
        """The prompt's token ids. Raises what Engine.check raises, and StructureRefused."""
        if request.structure:  # read once, before the answer has its turn
            prepare(translate(request.structure), self.form_tokenizer)
        return super().check(request)

    @cached_property
    def form_tokenizer(self) -> LLTokenizer:
        """llguidance's copy of the tokenizer, which takes a second to make.

        Raises UnsupportedError for a tokenizer that is not one of the library tokenizers.
        """
        tokenizer = self.loaded.tokenizer
        if not isinstance(tokenizer, PreTrainedTokenizerFast):
            problem = "The form of answers cannot be enforced: the model's tokenizer has no tokenizer.json."
            raise UnsupportedError(problem, "Serve the model with llama.cpp, or take another one.")
        return from_tokenizer(tokenizer, n_vocab=self.vocabulary_size, eos_token=self._eos_ids)

    def encode(self, text: str, add_special: bool) -> list[int]:
        """The text's token ids, with the special tokens that the tokenizer adds if `add_special` is true."""
        return self.loaded.tokenizer(text, add_special_tokens=add_special)["input_ids"]

    def decode(self, ids: list[int]) -> str:
        """The text of token ids, special tokens included."""
        return str(self.loaded.tokenizer.decode(ids, clean_up_tokenization_spaces=False))

    def encode_all(self, texts: list[str]) -> list[list[int]]:
        """The ids of each text, without special tokens."""
        return self.loaded.tokenizer(texts, add_special_tokens=False)["input_ids"]

    def submit(
        self, request: GenerationRequest, prompt: list[int], emit: Callable[[Piece], None]
    ) -> Future[Generation]:
        """Puts an answer into the queue of the engine's thread."""
        model, tokenizer = self.loaded.model, self.loaded.tokenizer
        eos_ids = self._eos_ids
        most = min(request.max_new_tokens, self.context - len(prompt))
        form = Form(request.structure, self.form_tokenizer, most) if request.structure else None
        answer = PendingAnswer(
            request=request,
            prompt=prompt,
            sampler=Sampler(request, prompt, eos_ids, tokenizer, model.device, form),
            text=TextStream(tokenizer, request.stop, emit, request.skip_special_tokens),
            max_tokens=most,
            eos_ids=eos_ids,
            must_end=partial(self.must_end, request),
            listing=self._list_prompt(request, prompt, emit),
        )
        self._waiting.put(answer)
        return answer.job

    def _list_prompt(
        self, request: GenerationRequest, prompt: list[int], emit: Callable[[Piece], None]
    ) -> PromptListing | None:
        """What lists the tokens of the prompt; None if they are not asked for."""
        if request.prompt_logprobs is None:
            return None
        text = self.read_text(request)
        return PromptListing(text, prompt, request.prompt_logprobs, self._read_bytes, emit)

    def close(self) -> None:
        """Ends running answers at their next token, refuses waiting ones, and waits for the thread to end."""
        super().close()
        self._waiting.put(None)
        self._thread.join(timeout=JOIN_TIMEOUT_S)

    def free(self) -> None:
        """Called after `close`: gives the model's memory back to the system."""
        free(self.loaded)

    # The engine's thread

    def _work(self) -> None:
        while not self.closed.is_set():
            running = sum(len(batch.list_all()) for batch in self._batches.values())
            self._advance(self._take_waiting(MAX_BATCH - running, wait=not running))
        self._end_all()

    def _advance(self, new: list[PendingAnswer]) -> None:
        """One token more for every answer: the adapters take turns."""
        for adapter in {answer.request.adapter for answer in new}:
            self._provide_batch(adapter)
        for adapter, batch in self._batches.items():
            joining = [answer for answer in new if answer.request.adapter == adapter]
            if not batch.list_all() and not joining:
                continue
            if self.adapters and adapter != self._active:
                activate(self.loaded.model, adapter)
                self._active = adapter
            batch.advance(joining)

    def _provide_batch(self, adapter: str | None) -> None:
        """Makes the adapter's batch. It stays when its answers have left; a new one is for another model."""
        batch = self._batches.get(adapter)
        model = self.loaded.model
        if batch is None or (batch.model is not model and not batch.list_all()):
            self._batches[adapter] = (
                SlotBatch(model, self.context, chunk=self.chunk)
                if self.slots.value
                else Batch(model, self.chunk)
            )

    def _take_waiting(self, count: int, wait: bool) -> list[PendingAnswer]:
        """Up to `count` answers from the queue; `wait` waits for the first. Ends the cancelled ones."""
        taken = []
        while len(taken) < count:
            try:
                answer = self._waiting.get(block=wait and not taken)
            except queue.Empty:
                break
            if answer is None:
                break
            if answer.request.cancelled.is_set() or not (answer.max_tokens or answer.listing):
                answer.finish("length")
            else:
                taken.append(answer)
        return taken

    def _end_all(self) -> None:
        """Ends running answers where they are, and refuses those that were not begun."""
        for batch in self._batches.values():
            for answer in batch.answers:
                answer.finish("length")
            for answer in batch.unread:
                answer.fail(EngineStopping())
            batch.clear()
        self._batches = {}
        for answer in self._take_waiting(self._waiting.qsize(), wait=False):
            answer.fail(EngineStopping())
