"""The interface of everything that generates text: a request goes in, pieces of text come out.

It is implemented by `transformers_engine`, `llama_engine` and `upstream_engine`. Nothing here needs torch, so
a server on llama.cpp, or in front of another server, starts without it.
"""

import contextlib
import queue
import threading
from abc import abstractmethod
from collections.abc import Callable, Iterator
from concurrent.futures import Future, InvalidStateError
from functools import partial

from helpers.common.choices import Choices
from helpers.common.errors import NotFoundError, ResourceError, ServerError
from helpers.generation.prompts import Prompts, UnknownToken, explain_unknown
from helpers.generation.request import (
    OPTIONAL_FIELDS,
    EchoedPrompt,
    Generation,
    GenerationRequest,
    Piece,
    join_pieces,
)
from helpers.loading.chat_templates import PickedTemplate

MAX_REQUESTS = 64  # an engine holds this many, running and waiting together; it refuses more
# Below this temperature an engine takes the likeliest token: it has all the probability, and logits divided
# by so small a number overflow.
GREEDY_BELOW = 1e-4


class EngineStopping(ServerError):
    """The engine was closed before it could begin the request."""

    def __init__(self):
        super().__init__("The engine is stopping.", "Try again when it is running.")


class EngineBusy(ResourceError):
    """The queue is full: MAX_REQUESTS other requests run or wait."""


def settle(answer: Future[Generation], job: Future[Generation]) -> None:
    """Gives the answer's future what the job's has, unless it was abandoned."""
    with contextlib.suppress(InvalidStateError):
        if error := job.exception():
            answer.set_exception(error)
        else:
            answer.set_result(job.result())


class Engine(Prompts):
    """Generates text in its own threads.

    A request waits for its turn, and its computation ends when it is cancelled, whether or not anybody still
    reads the pieces. Subclasses set the attributes below, and those of Prompts.
    """

    adapters: list[str]  # names of the loaded LoRAs
    honoured: frozenset[str] = frozenset()  # the request's optional fields that have an effect here
    elsewhere: str = "serve the model's safetensors folder"  # what to do for the other fields
    template: PickedTemplate | None = None  # where the chat template is from
    choices: Choices = {}  # what was chosen for model and machine, to be shown when a server starts
    passes_on: bool = False  # whether it takes `passed_on`
    refuses_late: bool = False  # whether a request can be refused in its future, before its first piece

    def __init__(self):
        self.closed = threading.Event()
        self._accepted: dict[Future[Generation], GenerationRequest] = {}  # those that run or wait
        self._lock = threading.Lock()  # guards `_accepted` and the setting of `closed`

    @property
    def default_adapter(self) -> str | None:
        """The first adapter, which answers if a request names none; None without adapters."""
        return self.adapters[0] if self.adapters else None

    # What a subclass does

    @abstractmethod
    def submit(
        self, request: GenerationRequest, prompt: list[int], emit: Callable[[Piece], None]
    ) -> Future[Generation]:
        """Hands a request to the engine's threads, which pass its pieces to `emit`.

        Returns the future of its Generation, whose text and tokens stay empty. The computation ends soon
        after `must_end` becomes true. An engine that honours `prompt_logprobs` emits them first.
        """

    @abstractmethod
    def read_advice(self, name: str, neutral: float) -> float:
        """The model's recommended value of "temperature" or "top_p"; `neutral` if it recommends none."""

    def free(self) -> None:  # noqa: B027, optional for subclasses
        """Called after `close`: releases memory that would outlive the engine."""

    # What callers use

    def list_unsupported(self, request: GenerationRequest) -> list[str]:
        """Names of the optional fields that were set and that this engine does not honour."""
        neutral = GenerationRequest()
        unsupported = []
        for name, values in OPTIONAL_FIELDS.items():
            value = getattr(request, name)
            honoured = name in self.honoured and (values is None or value in values)
            if value != getattr(neutral, name) and not honoured:
                unsupported.append(name)
        return unsupported

    def start(
        self, request: GenerationRequest, emit: Callable[[Piece], None], prompt: list[int] | None = None
    ) -> Future[Generation]:
        """Begins an answer in another thread, which passes its pieces to `emit`. Returns the answer's future.

        `prompt` is what `check` returned, if it was called. Raises what `check` raises, EngineBusy and
        EngineStopping. Later errors are in the future.
        """
        if prompt is None:
            prompt = self.check(request)
        asks_text_only = request.echo and request.prompt_logprobs is None
        echoed = EchoedPrompt(self.read_text(request)) if asks_text_only else None
        # `close` takes the same lock: a request is accepted before it, and ended by it, or it is refused.
        with self._lock:
            self.refuse_if_closed()
            wanted = [one for one in self._accepted.values() if not one.cancelled.is_set()]
            if len(wanted) >= MAX_REQUESTS:
                raise EngineBusy(
                    f"The queue is full: {MAX_REQUESTS} requests run or wait.", "Try again in a few seconds."
                )
            if echoed:
                emit(Piece("", prompt=echoed))
            job = self.submit(request, prompt, emit)
            answer: Future[Generation] = Future()
            self._accepted[answer] = request
        answer.add_done_callback(self._forget)
        job.add_done_callback(partial(settle, answer))
        return answer

    def _forget(self, answer: Future[Generation]) -> None:
        with self._lock:
            del self._accepted[answer]

    def abandon(self) -> None:
        """After `close`: whoever waits for an answer gets EngineStopping now, whatever is still computed."""
        with self._lock:
            answers = list(self._accepted)
        for answer in answers:
            with contextlib.suppress(InvalidStateError):  # it has just come
                answer.set_exception(EngineStopping())

    def generate(self, request: GenerationRequest) -> Generation:
        """The whole answer. Raises what `start` raises."""
        *_, whole = self.stream(request)
        assert isinstance(whole, Generation)  # the last thing that `stream` yields
        return whole

    def stream(self, request: GenerationRequest) -> Iterator[Piece | Generation]:
        """Yields the answer's pieces as they come, then a Generation with the whole.

        Closing the iterator cancels the request. Raises what `start` raises.
        """
        arriving: queue.Queue[Piece | None] = queue.Queue()  # None after the last piece
        job = self.start(request, arriving.put)
        job.add_done_callback(lambda _: arriving.put(None))
        pieces = []
        try:
            for piece in iter(arriving.get, None):
                pieces.append(piece)
                yield piece
            yield join_pieces(job.result(), pieces)
        finally:
            if not job.done():
                request.cancelled.set()

    def close(self) -> None:
        """Ends running answers at their next token and refuses waiting requests with EngineStopping."""
        with self._lock:
            self.closed.set()

    # For subclasses

    def must_end(self, request: GenerationRequest) -> bool:
        """True if the request was cancelled or the engine closed."""
        return request.cancelled.is_set() or self.closed.is_set()

    def refuse_if_closed(self) -> None:
        """Raises EngineStopping after `close`."""
        if self.closed.is_set():
            raise EngineStopping

    def check(self, request: GenerationRequest) -> list[int]:
        """The prompt's token ids.

        Raises NotFoundError for an adapter that is not loaded, UnknownToken for a bias on a token that the
        model does not have, PromptTooLong, and UsageError for an empty prompt or messages that the template
        rejects.
        """
        self._check_adapter(request.adapter)
        self._check_bias(request.logit_bias)
        return self.read_prompt(request)

    def _check_adapter(self, adapter: str | None) -> None:
        if adapter is not None and adapter not in self.adapters:
            loaded = ", ".join(self.adapters) or "none"
            raise NotFoundError(
                f"No LoRA '{adapter}' is loaded.", f"Choose one of the loaded ones: {loaded}."
            )

    def _check_bias(self, biases: dict[int, float]) -> None:
        for number in biases:
            if not 0 <= number < self.vocabulary_size:
                raise UnknownToken(*explain_unknown(number, self.vocabulary_size))
