"""The engine that asks another server: vLLM, llama.cpp's, Ollama, the WebUI, the kit's own. No torch.

The upstream writes the prompts of messages with its own chat template, and it computes. Its models are what
requests can name: one of them is the base, the others are the LoRAs.
"""

from bisect import bisect_left
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import closing
from dataclasses import dataclass, replace
from functools import partial
from typing import NotRequired, TypedDict

from helpers.common.arguments import cut
from helpers.common.errors import KitError, NotFoundError, UnsupportedError
from helpers.generation.engine import MAX_REQUESTS, Engine
from helpers.generation.prompts import UNKNOWN_CONTEXT
from helpers.generation.request import Dialogue, Generation, GenerationRequest, Piece
from helpers.generation.upstream_answer import UpstreamAnswer
from helpers.generation.upstream_errors import UPSTREAM_REMEDIES, UpstreamFailed, UpstreamLate
from helpers.generation.upstream_http import END_S, Exchange, Upstream, UpstreamServer
from helpers.generation.upstream_kinds import KINDS, NOT_SENT, UNKNOWN, build_call, find_dialogue
from helpers.generation.upstream_tokens import VllmTokens, estimate, find_tokens
from helpers.loading.tools import OWN, Messages, ToolForm

LONGEST_LIST = 300  # characters of a list of models; some servers have hundreds


class Meta(TypedDict, total=False):
    """What llama.cpp tells of a model."""

    n_ctx: int | None


class Card(TypedDict):
    """An entry of /v1/models. A LoRA's has `parent` in vLLM and in the kit."""

    id: str
    owned_by: NotRequired[str | None]
    parent: NotRequired[str | None]
    max_model_len: NotRequired[int | None]
    meta: NotRequired[Meta | None]


class Cards(TypedDict):
    """Reply of /v1/models."""

    data: list[Card]


@dataclass(frozen=True)
class Models:
    """The upstream's models, as this server names them."""

    base: Card
    loras: list[str]  # those that were asked for come first
    default: str | None  # which of them answers if a request names none; None is the base


class UpstreamEngine(Engine):
    """Generates by asking another server."""

    refuses_late = True
    passes_on = True
    elsewhere = "omit it, or ask the upstream itself"

    def __init__(self, upstream: Upstream, model: str | None = None, loras: Sequence[str] = ()):
        """`model` is the base, by default the upstream's first; the first of `loras` answers by default.

        Raises what upstream_errors has, and NotFoundError for a name that the upstream does not list.
        """
        super().__init__()
        self.server = UpstreamServer(upstream)
        try:
            models = choose_models(self.server.ask("/v1/models", form=Cards)["data"], model, loras)
            self.name = models.base["id"]
            self.adapters, self._default = models.loras, models.default
            self.kind = KINDS.get(models.base.get("owned_by") or "", UNKNOWN)
            self.tokens = find_tokens(self.server, self.name)
            self.context = self._measure_context(models.base)
        except BaseException:
            self.server.cutter.end()
            raise
        self.counts_exactly = self.tokens is not None
        self.honoured = self.kind.honoured
        self._wait_s = upstream.wait_s
        self._threads = ThreadPoolExecutor(MAX_REQUESTS, thread_name_prefix="upstream")

    def _measure_context(self, card: Card) -> int:
        told = card.get("max_model_len") or (card.get("meta") or {}).get("n_ctx")
        if not told and isinstance(self.tokens, VllmTokens):
            told = self.tokens.measure_context()
        return told if told and told > 0 else UNKNOWN_CONTEXT

    def describe(self) -> str:
        """A line for the one who starts the server."""
        counted = "" if self.counts_exactly else "; it counts no tokens, so their numbers are estimates"
        names = [
            name if name != self.default_adapter else f"{name} (answers by default)" for name in self.adapters
        ]
        loras = f", LoRAs: {cut(', '.join(names), LONGEST_LIST)}" if names else ""
        return (
            f"upstream: {self.kind.title} at {self.server.upstream.root}, model {self.name}{loras}{counted}"
        )

    @property
    def default_adapter(self) -> str | None:
        """The LoRA that was asked for first; None, which is the base, if none was."""
        return self._default

    # What the server asks before an answer

    def read_advice(self, name: str, neutral: float) -> float:
        """NOT_SENT: the upstream takes its own advice, or its default."""
        return NOT_SENT

    def list_unsupported(self, request: GenerationRequest) -> list[str]:
        """Names of the fields that were set and that the upstream does not take."""
        unsupported = super().list_unsupported(request)
        if request.typical_p != 1 and "typical_p" not in self.honoured:
            unsupported.append("typical_p")
        is_text = find_dialogue(request) is None  # the upstream writes the prompt of messages with its BOS
        if is_text and not request.add_special_tokens and "add_special_tokens" not in self.honoured:
            unsupported.append("add_special_tokens")
        if request.structure and request.structure.kind not in self.kind.forms:
            unsupported.append("structure")
        return unsupported

    @property
    def call_form(self) -> ToolForm:
        """The form in which UpstreamAnswer writes the upstream's calls."""
        return OWN

    def render(
        self, messages: Messages, continue_last: bool = False, tools: Sequence[object] | None = None
    ) -> str:
        """The messages, whose prompt the upstream writes."""
        return Dialogue(messages, continue_last)

    def decode(self, ids: list[int]) -> str:
        """An UnsupportedError: servers do not tell the text of tokens."""
        raise UnsupportedError("The upstream does not tell the text of tokens.", "Send the prompt as text.")

    def encode(self, text: str, add_special: bool) -> list[int]:
        """The text's token ids; UnsupportedError if the upstream does not list them."""
        if self.tokens is None:
            problem = f"{self.kind.title} at {self.server.upstream.root} lists no tokens."
            raise UnsupportedError(problem, "Count them, which gives an estimate: POST /api/v1/token-count.")
        if isinstance(text, Dialogue):
            return self.tokens.encode_dialogue(text)
        return self.tokens.encode(text, add_special)

    def tokenize(self, text: str, add_special: bool = True) -> list[int]:
        """The same."""
        return self.encode(text, add_special)

    def count_tokens(self, text: str) -> int:
        """How many tokens a text has, with the special ones; an estimate if the upstream does not tell."""
        return len(self.encode(text, True)) if self.tokens else estimate(text)

    def cut_text(self, text: str, keep_last: int | None) -> str:
        """The end of the text, as far as its last `keep_last` tokens can reach. Messages stay whole."""
        return text if isinstance(text, Dialogue) or keep_last is None else super().cut_text(text, keep_last)

    def read_prompt(self, request: GenerationRequest) -> list[int]:
        """The token ids of a request's prompt, as the upstream lists them."""
        return self.encode(find_dialogue(request) or request.prompt or "", request.add_special_tokens)

    def check(self, request: GenerationRequest) -> list[int]:
        """No ids: the upstream writes the prompt, and refuses what it cannot answer.

        Raises NotFoundError for an unknown LoRA.
        """
        self._check_adapter(request.adapter)
        return []

    def fit(self, request: GenerationRequest) -> str | None:
        """The request's prompt without its beginning, if that has more than `keep_last` tokens."""
        prompt, keep = request.prompt, request.keep_last
        if prompt is None or keep is None or isinstance(prompt, Dialogue):
            return prompt
        text = self.cut_text(prompt, keep)
        if len(text.encode()) < keep or self.count_tokens(text) <= keep:
            return text
        return text[bisect_left(range(len(text)), True, key=lambda n: self.count_tokens(text[n:]) <= keep) :]

    # The answer

    def submit(
        self, request: GenerationRequest, prompt: list[int], emit: Callable[[Piece], None]
    ) -> Future[Generation]:
        """Hands the request to a thread, which waits for the upstream."""
        return self._threads.submit(self._run, request, emit)

    def close(self) -> None:
        """Ends running answers by cutting their connections; refuses waiting requests with EngineStopping."""
        super().close()
        self._threads.shutdown(wait=False)
        self.server.cutter.end()

    def _run(self, request: GenerationRequest, emit: Callable[[Piece], None]) -> Generation:
        """Passes on an answer, whose pieces go to `emit`. The Generation has no text."""
        self.refuse_if_closed()
        exchange = Exchange(partial(self.must_end, request), self._wait_s)
        answer = UpstreamAnswer(request, emit)
        try:
            self._follow(request, exchange, answer)
        except KitError:
            if not exchange.must_end():
                raise
        if answer.reason is None and not exchange.must_end():
            raise explain_end(exchange, self._wait_s)
        answer.finish()
        prompt = answer.usage.get("prompt_tokens") or estimate(find_dialogue(request) or request.prompt or "")
        count = answer.usage.get("completion_tokens") or answer.count
        return Generation("", prompt, count, answer.reason or "length")

    def _follow(self, request: GenerationRequest, exchange: Exchange, answer: UpstreamAnswer) -> None:
        """Reads the upstream's events until the answer or the exchange ends."""
        if exchange.must_end():
            return
        request = replace(request, prompt=self.fit(request))
        path, body = build_call(request, request.adapter or self.name, self.kind, self.context)
        with closing(self.server.stream(path, body, exchange)) as events:
            for event in events:
                before = answer.progress
                if not answer.take(event) or exchange.must_end():
                    return
                if answer.progress > before:
                    exchange.wait(END_S if answer.reason else self._wait_s)


def explain_end(exchange: Exchange, seconds: float) -> UpstreamFailed:
    """The error for an answer that did not come to its end."""
    if exchange.is_late:
        problem = f"The upstream sent no text for {seconds:g} s."
        return UpstreamLate(problem, UPSTREAM_REMEDIES["timeout"])
    problem = "The upstream ended its stream before the end of the answer."
    return UpstreamFailed(problem, UPSTREAM_REMEDIES["closed"])


def choose_models(cards: list[Card], model: str | None, loras: Sequence[str]) -> Models:
    """The base and the LoRAs.

    The base is `model`, or else the first model that is not a LoRA. If no entry says that it is a LoRA, all
    others count as LoRAs. Raises NotFoundError.
    """
    names = [card["id"] for card in cards]
    for name in [*([model] if model else []), *loras]:
        if name not in names:
            listed = cut(", ".join(names), LONGEST_LIST) or "none"
            raise NotFoundError(f"The upstream has no model '{name}'.", f"It lists: {listed}.")
    bases = [card for card in cards if card["id"] == model or not (model or card.get("parent"))]
    if not bases:
        raise NotFoundError("The upstream lists no model.", "Load one there.")
    marked = [card["id"] for card in cards if card.get("parent")]
    others = [name for name in marked or names if name not in (bases[0]["id"], *loras)]
    return Models(bases[0], [*loras, *others], loras[0] if loras else None)
