"""One interface over what generates text: a request in, pieces of text out.

`transformers_engine` and `llama_engine` are its two forms. Nothing here needs torch, so that a server on llama.cpp starts without it.
"""

import queue
import threading
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from concurrent.futures import Future

from helpers.common.errors import KitError
from helpers.generation.request import OPTIONAL, Generation, GenerationRequest, Piece, join_pieces

GREEDY_BELOW = 1e-4  # logits divided by a temperature under it overflow, and the likeliest token has all the probability anyway


LIMIT = 64  # requests that an engine takes at once, running and waiting; more are refused


class EngineStopping(KitError):
    """A request that was still waiting when the engine was closed."""


class EngineBusy(KitError):
    """A request too many: LIMIT others run or wait."""


class PromptTooLong(KitError):
    """A prompt that leaves no room for an answer in the model's context."""


class UnknownToken(KitError):
    """A bias for a token that the model does not have."""


class Engine(ABC):
    """What generates text. Subclasses set `name`, `context` (tokens of prompt and answer together), `adapters` (names; the first is the default)
    and `honoured` (names of the request's optional fields).

    Answers are computed in threads of the engine's own: a request waits for its turn, and its computing ends when it is cancelled, whether or
    not anybody still takes its pieces.
    """

    name: str
    context: int
    adapters: list[str]
    honoured: frozenset[str] = frozenset()

    def __init__(self):
        self.closed = threading.Event()
        self._inside: dict[Future, GenerationRequest] = {}  # what runs or waits
        self._lock = threading.Lock()

    @abstractmethod
    def render(self, messages: list[dict[str, str]], continue_last: bool = False) -> str:
        """The prompt that the model's own chat template makes of messages. KitError where it refuses them."""

    @abstractmethod
    def check(self, request: GenerationRequest) -> object:
        """The prompt in the engine's own form. KitError for an unknown adapter or a prompt that leaves no room for an answer."""

    @abstractmethod
    def submit(self, request: GenerationRequest, prompt: object, emit: Callable[[Piece], None]) -> Future:
        """Takes a request into the engine's threads, which hand its pieces to `emit`; the future of its Generation, text and tokens left empty.

        The computing ends soon after `must_end` is true.
        """

    @abstractmethod
    def count_tokens(self, text: str) -> int:
        """How many tokens a text has, special ones that the tokenizer adds included."""

    @abstractmethod
    def read_advice(self, name: str, neutral: float) -> float:
        """The model's own advice for a sampling setting ("temperature", "top_p"); `neutral` when it gives none."""

    def list_unsupported(self, request: GenerationRequest) -> list[str]:
        """Names of the optional fields that were set and that this engine does not honour."""
        neutral = GenerationRequest()
        return [
            name
            for name in OPTIONAL
            if name not in self.honoured and getattr(request, name) != getattr(neutral, name)
        ]

    def start(self, request: GenerationRequest, emit: Callable[[Piece], None]) -> Future:
        """The future of the answer, whose pieces go to `emit`, in another thread. KitError at once for what `check` refuses or one too many."""
        prompt = self.check(request)
        with self._lock:  # with `close`: what comes in before it ends by it
            self.refuse_when_closed()
            if sum(not other.cancelled.is_set() for other in self._inside.values()) >= LIMIT:
                raise EngineBusy(f"{LIMIT} requests run or wait.", "Ask again in some seconds.")
            job = self.submit(request, prompt, emit)
            self._inside[job] = request
        job.add_done_callback(self._leave)
        return job

    def _leave(self, job: Future) -> None:
        with self._lock:
            del self._inside[job]

    def generate(self, request: GenerationRequest) -> Generation:
        """The whole answer."""
        *_, generation = self.stream(request)
        return generation

    def stream(self, request: GenerationRequest) -> Iterator[Piece | Generation]:
        """The answer's pieces as they come, then a Generation with the whole. Closing the iterator cancels."""
        pieces: queue.Queue = queue.Queue()
        job = self.start(request, pieces.put)
        job.add_done_callback(lambda _: pieces.put(None))
        parts = []
        try:
            while (piece := pieces.get()) is not None:
                parts.append(piece)
                yield piece
            yield join_pieces(job.result(), parts)
        finally:
            if not job.done():
                request.cancelled.set()

    def must_end(self, request: GenerationRequest) -> bool:
        """True when the request was cancelled or the engine closed."""
        return request.cancelled.is_set() or self.closed.is_set()

    def close(self) -> None:
        """Ends what runs at its next token; what waits is refused."""
        with self._lock:
            self.closed.set()

    def free(self) -> None:  # noqa: B027, an engine need not do anything
        """Gives memory back that does not come back by itself when nobody refers to the engine any more; after `close`."""

    def refuse_when_closed(self) -> None:
        """EngineStopping once `close` was called."""
        if self.closed.is_set():
            raise EngineStopping("The engine is stopping.", "Ask again when it is up.")

    def check_adapter(self, request: GenerationRequest) -> None:
        """KitError when the request names an adapter that is not loaded."""
        if request.adapter and request.adapter not in self.adapters:
            raise KitError(
                f"No LoRA '{request.adapter}' is loaded.", f"Loaded: {', '.join(self.adapters) or 'none'}."
            )

    def check_bias(self, request: GenerationRequest, vocabulary: int) -> None:
        """UnknownToken when the request biases a token that the model does not have."""
        if unknown := [number for number in request.logit_bias if not 0 <= number < vocabulary]:
            raise UnknownToken(
                f"There is no token {unknown[0]}; the model has 0 to {vocabulary - 1}.",
                "Take ids of its own tokenizer.",
            )

    def fit_prompt(self, ids: list[int], keep_last: int | None) -> list[int]:
        """The prompt's ids, the last `keep_last` of them. KitError for an empty prompt, PromptTooLong for one that leaves no room for an answer."""
        ids = ids if keep_last is None else ids[-max(1, keep_last) :]
        if not 0 < len(ids) < self.context:
            kind = PromptTooLong if ids else KitError
            raise kind(
                f"The prompt has {len(ids)} tokens; the model takes 1 to {self.context - 1}.",
                "Change its length.",
            )
        return ids
