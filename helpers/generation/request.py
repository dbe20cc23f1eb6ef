"""What an engine is asked and what it returns: the request with its settings, and the answer in pieces.

Nothing here needs torch.
"""

import threading
from collections.abc import Collection, Mapping, Sequence
from dataclasses import MISSING, dataclass, field, fields, replace
from typing import Any

from helpers.generation.structure import Structure


class Dialogue(str):
    """Messages in place of a prompt, for a server that writes the prompt itself; as a text, for people."""

    messages: Sequence[Mapping[str, Any]]
    continue_last: bool

    def __new__(cls, messages: Sequence[Mapping[str, Any]], continue_last: bool = False) -> "Dialogue":
        text = "\n".join(f"{message['role']}: {message['content']}" for message in messages)
        self = super().__new__(cls, text)
        self.messages, self.continue_last = messages, continue_last
        return self


MIROSTAT_MODES = (0, 1, 2)


def optional(
    default: Any = MISSING, default_factory: Any = MISSING, values: Collection[Any] | None = None
) -> Any:
    """A field that an engine need not honour; `Engine.list_unsupported` then reports it if it was set.

    No engine honours it with another value than one of `values`, if they are given.
    """
    metadata = {"optional": True, "values": values}
    return field(default=default, default_factory=default_factory, metadata=metadata)


@dataclass
class GenerationRequest:
    """What to generate: `messages` ([{"role", "content"}, ...]), or a `prompt` that is used unchanged.

    Instead of a text it may be the ids of its tokens, `prompt_ids`.

    Messages and `tools` are as OpenAI's, with the calls of tools and their results.

    Every engine honours the plain fields. The fields declared with `optional` depend on the engine:
    `Engine.list_unsupported` names those that were set and will be ignored.
    """

    messages: Sequence[Mapping[str, Any]] | None = None
    prompt: str | None = None
    prompt_ids: list[int] | None = None
    add_special_tokens: bool = True  # put the tokenizer's BOS before a text; chat templates have it already
    keep_last: int | None = None  # shorten the prompt to its last tokens; None refuses one that is too long
    continue_last: bool = False  # continue the last message instead of answering it
    tools: Sequence[Mapping[str, Any]] | None = None  # described in the prompt; `structure` allows calls
    max_new_tokens: int = 200  # 0 computes no answer, only what is asked about the prompt
    temperature: float = 0.0  # 0 is greedy
    top_p: float = 1.0  # 1 is off
    top_k: int = 0  # 0 is off
    min_p: float = 0.0  # drops tokens with less than this share of the likeliest one's probability; 0 is off
    typical_p: float = 1.0  # 1 is off
    repetition_penalty: float = 1.0  # 1 is off
    seed: int | None = None  # of the sampling, 64 bits signed; None draws a new one
    stop: list[str] = field(default_factory=list)  # texts that end the answer; they are not part of it
    adapter: str | None = None  # name of a loaded LoRA; None is the base model
    top_logprobs: int | None = None  # how many likeliest tokens to list beside each token; None lists nothing
    echo: bool = False  # begin with a piece that has the prompt

    # Penalties and biases
    presence_penalty: float = optional(0.0)  # subtracted from the logits of tokens that the answer has
    frequency_penalty: float = optional(0.0)  # the same, once for each time that the answer has the token
    logit_bias: dict[int, float] = optional(default_factory=dict)  # token id: what is added to its logit
    repetition_penalty_range: int = optional(0)  # the penalty looks at this many last tokens; 0 is all
    encoder_repetition_penalty: float = optional(1.0)  # above 1 favours tokens of the prompt
    no_repeat_ngram_size: int = optional(0)  # no sequence of so many tokens comes twice; 0 is off

    # Sampling
    epsilon_cutoff: float = optional(0.0)  # drops tokens below this probability; 0 is off
    eta_cutoff: float = optional(0.0)  # the same, with a threshold that depends on the entropy; 0 is off
    mirostat_mode: int = optional(0, values=MIROSTAT_MODES)  # 1 or 2 is the version of Mirostat; 0 is off
    mirostat_tau: float = optional(5.0)  # the surprise that Mirostat aims at, bits per token
    mirostat_eta: float = optional(0.1)  # how fast Mirostat adapts
    # Only the WebUI, as an upstream, has these two. Clients of 2023 send them; others report them as ignored.
    tfs: float = optional(1.0)  # tail-free sampling; 1 is off
    top_a: float = optional(0.0)  # 0 is off

    # As `top_logprobs`, for the tokens of the prompt. The first piece has them, and the token that ends the
    # answer is listed among those of the answer: a client that counts tokens finds all of them.
    prompt_logprobs: int | None = optional(None)

    # Where the answer may end and what it may contain
    min_length: int = optional(0)  # tokens of prompt and answer together before the answer may end
    ban_eos: bool = optional(False)  # only the length or a stop string ends the answer
    structure: Structure | None = optional(None)  # the form that the answer must have
    skip_special_tokens: bool = optional(True)  # leave special tokens out of the text

    # Further fields of the client's body, which another server gets as they are.
    passed_on: dict[str, Any] = optional(default_factory=dict)

    cancelled: threading.Event = field(default_factory=threading.Event)  # set it to end the answer early

    def differs_in_seed_only(self, other: "GenerationRequest") -> bool:
        """Whether the other one has the same prompt and settings, and these are the very same objects."""
        names = [one.name for one in fields(self) if one.name not in ("seed", "cancelled")]
        return all(getattr(self, name) is getattr(other, name) for name in names)


OPTIONAL_FIELDS = {  # name: the values that have a meaning, or None for all
    one.name: one.metadata["values"] for one in fields(GenerationRequest) if one.metadata.get("optional")
}


BYTES_PREFIX = "bytes:"  # of a completion's token that is not whole characters, such as bytes:\\xe2\\x82
LEAST_LOGPROB = -9999.0  # for minus infinity, which JSON does not have; vLLM sends the same


@dataclass(frozen=True)
class Token:
    """A token of an answer with its log-probability, in bytes: it may be only a part of a character."""

    data: bytes
    logprob: float  # nats
    top: tuple[tuple[bytes, float], ...] = ()  # the likeliest tokens, best first: (bytes, log-probability)


@dataclass(frozen=True)
class PromptToken:
    """A token of a prompt, in bytes. The first one has only these and its id: nothing predicts it."""

    data: bytes
    number: int  # its id
    logprob: float | None = None  # nats
    rank: int | None = None  # 1 is the likeliest token in its place
    top: tuple[tuple[bytes, float], ...] = ()  # the likeliest tokens, best first: (bytes, log-probability)
    top_numbers: tuple[int, ...] = ()  # their ids


@dataclass(frozen=True)
class EchoedPrompt:
    """The prompt of an answer."""

    text: str  # empty for messages
    tokens: tuple[PromptToken, ...] = ()  # empty unless the request has `prompt_logprobs`


@dataclass(frozen=True)
class Piece:
    """A piece of an answer, which never ends inside a character."""

    text: str
    tokens: tuple[Token, ...] = ()  # empty unless the request has `top_logprobs`
    prompt: EchoedPrompt | None = None  # only in the first piece, whose text is empty


@dataclass
class Generation:
    """A whole answer."""

    text: str
    prompt_tokens: int
    completion_tokens: int
    finish_reason: str  # "stop": by the model or a stop string; "length": by max_new_tokens or a cancellation
    tokens: list[Token] = field(default_factory=list)  # empty unless the request has `top_logprobs`
    prompt: EchoedPrompt | None = None  # if the request has `echo` or `prompt_logprobs`


def join_pieces(generation: Generation, pieces: list[Piece]) -> Generation:
    """The generation with the prompt, the text and the tokens of these pieces."""
    text = "".join(piece.text for piece in pieces)
    tokens = [token for piece in pieces for token in piece.tokens]
    prompt = next((piece.prompt for piece in pieces if piece.prompt), None)
    return replace(generation, text=text, tokens=tokens, prompt=prompt)
