"""Tools in the OpenAI-style API: what a client offers, what the model may choose, and calls in messages."""

import sys
from collections.abc import Sequence
from functools import lru_cache
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from helpers.generation.structure import Structure
from helpers.generation.tool_calls import Tool, describe_calls
from helpers.loading.tools import ToolTemplate
from helpers.server.errors import ApiError
from helpers.server.fields import Text

MAX_TOOLS = 128  # as OpenAI
FunctionName = Annotated[str, Field(pattern=r"^[a-zA-Z0-9_.-]{1,128}$")]
Fields = ConfigDict(extra="forbid", strict=True)
# Clients send calls back with what they have made of them: the arguments parsed, the place in a stream.
SentBack = ConfigDict(extra="ignore", strict=True)


class FunctionField(BaseModel):
    """A function as a model is told of it."""

    model_config = Fields

    name: FunctionName
    description: Text | None = None
    parameters: dict[str, Any] | None = None  # a JSON schema
    strict: bool | None = None  # arguments have the form in any case; true refuses what cannot be enforced


class ToolField(BaseModel):
    """A tool that the model may call. Only functions can be called."""

    model_config = Fields

    type: Literal["function"]
    function: FunctionField

    def describe(self) -> dict[str, Any]:
        """The tool as chat templates expect it."""
        told = self.function.model_dump(include={"name", "description", "parameters"}, exclude_none=True)
        return {"type": "function", "function": {"parameters": {"type": "object", "properties": {}}, **told}}


class ChosenFunction(BaseModel):
    """The name of a function."""

    model_config = Fields

    name: FunctionName


class ChosenTool(BaseModel):
    """A tool that has to be called."""

    model_config = Fields

    type: Literal["function"]
    function: ChosenFunction


class CalledFunction(BaseModel):
    """What a message of the assistant has called. `arguments` are JSON, unless the call was cut off."""

    model_config = SentBack

    name: Text
    arguments: Text


class CallField(BaseModel):
    """A call in a message of the assistant."""

    model_config = SentBack

    id: Text
    type: Literal["function"] = "function"
    function: CalledFunction


ToolChoice = Literal["none", "auto", "required"] | ChosenTool


@lru_cache
def say_own_form(model: str) -> None:
    """Prints, once for a model, that the kit's form of calls is used."""
    problem = f"the chat template of {model} does not write calls as JSON"
    print(f"tools: in the kit's own form, since {problem}", file=sys.stderr)


def build_structure(
    template: ToolTemplate,
    tools: Sequence[ToolField],
    choice: ToolChoice | None,
    parallel: bool,
    schema: dict[str, Any] | None,
) -> Structure:
    """The form of an answer that may call tools, or must, by `choice`.

    With a `schema`, an answer without a call is JSON of it. Raises an ApiError for the choice of a tool that
    is not there.
    """
    offered = [
        Tool(one.function.name, one.function.parameters or {}, bool(one.function.strict)) for one in tools
    ]
    answer: dict[str, Any] | Literal["text"] | None = schema or "text"
    if isinstance(choice, ChosenTool):
        offered = [one for one in offered if one.name == choice.function.name]
        if not offered:
            problem = f"There is no tool '{choice.function.name}' in tools."
            raise ApiError(400, problem, "tool_choice", "invalid_value")
        answer, parallel = None, False
    elif choice == "required":
        answer = None
    return describe_calls(template, offered, answer, parallel)
