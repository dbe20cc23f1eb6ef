"""The whole replies of the OpenAI-style API, as its documentation (/openapi.json) shows them."""

from typing import Any, Literal

from pydantic import BaseModel

from helpers.generation.request import Generation

Reason = Literal["stop", "length"]
ChatReason = Literal["stop", "length", "tool_calls"]
PromptLogprobs = list[dict[str, dict[str, Any]] | None]  # vLLM's; `describe_prompt` makes them


class Usage(BaseModel):
    """How many tokens a reply took."""

    prompt_tokens: int
    completion_tokens: int
    total_tokens: int


class CalledFunction(BaseModel):
    """The name of a function and its arguments, as JSON."""

    name: str
    arguments: str


class ToolCall(BaseModel):
    """A call of a tool, which the client makes. Its result refers to the `id`."""

    id: str
    type: Literal["function"] = "function"
    function: CalledFunction


class ChatMessage(BaseModel):
    """An answer in a conversation. `content` is None beside calls without text."""

    role: Literal["assistant"] = "assistant"
    content: str | None
    refusal: None = None
    tool_calls: list[ToolCall] | None = None


class ChatChoice(BaseModel):
    """One answer in a conversation; `ChatDialect` makes its `logprobs`, None unless asked for."""

    index: int
    message: ChatMessage
    logprobs: dict | None
    finish_reason: ChatReason


class TextChoice(BaseModel):
    """One continuation of a prompt; `TextDialect` makes its `logprobs`, None unless asked for."""

    index: int
    text: str
    logprobs: dict | None
    finish_reason: Reason
    prompt_logprobs: PromptLogprobs | None = None  # only if they were asked for


class Reply(BaseModel):
    """Fields of both whole replies; `created` in seconds since 1970."""

    id: str
    created: int
    model: str
    usage: Usage
    system_fingerprint: None = None


class ChatCompletion(Reply):
    """Reply of /v1/chat/completions."""

    object: Literal["chat.completion"]
    choices: list[ChatChoice]
    prompt_logprobs: PromptLogprobs | None = None  # only if they were asked for


class Completion(Reply):
    """Reply of /v1/completions."""

    object: Literal["text_completion"]
    choices: list[TextChoice]


class ModelCard(BaseModel):
    """A model that requests can name: the base model, or a LoRA on it."""

    id: str
    object: Literal["model"] = "model"
    created: int
    owned_by: str = "open-llm-kit"
    # As vLLM has them.
    parent: str | None = None  # of a LoRA: the base model
    max_model_len: int | None = None  # tokens that prompt and answer may have together


class ModelList(BaseModel):
    """Reply of /v1/models."""

    object: Literal["list"] = "list"
    data: list[ModelCard]


def count_usage(generations: list[Generation], choices_per_prompt: int) -> Usage:
    """The tokens of all answers together; a prompt counts once, however many answers it has."""
    first_answers = generations[::choices_per_prompt]  # one for each prompt
    prompt = sum(generation.prompt_tokens for generation in first_answers)
    completion = sum(generation.completion_tokens for generation in generations)
    return Usage(prompt_tokens=prompt, completion_tokens=completion, total_tokens=prompt + completion)
