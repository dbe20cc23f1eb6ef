"""Fields that chats and completions share: sampling, stop texts, forms, streams."""

from collections.abc import Mapping
from typing import Any

from pydantic import AliasChoices, BaseModel, ConfigDict, Field

from helpers.common.arguments import shorten
from helpers.generation.engine import MAX_REQUESTS, Engine
from helpers.generation.request import GenerationRequest
from helpers.generation.structure import Structure
from helpers.server.answer_forms import ResponseFormat, StructuredOutputs, check_structure
from helpers.server.errors import ApiError
from helpers.server.fields import SEED_LIMIT, Text
from helpers.server.openai_fields import (
    PASSED_ON,
    UNSUPPORTED,
    Bias,
    Limit,
    LimitOrNothing,
    Off,
    Stops,
    TokenId,
    refuse_unknown_fields,
)

SMALLEST_TOP_P = 1e-6  # taken for a top_p of 0, which means: only the likeliest token


class StreamOptions(BaseModel):
    """Options of a streamed reply."""

    model_config = ConfigDict(extra="forbid", strict=True)

    include_usage: bool | None = None
    include_obfuscation: bool | None = None  # padding against eavesdroppers, which this server never sends
    continuous_usage_stats: Off | None = None  # of vLLM: usage in every event


class SamplingBody(BaseModel):
    """Fields that chat completions and completions share."""

    model_config = ConfigDict(extra="allow", allow_inf_nan=False, strict=True)

    model: Text | None = None
    max_tokens: Limit = None
    temperature: float | None = Field(None, ge=0, le=2)
    top_p: float | None = Field(None, ge=0, le=1)
    n: int | None = Field(None, ge=1, le=MAX_REQUESTS)
    seed: int | None = Field(None, ge=-SEED_LIMIT, lt=SEED_LIMIT)
    stop: Stops | None = None
    presence_penalty: float | None = Field(None, ge=-2, le=2)
    frequency_penalty: float | None = Field(None, ge=-2, le=2)
    logit_bias: dict[TokenId, Bias] | None = Field(None, max_length=1024)
    # These are not OpenAI's; vLLM, llama.cpp and the WebUI have them.
    top_k: LimitOrNothing = None
    min_p: float | None = Field(None, ge=0, le=1)
    repetition_penalty: float | None = Field(
        None, ge=0.01, le=100, validation_alias=AliasChoices("repetition_penalty", "repeat_penalty")
    )
    skip_special_tokens: bool | None = None
    prompt_logprobs: int | None = Field(None, ge=0, le=20)  # vLLM's, of whole replies
    response_format: ResponseFormat | None = None
    structured_outputs: StructuredOutputs | None = None  # vLLM's
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

    def pick_passed_on(self, engine: Engine) -> dict[str, Any]:
        """The fields that the engine passes on as they are: those that are unknown here, and PASSED_ON."""
        sent = self.model_extra or {}
        return {
            name: value
            for name, value in sent.items()
            if engine.passes_on and (name not in UNSUPPORTED or name in PASSED_ON)
        }

    def refuse_unsupported(self, engine: Engine) -> None:
        """Raises an ApiError for the first field that asks for something that this server cannot do."""
        passed_on = self.pick_passed_on(engine)
        sent = self.model_extra or {}
        refuse_unknown_fields({name: value for name, value in sent.items() if name not in passed_on})
        if self.stream_options and not self.stream:
            raise ApiError(
                400, "stream_options is for streamed replies only.", "stream_options", "invalid_value"
            )
        if self.prompt_logprobs is not None and self.stream:
            problem = "prompt_logprobs are for whole replies only: omit stream."
            raise ApiError(400, problem, "prompt_logprobs", "invalid_value")

    @property
    def structure(self) -> Structure | None:
        """The form that the answer must have. Raises an ApiError if it cannot be followed."""
        if self.structured_outputs is None:
            structure = self.response_format and self.response_format.structure
            return check_structure(structure, "response_format")
        if self.response_format and self.response_format.structure:
            problem = "Set response_format or structured_outputs, not both."
            raise ApiError(400, problem, "structured_outputs", "invalid_value")
        return check_structure(self.structured_outputs.structure, "structured_outputs")

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
            "min_p": self.min_p or 0.0,
            "skip_special_tokens": self.skip_special_tokens is not False,
            "repetition_penalty": self.repetition_penalty or 1.0,
            "presence_penalty": self.presence_penalty or 0.0,
            "frequency_penalty": self.frequency_penalty or 0.0,
            "logit_bias": self.logit_bias or {},
            "stop": self.stop or [],
            "prompt_logprobs": self.prompt_logprobs,
            "structure": self.structure,
            "passed_on": self.pick_passed_on(engine),
        }

    def make_requests(self, engine: Engine, settings: Mapping[str, Any]) -> list[GenerationRequest]:
        """n requests with these settings, whose seeds are seed, seed + 1, ...

        Raises an ApiError for a setting that the engine does not honour.
        """
        requests = []
        for number in range(self.answers_per_prompt):
            requests.append(GenerationRequest(**settings, seed=add_to_seed(self.seed, number)))
        if unsupported := engine.list_unsupported(requests[0]):
            field, *others = self.list_fields(unsupported[0])
            asked = " with ".join([field, *others])
            problem = f"The loaded engine does not support {asked}: {engine.elsewhere}."
            raise ApiError(400, problem, field, "unsupported_parameter")
        return requests

    def list_fields(self, setting: str) -> list[str]:
        """The fields that set an optional setting of the engine's request."""
        return [setting]


def check_limit(engine: Engine, field: str, tokens: int | None) -> int:
    """The most tokens that an answer may have: `tokens`, or the context's size if it is None.

    Raises an ApiError, which names the field, for more tokens than the context has.
    """
    if tokens is None:
        return engine.context
    if tokens > engine.context:
        reason = f"The model's context has {engine.context} tokens, prompt and answer together."
        raise ApiError(400, f"{field} is too large: {shorten(tokens)}. {reason}", field, "invalid_value")
    return tokens


def add_to_seed(seed: int | None, number: int) -> int | None:
    """seed + number, wrapped around to stay within 64 bits signed; None, which draws a seed, stays None."""
    if seed is None:
        return None
    return (seed + number + SEED_LIMIT) % (2 * SEED_LIMIT) - SEED_LIMIT
