"""The whole replies of the OpenAI-style API, as its documentation (/openapi.json) has them."""

from typing import Literal

from pydantic import BaseModel

from helpers.generation.request import Generation

Reason = Literal["stop", "length"]


class Usage(BaseModel):
    """Tokens that a reply has cost."""

    prompt_tokens: int
    completion_tokens: int
    total_tokens: int


class ChatMessage(BaseModel):
    """The answer in a conversation."""

    role: Literal["assistant"] = "assistant"
    content: str
    refusal: None = None


class ChatChoice(BaseModel):
    """One answer in a conversation; `logprobs`, when asked for, as `ChatDialect` has it."""

    index: int
    message: ChatMessage
    logprobs: dict | None
    finish_reason: Reason


class TextChoice(BaseModel):
    """One continuation of a prompt; `logprobs`, when asked for, as `TextDialect` has it."""

    index: int
    text: str
    logprobs: dict | None
    finish_reason: Reason


class Reply(BaseModel):
    """What both whole replies have; `created` in seconds since 1970."""

    id: str
    created: int
    model: str
    usage: Usage
    system_fingerprint: None = None


class ChatCompletion(Reply):
    """Reply of /v1/chat/completions."""

    object: Literal["chat.completion"]
    choices: list[ChatChoice]


class Completion(Reply):
    """Reply of /v1/completions."""

    object: Literal["text_completion"]
    choices: list[TextChoice]


class ModelCard(BaseModel):
    """A model that can be asked for by its name: the base, or a LoRA on it."""

    id: str
    object: Literal["model"] = "model"
    created: int
    owned_by: str = "open-llm-kit"


class ModelList(BaseModel):
    """Reply of /v1/models."""

    object: Literal["list"] = "list"
    data: list[ModelCard]


def count_usage(generations: list[Generation], choices_per_prompt: int) -> Usage:
    """The tokens of all answers; a prompt counts once, however many answers it has."""
    prompt = sum(generation.prompt_tokens for generation in generations[::choices_per_prompt])
    completion = sum(generation.completion_tokens for generation in generations)
    return Usage(prompt_tokens=prompt, completion_tokens=completion, total_tokens=prompt + completion)
