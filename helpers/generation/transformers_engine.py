"""The engine on transformers, with PEFT adapters: requests that come together are computed together, in one thread of the engine's own.

One thread, because a pool of them costs 40 % on a CPU. Requests for different adapters take turns, token by token.
"""

import queue
import threading
from collections.abc import Callable
from concurrent.futures import Future

from jinja2 import TemplateError
from peft import PeftModel

from helpers.common.errors import KitError
from helpers.generation.batching import Batch, Row
from helpers.generation.decoding import TextStream
from helpers.generation.engine import Engine, EngineStopping
from helpers.generation.request import GenerationRequest, Piece
from helpers.generation.sampling import HONOURED, Sampler
from helpers.loading.messages import render_chat
from helpers.loading.model import LoadedModel, free

ROWS = 16  # answers that are computed together; more wait


class TransformersEngine(Engine):
    """A transformers model with its PEFT adapters."""

    honoured = HONOURED

    def __init__(self, loaded: LoadedModel):
        super().__init__()
        self.loaded = loaded
        # Read now: a request may still be checked when the model is gone.
        self._advice, self._vocabulary = (
            loaded.model.generation_config,
            loaded.model.get_input_embeddings().num_embeddings,
        )
        self.name = loaded.name
        self.context = loaded.model.config.max_position_embeddings  # tokens of prompt and answer together
        self.adapters = list(loaded.model.peft_config) if isinstance(loaded.model, PeftModel) else []
        self._active: str | None = ""  # the adapter that computes; none was chosen yet
        self._waiting: queue.Queue[Row | None] = queue.Queue()  # None wakes the thread to its end
        self._thread = threading.Thread(target=self._work, name="inference", daemon=True)
        self._thread.start()

    def read_advice(self, name: str, neutral: float) -> float:
        """The model's own advice for a sampling setting ("temperature", "top_p"), out of its generation_config; `neutral` when it gives none."""
        return getattr(self._advice, name, None) or neutral

    def count_tokens(self, text: str) -> int:
        """How many tokens a text has, special ones that the tokenizer adds included."""
        return len(self.loaded.tokenizer(text)["input_ids"])

    def render(self, messages: list[dict[str, str]], continue_last: bool = False) -> str:
        """The prompt of the model's own chat template."""
        try:
            return render_chat(self.loaded.tokenizer, messages, continue_last)
        except TemplateError as error:  # Llama 2's, for one, takes user and assistant in turns only
            raise KitError(
                f"The model's chat template refuses these messages ({error}).",
                "Change their roles or their order.",
            ) from None

    def check(self, request: GenerationRequest) -> list[int]:
        """The prompt's ids. KitError for an unknown adapter or token, or a prompt that leaves no room for an answer."""
        self.check_adapter(request)
        self.check_bias(request, self._vocabulary)
        if request.prompt is None:
            text, special = self.render(request.messages, request.continue_last), False
        else:
            text, special = request.prompt, request.add_special_tokens
        return self.fit_prompt(
            self.loaded.tokenizer(text, add_special_tokens=special)["input_ids"], request.keep_last
        )

    def submit(self, request: GenerationRequest, prompt: list[int], emit: Callable[[Piece], None]) -> Future:
        """A row that waits for the engine's thread."""
        model, tokenizer = self.loaded.model, self.loaded.tokenizer
        eos = as_list(self._advice.eos_token_id)
        row = Row(
            request,
            prompt,
            Sampler(request, prompt, eos, tokenizer, model.device),
            TextStream(tokenizer, request.stop, emit, request.skip_special_tokens),
            max(1, min(request.max_new_tokens, self.context - len(prompt))),
            eos,
        )
        self._waiting.put(row)
        return row.job

    def close(self) -> None:
        """Ends what runs at its next token, refuses what waits, and returns when the thread has let go of the model."""
        super().close()
        self._waiting.put(None)
        self._thread.join(timeout=30)  # a pass over a long prompt may take seconds

    def free(self) -> None:
        """Gives the model's memory back to the system."""
        free(self.loaded)

    def _work(self) -> None:
        batches: dict[str | None, Batch] = {}  # by adapter
        while not self.closed.is_set():
            running = sum(len(batch.rows) for batch in batches.values())
            new = self._take_waiting(ROWS - running, wait=not running)
            for row in new:
                batches.setdefault(row.request.adapter, Batch(self.loaded.model, self.must_end))
            for adapter, batch in batches.items():
                self._switch(adapter)
                batch.advance([row for row in new if row.request.adapter == adapter])
            batches = {adapter: batch for adapter, batch in batches.items() if batch.rows}
        for row in [row for batch in batches.values() for row in batch.rows]:
            row.finish("length")
        for row in self._take_waiting(self._waiting.qsize(), wait=False):
            row.job.set_exception(EngineStopping("The engine is stopping.", "Ask again when it is up."))

    def _switch(self, adapter: str | None) -> None:
        """Makes an adapter the one that computes, or none of them."""
        if not self.adapters or adapter == self._active:
            return
        if adapter is None:
            self.loaded.model.base_model.disable_adapter_layers()
        else:
            self.loaded.model.base_model.enable_adapter_layers()
            self.loaded.model.set_adapter(adapter)
        self._active = adapter

    def _take_waiting(self, count: int, wait: bool) -> list[Row]:
        """Up to `count` rows out of the queue; `wait` waits for the first. A cancelled one ends here."""
        taken = []
        while len(taken) < count:
            try:
                row = self._waiting.get(block=wait and not taken)
            except queue.Empty:
                break
            if row is None:
                break
            if row.request.cancelled.is_set():
                row.finish("length")
            else:
                taken.append(row)
        return taken


def as_list(value: int | list[int] | None) -> list[int]:
    """An end-of-text id, or several, as a list."""
    return value if isinstance(value, list) else [] if value is None else [value]
