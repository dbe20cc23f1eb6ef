"""What clients send to the OpenAI-style API: the fields, their checks, and the engine's requests they become.

Nothing is dropped in silence: what this server cannot do is refused with a 400 that names the field.
"""

import json
from collections.abc import Callable
from functools import partial
from typing import Any

from pydantic import Field

from helpers.generation.engine import MAX_REQUESTS, Engine
from helpers.generation.request import GenerationRequest
from helpers.generation.tool_calls import CallReader
from helpers.server.answer_forms import check_structure
from helpers.server.errors import ApiError
from helpers.server.fields import Text
from helpers.server.openai_fields import (
    Limit,
    LimitOrNothing,
    Prompts,
)
from helpers.server.openai_messages import MAX_MESSAGES, Conversation, Message
from helpers.server.openai_sampling import SamplingBody, check_limit
from helpers.server.openai_tools import ToolChoice, build_structure, say_own_form

COMPLETION_TOKENS = 16  # OpenAI's default length of a completion


class ChatCompletionBody(SamplingBody, Conversation):
    """POST /v1/chat/completions."""

    messages: list[Message] = Field(min_length=1, max_length=MAX_MESSAGES)  # type: ignore[assignment]
    max_completion_tokens: Limit = None
    logprobs: bool | None = None
    top_logprobs: int | None = Field(None, ge=0, le=20)
    tool_choice: ToolChoice | None = None
    parallel_tool_calls: bool | None = None

    def make_call_reader(self, engine: Engine) -> Callable[[], CallReader] | None:
        """What makes a reader of an answer; None if the answer may not call tools."""
        if not self.tools or self.tool_choice == "none":
            return None
        return partial(CallReader, engine.call_form, anywhere=not self.structure)

    def refuse_unsupported(self, engine: Engine) -> None:
        """Raises an ApiError for the first field that asks for something that this server cannot do."""
        super().refuse_unsupported(engine)
        if self.top_logprobs and not self.logprobs:
            raise ApiError(
                400, "top_logprobs is for requests with logprobs true only.", "top_logprobs", "invalid_value"
            )

    def build_requests(self, engine: Engine, adapter: str | None) -> list[GenerationRequest]:
        """The engine's requests, n of them. Without a limit an answer may fill the context."""
        self.refuse_unsupported(engine)
        if self.max_completion_tokens is None:
            limit = check_limit(engine, "max_tokens", self.max_tokens)
        else:
            limit = check_limit(engine, "max_completion_tokens", self.max_completion_tokens)
        settings = {
            **self.resolve_sampling(engine),
            "adapter": adapter,
            "messages": self.list_messages(),
            **self._resolve_tools(engine),
            "continue_last": bool(self.continue_final_message),
            "max_new_tokens": limit,
            "top_logprobs": (self.top_logprobs or 0) if self.logprobs else None,
        }
        return self.make_requests(engine, settings)

    def _resolve_tools(self, engine: Engine) -> dict[str, Any]:
        """The settings of the engine's request that are about tools. Raises an ApiError."""
        told = self.list_tools()
        if self.tool_choice not in (None, "none", "auto") and not told:
            raise ApiError(
                400, "tool_choice is for requests with tools only.", "tool_choice", "invalid_value"
            )
        if not told or self.tool_choice == "none":
            return {}
        if self.structured_outputs:
            problem = "Set structured_outputs or tools, not both."
            raise ApiError(400, problem, "structured_outputs", "unsupported_parameter")
        if self.continue_final_message:
            problem = "A message that is continued cannot call tools."
            raise ApiError(400, problem, "continue_final_message", "unsupported_parameter")
        if engine.passes_on:
            sent = self.model_dump(include={"tool_choice", "parallel_tool_calls"}, exclude_none=True)
            return {"tools": told, "passed_on": {**self.pick_passed_on(engine), **sent}}
        if not engine.tool_template.is_own:
            say_own_form(engine.name)
        form = self.structure
        structure = build_structure(
            engine.tool_template,
            self.tools or [],
            self.tool_choice,
            self.parallel_tool_calls is not False,
            json.loads(form.source) if form else None,
        )
        return {"tools": told, "structure": check_structure(structure, "tools")}


class CompletionBody(SamplingBody):
    """POST /v1/completions."""

    prompt: Prompts
    add_special_tokens: bool | None = None  # vLLM's: whether the tokenizer puts its BOS before the prompt
    max_tokens: LimitOrNothing = COMPLETION_TOKENS
    logprobs: int | None = Field(None, ge=0, le=5)
    echo: bool | None = None
    suffix: Text | None = None
    best_of: int | None = Field(None, ge=1)

    def refuse_unsupported(self, engine: Engine) -> None:
        """Raises an ApiError for the first field that asks for something that this server cannot do."""
        super().refuse_unsupported(engine)
        if self.suffix:
            message = "The models of this server do not fill in the middle of a text."
            raise ApiError(400, message, "suffix", "unsupported_parameter")
        if self.best_of not in (None, self.answers_per_prompt):
            message = "best_of must equal n: all answers are returned."
            raise ApiError(400, message, "best_of", "unsupported_parameter")
        if self.answers_per_prompt * len(self.prompt) > MAX_REQUESTS:
            asked = f"{len(self.prompt)} prompts with {self.answers_per_prompt} answers each"
            raise ApiError(400, f"{asked}; the limit is {MAX_REQUESTS} answers.", "n", "invalid_value")

    @property
    def lists_prompt(self) -> bool:
        """Whether `logprobs` are those of the prompt, too."""
        return bool(self.echo) and self.logprobs is not None

    def list_fields(self, setting: str) -> list[str]:
        """The fields that set an optional setting of the engine's request."""
        by_echo = setting == "prompt_logprobs" and self.prompt_logprobs is None
        return ["echo", "logprobs"] if by_echo else [setting]

    def build_requests(self, engine: Engine, adapter: str | None) -> list[GenerationRequest]:
        """The engine's requests, n for each prompt."""
        self.refuse_unsupported(engine)
        limit = COMPLETION_TOKENS if self.max_tokens is None else self.max_tokens
        settings = {
            **self.resolve_sampling(engine),
            "adapter": adapter,
            "add_special_tokens": self.add_special_tokens is not False,
            "max_new_tokens": check_limit(engine, "max_tokens", limit),
            "top_logprobs": self.logprobs,
            "echo": bool(self.echo),
        }
        if self.lists_prompt:
            settings["prompt_logprobs"] = max(self.prompt_logprobs or 0, self.logprobs or 0)
        requests = []
        for prompt in self.prompt:
            name = "prompt" if isinstance(prompt, str) else "prompt_ids"
            requests += self.make_requests(engine, {**settings, name: prompt})
        return requests
