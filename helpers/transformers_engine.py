"""The engine on transformers, with PEFT adapters.

All torch work happens in one thread of its own: requests wait their turn, and the answers are those that each would have
got alone (a pool of threads costs 40 % on a CPU, and adapters must not change in mid-answer).
"""

import contextlib
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from functools import partial

import torch
from jinja2 import TemplateError
from peft import PeftModel
from transformers import PreTrainedTokenizerBase, StoppingCriteria
from transformers.generation.streamers import BaseStreamer

from helpers import KitError
from helpers.engines import GREEDY_BELOW, Engine
from helpers.generation import Generation, GenerationRequest, Piece
from helpers.loading import LoadedModel, render_chat


class StopWhen(StoppingCriteria):
    """Ends a generation as soon as `ask` says so; asked after each token."""

    def __init__(self, ask: Callable[[], bool]):
        self.ask = ask

    def __call__(self, input_ids: torch.Tensor, scores: torch.Tensor, **kwargs) -> torch.Tensor:
        """The answer for every row of (rows, tokens)."""
        return torch.full((input_ids.shape[0],), self.ask(), device=input_ids.device)


class StopFilter:
    """Passes text on up to the first stop string, holding back what may become one."""

    def __init__(self, stop: list[str]):
        self.stop, self.held, self.stopped = [text for text in stop if text], "", False

    def push(self, piece: str) -> str:
        """The text that is safe to pass on after this piece."""
        if self.stopped:
            return ""
        self.held += piece
        found = [place for text in self.stop if (place := self.held.find(text)) >= 0]
        if found:
            self.stopped, safe = True, min(found)
        else:
            safe = len(self.held) - max((n for text in self.stop for n in range(1, len(text)) if self.held.endswith(text[:n])), default=0)
        passed, self.held = self.held[:safe], self.held[safe:]
        return passed

    def finish(self) -> str:
        """What was held back and became no stop string."""
        return "" if self.stopped else self.held


class PieceStreamer(BaseStreamer):
    """Turns tokens into text as soon as its characters are whole, and hands on what the stop filter lets pass.

    transformers' own TextStreamer waits for the next space: then a stop string, or a client's leaving, would take effect only there.
    """

    def __init__(self, tokenizer: PreTrainedTokenizerBase, stop: StopFilter, emit: Callable[[Piece], None]):
        self.tokenizer, self.stop, self.emit = tokenizer, stop, emit
        self.ids: list[int] = []
        self.context = self.shown = 0  # ids[context:shown] are decoded again, since a token's text may depend on the one before it
        self.prompt_passed = False

    def put(self, value: torch.Tensor) -> None:
        """Takes the prompt (1, tokens) first, which is skipped, then each new token (1,)."""
        if self.prompt_passed:
            self.ids += value.flatten().tolist()
            if not (text := self._decode_new()).endswith("\ufffd"):  # else a character whose other bytes are still to come
                self.context, self.shown = self.shown, len(self.ids)
                self._pass_on(self.stop.push(text))
        self.prompt_passed = True

    def end(self) -> None:
        """Passes on what was held back, without the half character that a length limit may leave."""
        self._pass_on(self.stop.push(self._decode_new().rstrip("\ufffd")) + self.stop.finish())

    def _decode_new(self) -> str:
        decode = partial(self.tokenizer.decode, skip_special_tokens=True, clean_up_tokenization_spaces=False)
        return decode(self.ids[self.context :])[len(decode(self.ids[self.context : self.shown])) :]

    def _pass_on(self, text: str) -> None:
        if text:
            self.emit(Piece(text))


class TransformersEngine(Engine):
    """A transformers model with its PEFT adapters."""

    def __init__(self, loaded: LoadedModel):
        super().__init__()
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="inference")
        self.loaded = loaded
        self.name = loaded.name
        self.context = loaded.model.config.max_position_embeddings  # tokens of prompt and answer together
        self.adapters = list(loaded.model.peft_config) if isinstance(loaded.model, PeftModel) else []

    def read_advice(self, name: str, neutral: float) -> float:
        """The model's own advice for a sampling setting ("temperature", "top_p"), out of its generation_config; `neutral` when it gives none."""
        return getattr(self.loaded.model.generation_config, name, None) or neutral

    def count_tokens(self, text: str) -> int:
        """How many tokens a text has, special ones that the tokenizer adds included."""
        return len(self.loaded.tokenizer(text)["input_ids"])

    def render(self, messages: list[dict[str, str]], continue_last: bool = False) -> str:
        """The prompt of the model's own chat template."""
        try:
            return render_chat(self.loaded.tokenizer, messages, continue_last)
        except TemplateError as error:  # Llama 2's, for one, takes user and assistant in turns only
            raise KitError(f"The model's chat template refuses these messages ({error}).", "Change their roles or their order.") from None

    def check(self, request: GenerationRequest) -> list[int]:
        """The request's ids. KitError for an unknown adapter or a prompt that leaves no room for an answer."""
        self.check_adapter(request)
        if request.prompt is None:
            text, special = self.render(request.messages, request.continue_last), False
        else:
            text, special = request.prompt, request.add_special_tokens
        return self.fit_prompt(self.loaded.tokenizer(text, add_special_tokens=special)["input_ids"], request.keep_last)

    def submit(self, request: GenerationRequest, prompt: list[int], emit: Callable[[Piece], None]) -> Future:
        """The engine's one thread."""
        return self._thread.submit(self._run, request, prompt, emit)

    def _run(self, request: GenerationRequest, prompt: list[int], emit: Callable[[Piece], None]) -> Generation:
        self.refuse_when_closed()
        if request.cancelled.is_set():
            return Generation("", len(prompt), 0, "length")
        ids = torch.tensor([prompt], device=self.loaded.model.device)
        model, length, stop = self.loaded.model, len(prompt), StopFilter(request.stop)
        sampling = {"do_sample": False, "temperature": None, "top_p": None, "top_k": None}
        if request.temperature >= GREEDY_BELOW:
            torch.manual_seed(request.seed) if request.seed is not None else torch.seed()
            sampling = {"do_sample": True, "temperature": request.temperature, "top_p": request.top_p, "top_k": request.top_k}
            sampling["typical_p"] = request.typical_p
        with self._use_adapter(request.adapter), torch.inference_mode():
            output = model.generate(
                ids,
                attention_mask=torch.ones_like(ids),
                max_new_tokens=max(1, min(request.max_new_tokens, self.context - length)),
                repetition_penalty=request.repetition_penalty,
                streamer=PieceStreamer(self.loaded.tokenizer, stop, emit),
                stopping_criteria=[StopWhen(lambda: stop.stopped or self.must_end(request))],
                **sampling,
            )
        new = output[0, length:].tolist()
        ended = stop.stopped or new[-1] in as_list(model.generation_config.eos_token_id)
        return Generation("", length, len(new), "stop" if ended else "length")

    def _use_adapter(self, name: str | None) -> contextlib.AbstractContextManager:
        """The adapter active inside the block, or none of them."""
        if not self.adapters:
            return contextlib.nullcontext()
        if name is None:
            return self.loaded.model.disable_adapter()
        self.loaded.model.set_adapter(name)
        return contextlib.nullcontext()


def as_list(value: int | list[int] | None) -> list[int]:
    """An end-of-text id, or several, as a list."""
    return value if isinstance(value, list) else [] if value is None else [value]
