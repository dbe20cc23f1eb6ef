"""What clients send to the OpenAI-style API, checked field by field, and the engine's requests that it amounts to.

Nothing is dropped in silence: what cannot be done here is refused with a 400 that names the field.
"""

from collections.abc import Iterable
from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field

from helpers.generation.engine import LIMIT, Engine
from helpers.generation.request import GenerationRequest
from helpers.server.errors import ApiError
from helpers.server.fields import SEED_LIMIT, StopTexts, Text

# Known and not to be done here, with the values that change nothing; None changes nothing anywhere.
UNSUPPORTED: dict[str, tuple] = {
    "tools": ([],), "tool_choice": ("none", "auto"), "parallel_tool_calls": (True, False), "functions": ([],), "function_call": ("none", "auto"),
    "response_format": ({"type": "text"},), "modalities": (["text"],), "audio": (), "prediction": (), "reasoning_effort": ("none",),
    "verbosity": (), "web_search_options": (), "min_p": (0,), "mode": ("instruct",),  # two of the WebUI's and vLLM's
}  # fmt: skip


# They say who asks and how the answer is billed or kept; no answer depends on them.
WITHOUT_EFFECT = {
    "user",
    "metadata",
    "store",
    "service_tier",
    "safety_identifier",
    "prompt_cache_key",
    "prompt_cache_retention",
}


SMALLEST_TOP_P = 1e-6  # what 0 amounts to: the likeliest token


def join_parts(content: object) -> object:
    """A list of text parts as one text; other kinds of parts cannot be read here."""
    if not isinstance(content, list):
        return content
    if not all(
        isinstance(part, dict) and part.get("type") == "text" and isinstance(part.get("text"), str)
        for part in content
    ):
        raise ValueError("send a text, or parts of type text")
    return "".join(part["text"] for part in content)


def know_role(role: object) -> object:
    """developer is OpenAI's newer word for system."""
    return "system" if role == "developer" else role


def as_list(value: object) -> object:
    """One text as a list of it."""
    if isinstance(value, list) and value and isinstance(value[0], int | list):
        raise ValueError("send texts, token ids are not supported")
    return [value] if isinstance(value, str) else value


Content = Annotated[Text, BeforeValidator(join_parts, json_schema_input_type=str | list[dict[str, Any]])]


Role = Annotated[
    Literal["system", "user", "assistant"],
    BeforeValidator(know_role, json_schema_input_type=Literal["system", "developer", "user", "assistant"]),
]


Stops = Annotated[StopTexts, BeforeValidator(as_list, json_schema_input_type=str | list[str])]


Prompts = Annotated[
    list[Text],
    Field(min_length=1, max_length=LIMIT),
    BeforeValidator(as_list, json_schema_input_type=str | list[str]),
]


TokenId = Annotated[int, Field(ge=0, strict=False)]  # JSON's keys are texts


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
    """Fields that both ways of completing share."""

    model_config = ConfigDict(extra="allow", allow_inf_nan=False, strict=True)

    model: Text | None = None
    max_tokens: int | None = Field(None, ge=1)
    temperature: float | None = Field(
        None, ge=0, le=2
    )  # none sent: the model's own advice, since a small model rambles at OpenAI's 1.0
    top_p: float | None = Field(None, ge=0, le=1)
    n: int | None = Field(None, ge=1, le=LIMIT)
    seed: int | None = Field(None, ge=-SEED_LIMIT, lt=SEED_LIMIT)
    stop: Stops | None = None
    presence_penalty: float | None = Field(None, ge=-2, le=2)
    frequency_penalty: float | None = Field(None, ge=-2, le=2)
    logit_bias: dict[TokenId, Annotated[float, Field(ge=-100, le=100)]] | None = Field(None, max_length=1024)
    top_k: int | None = Field(
        None, ge=0
    )  # this one and the next are no part of OpenAI's API; other servers have them too
    repetition_penalty: float | None = Field(None, ge=0.01, le=100)
    stream: bool | None = None
    stream_options: StreamOptions | None = None

    def wants_usage(self) -> bool:
        """Whether a streamed reply ends with its usage."""
        return bool(self.stream_options and self.stream_options.include_usage)

    def refuse_unsupported(self) -> None:
        """ApiError for the first field that asks for something that cannot be done here."""
        refuse_names((self.model_extra or {}).items())
        if self.stream_options and not self.stream:
            raise ApiError(
                400, "stream_options is for streamed replies only.", "stream_options", "invalid_value"
            )

    def make_requests(
        self, engine: Engine, adapter: str | None, tokens: tuple[str, int | None], **what: Any
    ) -> list[GenerationRequest]:
        """n requests of the engine's, with the seeds seed, seed + 1, ...; `tokens` is the limit of the answer and the name of its field."""
        name, most = tokens
        if most and most > engine.context:
            message = f"{name} is too large: {most}. The model's context has {engine.context} tokens, prompt and answer together."
            raise ApiError(400, message, name, "invalid_value")
        advised = (
            self.temperature is None
        )  # a temperature of one's own takes nothing else from the model's advice
        settings = {
            "max_new_tokens": most or engine.context,
            "temperature": engine.read_advice("temperature", 1.0) if advised else self.temperature,
            "top_p": max(SMALLEST_TOP_P, self.top_p)
            if self.top_p is not None
            else engine.read_advice("top_p", 1.0)
            if advised
            else 1.0,
            "top_k": self.top_k or 0,
            "repetition_penalty": self.repetition_penalty or 1.0,
            "presence_penalty": self.presence_penalty or 0.0,
            "frequency_penalty": self.frequency_penalty or 0.0,
            "logit_bias": self.logit_bias or {},
            "stop": self.stop or [],
        }
        requests = [
            GenerationRequest(**what, **settings, seed=add_to_seed(self.seed, i), adapter=adapter)
            for i in range(self.n or 1)
        ]
        for unsupported in engine.list_unsupported(requests[0]):
            raise ApiError(
                400,
                f"The engine that is loaded does not support {unsupported}.",
                unsupported,
                "unsupported_parameter",
            )
        return requests


class ChatCompletionBody(SamplingBody):
    """POST /v1/chat/completions."""

    messages: list[Message] = Field(min_length=1)
    max_completion_tokens: int | None = Field(None, ge=1)
    logprobs: bool | None = None
    top_logprobs: int | None = Field(None, ge=0, le=20)

    def build_requests(self, engine: Engine, adapter: str | None) -> list[GenerationRequest]:
        """The engine's requests; without a limit the answer may fill the context."""
        self.refuse_unsupported()
        for index, message in enumerate(self.messages):
            refuse_names((message.model_extra or {}).items(), f"messages.{index}.")
        if self.top_logprobs is not None and not self.logprobs:
            raise ApiError(
                400, "top_logprobs is for requests with logprobs true only.", "top_logprobs", "invalid_value"
            )
        newer = self.max_completion_tokens is not None
        tokens = (
            ("max_completion_tokens", self.max_completion_tokens)
            if newer
            else ("max_tokens", self.max_tokens)
        )
        top = (self.top_logprobs or 0) if self.logprobs else None
        messages = [{"role": message.role, "content": message.content} for message in self.messages]
        return self.make_requests(engine, adapter, tokens, messages=messages, top_logprobs=top)


class CompletionBody(SamplingBody):
    """POST /v1/completions."""

    prompt: Prompts
    max_tokens: int | None = Field(16, ge=1)
    logprobs: int | None = Field(None, ge=0, le=5)
    echo: bool | None = None
    suffix: Text | None = None
    best_of: int | None = Field(None, ge=1)

    def build_requests(self, engine: Engine, adapter: str | None) -> list[GenerationRequest]:
        """The engine's requests, n for each prompt."""
        self.refuse_unsupported()
        if self.suffix:
            raise ApiError(
                400,
                "The models of this server do not fill in the middle of a text.",
                "suffix",
                "unsupported_parameter",
            )
        if self.best_of not in (None, self.n or 1):
            raise ApiError(
                400, "best_of must equal n: all answers are returned.", "best_of", "unsupported_parameter"
            )
        if self.echo and self.logprobs is not None:
            raise ApiError(
                400,
                "A prompt has no log-probabilities here: leave echo or logprobs away.",
                "echo",
                "unsupported_parameter",
            )
        if (self.n or 1) * len(self.prompt) > LIMIT:
            raise ApiError(
                400,
                f"{len(self.prompt)} prompts with {self.n or 1} answers each; the limit is {LIMIT} answers.",
                "n",
                "invalid_value",
            )
        tokens = ("max_tokens", self.max_tokens or 16)
        made = [
            self.make_requests(engine, adapter, tokens, prompt=prompt, top_logprobs=self.logprobs)
            for prompt in self.prompt
        ]
        return [request for requests in made for request in requests]


def refuse_names(sent: Iterable[tuple[str, object]], before: str = "") -> None:
    """ApiError for the first (name, value) that is not known here, or known and not to be done; `before` comes before its name."""
    for name, value in sent:
        if value is None or value == [] or name in WITHOUT_EFFECT or value in UNSUPPORTED.get(name, ()):
            continue
        code = "unsupported_parameter" if name in UNSUPPORTED else "unknown_parameter"
        raise ApiError(400, f"This server does not support '{before}{name}'.", before + name, code)


def add_to_seed(seed: int | None, number: int) -> int | None:
    """The seed of the answer with that number, within 64 bits signed."""
    return None if seed is None else (seed + number + SEED_LIMIT) % (2 * SEED_LIMIT) - SEED_LIMIT
