"""What clients send to the OpenAI-style API: the fields, their checks, and the engine's requests they become.

Nothing is dropped in silence: what this server cannot do is refused with a 400 that names the field.
"""

from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field

from helpers.generation.engine import MAX_REQUESTS, Engine
from helpers.generation.request import GenerationRequest
from helpers.server.errors import ApiError
from helpers.server.fields import SEED_LIMIT, StopTexts, Text

# Fields that are known but not supported, each with the values that are accepted, since they change nothing.
# (None and [] change nothing anywhere.)
UNSUPPORTED: dict[str, tuple] = {
    "tools": (),
    "tool_choice": ("none", "auto"),
    "parallel_tool_calls": (True, False),
    "functions": (),
    "function_call": ("none", "auto"),
    "response_format": ({"type": "text"},),
    "modalities": (["text"],),
    "audio": (),
    "prediction": (),
    "reasoning_effort": ("none",),
    "verbosity": (),
    "web_search_options": (),
    "min_p": (0,),  # of vLLM and the WebUI
    "mode": ("instruct",),  # of the WebUI
}

# Accepted with any value: they say who asks and how the answer is billed or kept. No answer depends on them.
WITHOUT_EFFECT = {
    "user",
    "metadata",
    "store",
    "service_tier",
    "safety_identifier",
    "prompt_cache_key",
    "prompt_cache_retention",
}

SMALLEST_TOP_P = 1e-6  # taken for a top_p of 0, which means: only the likeliest token
COMPLETION_TOKENS = 16  # OpenAI's default length of a completion


def join_text_parts(content: object) -> object:
    """A list of text parts as one text. Raises a ValueError for other kinds of parts, such as images."""
    if not isinstance(content, list):
        return content
    texts = []
    for part in content:
        if not isinstance(part, dict) or part.get("type") != "text" or not isinstance(part.get("text"), str):
            raise ValueError("send a text, or parts of type text")
        texts.append(part["text"])
    return "".join(texts)


def map_developer_role(role: object) -> object:
    """Turns "developer", OpenAI's newer word, into "system"; any other role stays as it is."""
    return "system" if role == "developer" else role


def wrap_text(value: object) -> object:
    """A single text as a list of it; a list as it is. Raises a ValueError for token ids."""
    if isinstance(value, str):
        return [value]
    if isinstance(value, list) and value and isinstance(value[0], int | list):
        raise ValueError("send texts, token ids are not supported")
    return value


Content = Annotated[Text, BeforeValidator(join_text_parts, json_schema_input_type=str | list[dict[str, Any]])]
Role = Annotated[
    Literal["system", "user", "assistant"],
    BeforeValidator(
        map_developer_role, json_schema_input_type=Literal["system", "developer", "user", "assistant"]
    ),
]
Stops = Annotated[StopTexts, BeforeValidator(wrap_text, json_schema_input_type=str | list[str])]
Prompts = Annotated[
    list[Text],
    Field(min_length=1, max_length=MAX_REQUESTS),
    BeforeValidator(wrap_text, json_schema_input_type=str | list[str]),
]
TokenId = Annotated[int, Field(ge=0, strict=False)]  # not strict: the keys of a JSON object are texts
Bias = Annotated[float, Field(ge=-100, le=100)]


class Message(BaseModel):
    """One message of a conversation."""

    model_config = ConfigDict(extra="allow", strict=True)

    role: Role
    content: Content


class StreamOptions(BaseModel):
    """Options of a streamed reply."""

    model_config = ConfigDict(extra="forbid", strict=True)

    include_usage: bool | None = None
    include_obfuscation: bool | None = None  # padding against eavesdroppers, which this server never sends


class SamplingBody(BaseModel):
    """Fields that chat completions and completions share."""

    model_config = ConfigDict(extra="allow", allow_inf_nan=False, strict=True)

    model: Text | None = None
    max_tokens: int | None = Field(None, ge=1)
    temperature: float | None = Field(None, ge=0, le=2)
    top_p: float | None = Field(None, ge=0, le=1)
    n: int | None = Field(None, ge=1, le=MAX_REQUESTS)
    seed: int | None = Field(None, ge=-SEED_LIMIT, lt=SEED_LIMIT)
    stop: Stops | None = None
    presence_penalty: float | None = Field(None, ge=-2, le=2)
    frequency_penalty: float | None = Field(None, ge=-2, le=2)
    logit_bias: dict[TokenId, Bias] | None = Field(None, max_length=1024)
    top_k: int | None = Field(None, ge=0)  # this and the next are not OpenAI's; other servers have them too
    repetition_penalty: float | None = Field(None, ge=0.01, le=100)
    stream: bool | None = None
    stream_options: StreamOptions | None = None

    @property
    def answers_per_prompt(self) -> int:
        """`n`, or its default."""
        return self.n or 1

    @property
    def wants_usage(self) -> bool:
        """Whether a streamed reply ends with its usage."""
        return bool(self.stream_options and self.stream_options.include_usage)

    def refuse_unsupported(self) -> None:
        """Raises an ApiError for the first field that asks for something that this server cannot do."""
        refuse_unknown_fields(self.model_extra or {})
        if self.stream_options and not self.stream:
            raise ApiError(
                400, "stream_options is for streamed replies only.", "stream_options", "invalid_value"
            )

    def resolve_sampling(self, engine: Engine) -> dict[str, Any]:
        """The sampling settings of the engine's request, with defaults for what was not sent.

        Temperature and top_p default to the model's own advice, since a small model rambles at OpenAI's 1.0.
        A request that sends a temperature takes no top_p from the advice either: the two belong together.
        """
        if self.temperature is None:
            temperature = engine.read_advice("temperature", 1.0)
            top_p = engine.read_advice("top_p", 1.0)
        else:
            temperature = self.temperature
            top_p = 1.0
        if self.top_p is not None:
            top_p = max(SMALLEST_TOP_P, self.top_p)
        return {
            "temperature": temperature,
            "top_p": top_p,
            "top_k": self.top_k or 0,
            "repetition_penalty": self.repetition_penalty or 1.0,
            "presence_penalty": self.presence_penalty or 0.0,
            "frequency_penalty": self.frequency_penalty or 0.0,
            "logit_bias": self.logit_bias or {},
            "stop": self.stop or [],
        }

    def make_requests(self, engine: Engine, settings: Mapping[str, Any]) -> list[GenerationRequest]:
        """n requests with these settings, whose seeds are seed, seed + 1, ...

        Raises an ApiError for a setting that the engine does not honour.
        """
        requests = []
        for number in range(self.answers_per_prompt):
            requests.append(GenerationRequest(**settings, seed=add_to_seed(self.seed, number)))
        if unsupported := engine.list_unsupported(requests[0]):
            problem = f"The loaded engine does not support {unsupported[0]}."
            raise ApiError(400, problem, unsupported[0], "unsupported_parameter")
        return requests


class ChatCompletionBody(SamplingBody):
    """POST /v1/chat/completions."""

    messages: list[Message] = Field(min_length=1)
    max_completion_tokens: int | None = Field(None, ge=1)
    logprobs: bool | None = None
    top_logprobs: int | None = Field(None, ge=0, le=20)

    def refuse_unsupported(self) -> None:
        """Raises an ApiError for the first field that asks for something that this server cannot do."""
        super().refuse_unsupported()
        for index, message in enumerate(self.messages):
            refuse_unknown_fields(message.model_extra or {}, f"messages.{index}.")
        if self.top_logprobs is not None and not self.logprobs:
            raise ApiError(
                400, "top_logprobs is for requests with logprobs true only.", "top_logprobs", "invalid_value"
            )

    def build_requests(self, engine: Engine, adapter: str | None) -> list[GenerationRequest]:
        """The engine's requests, n of them. Without a limit an answer may fill the context."""
        self.refuse_unsupported()
        if self.max_completion_tokens is None:
            limit = check_limit(engine, "max_tokens", self.max_tokens)
        else:
            limit = check_limit(engine, "max_completion_tokens", self.max_completion_tokens)
        settings = {
            **self.resolve_sampling(engine),
            "adapter": adapter,
            "messages": [{"role": message.role, "content": message.content} for message in self.messages],
            "max_new_tokens": limit,
            "top_logprobs": (self.top_logprobs or 0) if self.logprobs else None,
        }
        return self.make_requests(engine, settings)


class CompletionBody(SamplingBody):
    """POST /v1/completions."""

    prompt: Prompts
    max_tokens: int | None = Field(COMPLETION_TOKENS, ge=1)
    logprobs: int | None = Field(None, ge=0, le=5)
    echo: bool | None = None
    suffix: Text | None = None
    best_of: int | None = Field(None, ge=1)

    def refuse_unsupported(self) -> None:
        """Raises an ApiError for the first field that asks for something that this server cannot do."""
        super().refuse_unsupported()
        if self.suffix:
            message = "The models of this server do not fill in the middle of a text."
            raise ApiError(400, message, "suffix", "unsupported_parameter")
        if self.best_of not in (None, self.answers_per_prompt):
            message = "best_of must equal n: all answers are returned."
            raise ApiError(400, message, "best_of", "unsupported_parameter")
        if self.echo and self.logprobs is not None:
            message = "This server computes no log-probabilities of prompts: omit echo or logprobs."
            raise ApiError(400, message, "echo", "unsupported_parameter")
        if self.answers_per_prompt * len(self.prompt) > MAX_REQUESTS:
            asked = f"{len(self.prompt)} prompts with {self.answers_per_prompt} answers each"
            raise ApiError(400, f"{asked}; the limit is {MAX_REQUESTS} answers.", "n", "invalid_value")

    def build_requests(self, engine: Engine, adapter: str | None) -> list[GenerationRequest]:
        """The engine's requests, n for each prompt."""
        self.refuse_unsupported()
        settings = {
            **self.resolve_sampling(engine),
            "adapter": adapter,
            "max_new_tokens": check_limit(engine, "max_tokens", self.max_tokens or COMPLETION_TOKENS),
            "top_logprobs": self.logprobs,
        }
        requests = []
        for prompt in self.prompt:
            requests += self.make_requests(engine, {**settings, "prompt": prompt})
        return requests


def check_limit(engine: Engine, field: str, tokens: int | None) -> int:
    """The most tokens that an answer may have: `tokens`, or the context's size if it is None.

    Raises an ApiError, which names the field, for more tokens than the context has.
    """
    if tokens is None:
        return engine.context
    if tokens > engine.context:
        reason = f"The model's context has {engine.context} tokens, prompt and answer together."
        raise ApiError(400, f"{field} is too large: {tokens}. {reason}", field, "invalid_value")
    return tokens


def refuse_unknown_fields(sent: Mapping[str, object], prefix: str = "") -> None:
    """Raises an ApiError for the first field that is unknown, or known but unsupported with this value.

    `prefix` comes before the field's name in the refusal, such as "messages.0.".
    """
    for name, value in sent.items():
        if value is None or value == [] or name in WITHOUT_EFFECT or value in UNSUPPORTED.get(name, ()):
            continue
        code = "unsupported_parameter" if name in UNSUPPORTED else "unknown_parameter"
        field = prefix + name
        raise ApiError(400, f"This server does not support '{field}'.", field, code)


def add_to_seed(seed: int | None, number: int) -> int | None:
    """seed + number, wrapped around to stay within 64 bits signed; None, which draws a seed, stays None."""
    if seed is None:
        return None
    return (seed + number + SEED_LIMIT) % (2 * SEED_LIMIT) - SEED_LIMIT
