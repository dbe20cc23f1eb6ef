"""One interface over what generates text: a request in, pieces of text out.

`transformers_engine` and `llama_engine` are its two forms. Nothing here needs torch, so that a server on llama.cpp starts without it.
"""

import queue
import threading
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace

from helpers import KitError

GREEDY_BELOW = 1e-4  # logits divided by a temperature under it overflow, and the likeliest token has all the probability anyway


@dataclass
class GenerationRequest:
    """What to generate. Either `messages` ([{"role", "content"}, ...]) or `prompt`, a text that is taken as it is."""

    messages: list[dict[str, str]] | None = None
    prompt: str | None = None
    continue_last: bool = False  # lengthen the last message instead of answering it
    max_new_tokens: int = 200
    temperature: float = 0.0  # 0 is greedy
    top_p: float = 1.0
    top_k: int = 0  # 0 is off
    typical_p: float = 1.0
    repetition_penalty: float = 1.0
    seed: int | None = None  # of the sampling, 64 bits signed; None draws a new one
    stop: list[str] = field(default_factory=list)  # texts that end the answer; they are not part of it
    adapter: str | None = None  # name of an attached LoRA; None is the base
    cancelled: threading.Event = field(default_factory=threading.Event)


@dataclass
class Generation:
    """What came out."""

    text: str
    prompt_tokens: int
    completion_tokens: int
    finish_reason: str  # "stop" (the model or a stop string ended it) or "length" (max_new_tokens, or a cancellation)


class EngineStopping(KitError):
    """A request that was still waiting when the engine was closed."""


class Engine(ABC):
    """What generates text. Subclasses set `name`, `context` (tokens of prompt and answer together) and `adapters` (names; the first is the default).

    Answers are computed in threads of the engine's own, as many as it computes at once: a request waits for its turn, and its computing ends
    when it is cancelled, whether or not anybody still takes its pieces.
    """

    name: str
    context: int
    adapters: list[str]

    def __init__(self, parallel: int):
        self.closed = threading.Event()
        self._threads = ThreadPoolExecutor(parallel, thread_name_prefix="inference")

    @abstractmethod
    def check(self, request: GenerationRequest) -> object:
        """The prompt in the engine's own form. KitError for an unknown adapter or a prompt that leaves no room for an answer."""

    @abstractmethod
    def run(self, request: GenerationRequest, prompt: object, emit: Callable[[str], None]) -> Generation:
        """In a thread of the engine: hands the pieces to `emit`; what came out, its text left empty. Ends soon after `must_end` is true."""

    @abstractmethod
    def count_tokens(self, text: str) -> int:
        """How many tokens a text has, special ones that the tokenizer adds included."""

    @abstractmethod
    def read_advice(self, name: str, neutral: float) -> float:
        """The model's own advice for a sampling setting ("temperature", "top_p"); `neutral` when it gives none."""

    def generate(self, request: GenerationRequest) -> Generation:
        """The whole answer."""
        *_, generation = self.stream(request)
        return generation

    def stream(self, request: GenerationRequest) -> Iterator[str | Generation]:
        """The answer's pieces as they come (never half a character), then a Generation with the whole. Closing the iterator cancels."""
        prompt = self.check(request)
        pieces: queue.Queue = queue.Queue()
        try:
            job = self._threads.submit(self._run_in_turn, request, prompt, pieces.put)
        except RuntimeError:  # the threads were shut down
            raise EngineStopping("The engine is stopping.", "Ask again when it is up.") from None
        job.add_done_callback(lambda _: pieces.put(None))
        parts = []
        try:
            while (piece := pieces.get()) is not None:
                parts.append(piece)
                yield piece
            yield replace(job.result(), text="".join(parts))
        finally:
            if not job.done():
                request.cancelled.set()

    def _run_in_turn(self, request: GenerationRequest, prompt: object, emit: Callable[[str], None]) -> Generation:
        if self.closed.is_set():
            raise EngineStopping("The engine is stopping.", "Ask again when it is up.")
        if request.cancelled.is_set():
            return Generation("", 0, 0, "length")
        return self.run(request, prompt, emit)

    def must_end(self, request: GenerationRequest) -> bool:
        """True when the request was cancelled or the engine closed."""
        return request.cancelled.is_set() or self.closed.is_set()

    def close(self) -> None:
        """Ends what runs at its next token; what waits is refused."""
        self.closed.set()
        self._threads.shutdown(wait=False)

    def check_adapter(self, request: GenerationRequest) -> None:
        """KitError when the request names an adapter that is not loaded."""
        if request.adapter and request.adapter not in self.adapters:
            raise KitError(f"No LoRA '{request.adapter}' is loaded.", f"Loaded: {', '.join(self.adapters) or 'none'}.")

    def check_length(self, tokens: int) -> None:
        """KitError for an empty prompt, and for one that leaves no room for an answer."""
        if not 0 < tokens < self.context:
            raise KitError(f"The prompt has {tokens} tokens; the model takes 1 to {self.context - 1}.", "Change its length.")
