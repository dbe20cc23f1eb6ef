"""What is asked of an engine and what comes out: the request with its sampling settings, the pieces of an answer, its tokens' log-probabilities."""

import threading
from dataclasses import dataclass, field, fields, replace


@dataclass
class GenerationRequest:
    """What to generate. Either `messages` ([{"role", "content"}, ...]) or `prompt`, a text that is taken as it is.

    The fields from `presence_penalty` on are optional for an engine: `list_unsupported` says which of those that were set it does not honour.
    """

    messages: list[dict[str, str]] | None = None
    prompt: str | None = None
    add_special_tokens: bool = (
        True  # whether the tokenizer puts its BOS before `prompt`; a rendered chat template has it already
    )
    keep_last: int | None = (
        None  # tokens of a prompt that are kept, from its end; None keeps all and refuses one that is too long
    )
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
    top_logprobs: int | None = (
        None  # how many of the likeliest tokens each token of the answer is told with; None tells no log-probabilities
    )
    presence_penalty: float = 0.0  # taken off the logits of tokens that the answer has already
    frequency_penalty: float = 0.0  # the same, for each time that it has them
    logit_bias: dict[int, float] = field(default_factory=dict)  # token id: what is added to its logit
    repetition_penalty_range: int = 0  # the last tokens that the repetition penalty looks at; 0 is all
    encoder_repetition_penalty: float = 1.0  # above 1 favours tokens of the prompt
    no_repeat_ngram_size: int = 0  # 0 is off
    min_length: int = 0  # tokens of prompt and answer together, before which the answer cannot end
    epsilon_cutoff: float = 0.0  # a probability, 0 is off
    eta_cutoff: float = 0.0
    tfs: float = 1.0  # tail-free sampling, 1 is off
    top_a: float = 0.0
    mirostat_mode: int = 0
    mirostat_tau: float = 5.0
    mirostat_eta: float = 0.1
    grammar: str = ""  # GBNF
    ban_eos: bool = False  # the answer ends by its length or a stop string only
    skip_special_tokens: bool = True
    cancelled: threading.Event = field(default_factory=threading.Event)


OPTIONAL = [one.name for one in fields(GenerationRequest)]


OPTIONAL = OPTIONAL[OPTIONAL.index("presence_penalty") : OPTIONAL.index("cancelled")]


@dataclass(frozen=True)
class Token:
    """One token of an answer, with how likely it and its rivals were. Bytes, since a token may hold half a character."""

    data: bytes
    logprob: float  # nats
    top: tuple[tuple[bytes, float], ...] = ()  # the likeliest, best first: (bytes, log-probability)


@dataclass(frozen=True)
class Piece:
    """A piece of an answer: never half a character. `tokens` is empty unless log-probabilities were asked for."""

    text: str
    tokens: tuple[Token, ...] = ()


@dataclass
class Generation:
    """What came out."""

    text: str
    prompt_tokens: int
    completion_tokens: int
    finish_reason: (
        str  # "stop" (the model or a stop string ended it) or "length" (max_new_tokens, or a cancellation)
    )
    tokens: list[Token] = field(default_factory=list)  # with `top_logprobs` only


def join_pieces(generation: Generation, pieces: list[Piece]) -> Generation:
    """The generation with the pieces' text and tokens in it."""
    return replace(
        generation,
        text="".join(piece.text for piece in pieces),
        tokens=[token for piece in pieces for token in piece.tokens],
    )
