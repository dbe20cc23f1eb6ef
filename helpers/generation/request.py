"""What an engine is asked and what it returns: the request with its settings, and the answer in pieces.

Nothing here needs torch.
"""

import threading
from dataclasses import MISSING, dataclass, field, fields, replace
from typing import Any


def optional(default: Any = MISSING, default_factory: Any = MISSING) -> Any:
    """A field that an engine need not honour; `Engine.list_unsupported` then reports it if it was set."""
    return field(default=default, default_factory=default_factory, metadata={"optional": True})


@dataclass
class GenerationRequest:
    """What to generate: either `messages` ([{"role", "content"}, ...]) or `prompt`, which is used unchanged.

    Every engine honours the plain fields. The fields declared with `optional` depend on the engine:
    `Engine.list_unsupported` names those that were set and will be ignored.
    """

    messages: list[dict[str, str]] | None = None
    prompt: str | None = None
    add_special_tokens: bool = True  # put the tokenizer's BOS before `prompt`; chat templates have it already
    keep_last: int | None = None  # shorten the prompt to its last tokens; None refuses one that is too long
    continue_last: bool = False  # continue the last message instead of answering it
    max_new_tokens: int = 200
    temperature: float = 0.0  # 0 is greedy
    top_p: float = 1.0  # 1 is off
    top_k: int = 0  # 0 is off
    typical_p: float = 1.0  # 1 is off
    repetition_penalty: float = 1.0  # 1 is off
    seed: int | None = None  # of the sampling, 64 bits signed; None draws a new one
    stop: list[str] = field(default_factory=list)  # texts that end the answer; they are not part of it
    adapter: str | None = None  # name of a loaded LoRA; None is the base model
    top_logprobs: int | None = None  # how many likeliest tokens to list beside each token; None lists nothing

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
    mirostat_mode: int = optional(0)  # 1 or 2 is the version of Mirostat; 0 is off
    mirostat_tau: float = optional(5.0)  # the surprise that Mirostat aims at, bits per token
    mirostat_eta: float = optional(0.1)  # how fast Mirostat adapts
    # No engine has these two. Clients of 2023 send them, and `list_unsupported` reports them as ignored.
    tfs: float = optional(1.0)  # tail-free sampling; 1 is off
    top_a: float = optional(0.0)  # 0 is off

    # Where the answer may end and what it may contain
    min_length: int = optional(0)  # tokens of prompt and answer together before the answer may end
    ban_eos: bool = optional(False)  # only the length or a stop string ends the answer
    grammar: str = optional("")  # GBNF, llama.cpp's grammar format, which the answer follows; "" is none
    skip_special_tokens: bool = optional(True)  # leave special tokens out of the text

    cancelled: threading.Event = field(default_factory=threading.Event)  # set it to end the answer early


OPTIONAL_FIELDS = tuple(one.name for one in fields(GenerationRequest) if one.metadata.get("optional"))


@dataclass(frozen=True)
class Token:
    """A token of an answer with its log-probability, in bytes: it may be only a part of a character."""

    data: bytes
    logprob: float  # nats
    top: tuple[tuple[bytes, float], ...] = ()  # the likeliest tokens, best first: (bytes, log-probability)


@dataclass(frozen=True)
class Piece:
    """A piece of an answer, which never ends inside a character."""

    text: str
    tokens: tuple[Token, ...] = ()  # empty unless the request has `top_logprobs`


@dataclass
class Generation:
    """A whole answer."""

    text: str
    prompt_tokens: int
    completion_tokens: int
    finish_reason: str  # "stop": by the model or a stop string; "length": by max_new_tokens or a cancellation
    tokens: list[Token] = field(default_factory=list)  # empty unless the request has `top_logprobs`


def join_pieces(generation: Generation, pieces: list[Piece]) -> Generation:
    """The generation with the text and the tokens of these pieces."""
    text = "".join(piece.text for piece in pieces)
    tokens = [token for piece in pieces for token in piece.tokens]
    return replace(generation, text=text, tokens=tokens)
