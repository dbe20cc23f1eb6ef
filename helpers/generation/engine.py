"""The interface of everything that generates text: a request goes in, pieces of text come out.

It is implemented by `transformers_engine` and `llama_engine`. Nothing here needs torch, so a server on
llama.cpp starts without it.
"""

import queue
import threading
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from concurrent.futures import Future

from helpers.common.errors import NotFoundError, ResourceError, ServerError, UsageError
from helpers.generation.request import OPTIONAL_FIELDS, Generation, GenerationRequest, Piece, join_pieces
from helpers.loading.chat_templates import PickedTemplate, explain_missing
from helpers.loading.chat_tokenizer import ChatTokenizer, encode_marked

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


class PromptTooLong(UsageError):
    """The prompt leaves no room for an answer in the model's context."""


class UnknownToken(UsageError):
    """A token id that the model does not have."""


class Engine(ABC):
    """Generates text in its own threads.

    A request waits for its turn, and its computation ends when it is cancelled, whether or not anybody still
    reads the pieces. Subclasses set the attributes below.
    """

    name: str  # the model's folder name
    context: int  # tokens that prompt and answer may have together
    vocabulary_size: int  # the model's token ids are 0 to vocabulary_size - 1
    adapters: list[str]  # names of the loaded LoRAs
    honoured: frozenset[str] = frozenset()  # the request's optional fields that have an effect here
    chat: ChatTokenizer | None = None  # the chat template and the tokenizer; None without a template
    template: PickedTemplate | None = None  # where the chat template is from
    bos_id: int | None = None  # the token that a text begins with, if the model has one

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
    def encode(self, text: str, add_special: bool) -> list[int]:
        """The text's token ids, with the special tokens that the tokenizer adds if `add_special` is true."""

    @abstractmethod
    def submit(
        self, request: GenerationRequest, prompt: list[int], emit: Callable[[Piece], None]
    ) -> Future[Generation]:
        """Hands a request to the engine's threads, which pass its pieces to `emit`.

        Returns the future of its Generation, whose text and tokens stay empty. The computation ends soon
        after `must_end` becomes true.
        """

    @abstractmethod
    def read_advice(self, name: str, neutral: float) -> float:
        """The model's recommended value of "temperature" or "top_p"; `neutral` if it recommends none."""

    def free(self) -> None:  # noqa: B027, optional for subclasses
        """Called after `close`: releases memory that would outlive the engine."""

    # What callers use

    def render(self, messages: list[dict[str, str]], continue_last: bool = False) -> str:
        """The prompt that the model's chat template makes of the messages, for `tokenize`.

        Control tokens inside a message are marked, to be read as text. Raises a UsageError if the template
        rejects the messages, and a NotFoundError if the model has none.
        """
        if self.chat is None:
            raise explain_missing(self.name)
        return self.chat.render_marked(messages, continue_last)

    def tokenize(self, text: str, add_special: bool = True) -> list[int]:
        """The text's token ids, with the special tokens that the tokenizer adds if `add_special` is true.

        BOS is not put before a text that begins with it.
        """
        ids = encode_marked(
            lambda part: self.encode(part, False), text, lambda part: self.encode(part, add_special)
        )
        doubled = add_special and self.bos_id is not None and ids[:2] == [self.bos_id, self.bos_id]
        return ids[1:] if doubled else ids

    def count_tokens(self, text: str) -> int:
        """How many tokens a text has, with the special ones that the tokenizer adds."""
        return len(self.tokenize(text))

    def list_unsupported(self, request: GenerationRequest) -> list[str]:
        """Names of the optional fields that were set and that this engine does not honour."""
        neutral = GenerationRequest()
        changed = [name for name in OPTIONAL_FIELDS if getattr(request, name) != getattr(neutral, name)]
        return [name for name in changed if name not in self.honoured]

    def start(self, request: GenerationRequest, emit: Callable[[Piece], None]) -> Future[Generation]:
        """Begins an answer in another thread, which passes its pieces to `emit`. Returns the answer's future.

        Raises what `check` raises, EngineBusy and EngineStopping. Later errors are in the future.
        """
        prompt = self.check(request)
        # `close` takes the same lock: a request is accepted before it, and ended by it, or it is refused.
        with self._lock:
            self.refuse_if_closed()
            wanted = [one for one in self._accepted.values() if not one.cancelled.is_set()]
            if len(wanted) >= MAX_REQUESTS:
                raise EngineBusy(
                    f"The queue is full: {MAX_REQUESTS} requests run or wait.", "Try again in a few seconds."
                )
            job = self.submit(request, prompt, emit)
            self._accepted[job] = request
        job.add_done_callback(self._forget)
        return job

    def _forget(self, job: Future[Generation]) -> None:
        with self._lock:
            del self._accepted[job]

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
        if request.prompt is not None:
            ids = self.tokenize(request.prompt, request.add_special_tokens)
        elif request.messages is not None:
            text = self.render(request.messages, request.continue_last)
            ids = self.tokenize(text, add_special=False)  # the template has written them
        else:
            raise UsageError("The request has neither messages nor a prompt.", "Give it one of them.")
        return self.truncate_prompt(ids, request.keep_last)

    def truncate_prompt(self, ids: list[int], keep_last: int | None) -> list[int]:
        """The last `keep_last` ids of a prompt, at least one; None keeps all.

        Raises UsageError for an empty prompt and PromptTooLong for one that leaves no room for an answer.
        """
        if keep_last is not None:
            ids = ids[-max(1, keep_last) :]
        if not ids:
            raise UsageError("The prompt has 0 tokens.", "Write a prompt.")
        if len(ids) >= self.context:
            raise PromptTooLong(
                f"The prompt has {len(ids)} tokens, and the model takes at most {self.context - 1}.",
                "Shorten it.",
            )
        return ids

    def _check_adapter(self, adapter: str | None) -> None:
        if adapter is not None and adapter not in self.adapters:
            loaded = ", ".join(self.adapters) or "none"
            raise NotFoundError(
                f"No LoRA '{adapter}' is loaded.", f"Choose one of the loaded ones: {loaded}."
            )

    def _check_bias(self, biases: dict[int, float]) -> None:
        for number in biases:
            if not 0 <= number < self.vocabulary_size:
                raise UnknownToken(
                    f"There is no token {number}; the model has 0 to {self.vocabulary_size - 1}.",
                    "Use token ids of its own tokenizer.",
                )
