"""What clients send to /v1/responses, in its stateless form: all that was said comes with each request.

A body becomes one of /v1/chat/completions, so both endpoints mean the same.
"""

from functools import partial
from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Discriminator, Field, Tag

from helpers.server.answer_forms import NamedSchema, PlainFormat
from helpers.server.errors import ApiError
from helpers.server.fields import Text
from helpers.server.openai_bodies import ChatCompletionBody
from helpers.server.openai_fields import Limit, Off, Zero, join_text_parts, refuse_unknown_fields
from helpers.server.openai_messages import MAX_MESSAGES, Role
from helpers.server.openai_sampling import StreamOptions
from helpers.server.openai_tools import MAX_TOOLS, FunctionField, FunctionName

TEXTS = ("input_text", "output_text", "text")  # types of parts with text
# What a client sends back from a reply, or what other models need; it changes no answer of these models.
Loose = ConfigDict(extra="ignore", strict=True)
Exact = ConfigDict(extra="forbid", strict=True)


Content = Annotated[
    Text,
    BeforeValidator(partial(join_text_parts, kinds=TEXTS), json_schema_input_type=str | list[dict[str, Any]]),
]


class MessageItem(BaseModel):
    """A message."""

    model_config = Loose

    type: Literal["message"] = "message"
    role: Role
    content: Content


class CallItem(BaseModel):
    """A call that the model made earlier."""

    model_config = Loose

    type: Literal["function_call"]
    call_id: Text
    name: Text
    arguments: Text


class ResultItem(BaseModel):
    """What a call returned."""

    model_config = Loose

    type: Literal["function_call_output"]
    call_id: Text
    output: Content


class ReasoningItem(BaseModel):
    """What another model has thought; these models are not told."""

    model_config = Loose

    type: Literal["reasoning"]


class ReferenceItem(BaseModel):
    """An item of an earlier reply, which a client expects the server to have kept."""

    model_config = Loose

    type: Literal["item_reference"]


def name_kind(item: object) -> str:
    """The type of an item; a message needs none."""
    kind = item.get("type", "message") if isinstance(item, dict) else getattr(item, "type", "")
    return str(kind)


Item = Annotated[
    Annotated[MessageItem, Tag("message")]
    | Annotated[CallItem, Tag("function_call")]
    | Annotated[ResultItem, Tag("function_call_output")]
    | Annotated[ReasoningItem, Tag("reasoning")]
    | Annotated[ReferenceItem, Tag("item_reference")],
    Discriminator(name_kind),
]


def wrap_input(value: object) -> object:
    """A text as a message of the user; a list as it is."""
    return [{"role": "user", "content": value}] if isinstance(value, str) else value


class FunctionTool(FunctionField):
    """A function that the model may call."""

    type: Literal["function"]


class ChosenName(BaseModel):
    """A function that has to be called."""

    model_config = Exact

    type: Literal["function"]
    name: FunctionName


class NamedFormat(NamedSchema):
    """JSON of a schema."""

    type: Literal["json_schema"]


class TextSettings(BaseModel):
    """The form of the answer."""

    model_config = Exact

    format: Annotated[PlainFormat | NamedFormat, Field(discriminator="type")] | None = None
    verbosity: Text | None = None  # these models do not know it


class ResponsesBody(BaseModel):
    """POST /v1/responses."""

    model_config = ConfigDict(extra="allow", allow_inf_nan=False, strict=True)

    model: Text | None = None
    input: Annotated[
        list[Item],
        Field(min_length=1, max_length=MAX_MESSAGES),
        BeforeValidator(wrap_input, json_schema_input_type=str | list[Item]),
    ]
    instructions: Text | None = None
    max_output_tokens: Limit = None
    temperature: float | None = Field(None, ge=0, le=2)
    top_p: float | None = Field(None, ge=0, le=1)
    text: TextSettings | None = None
    tools: list[FunctionTool] | None = Field(None, max_length=MAX_TOOLS)
    tool_choice: Literal["none", "auto", "required"] | ChosenName | None = None
    parallel_tool_calls: bool | None = None
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    previous_response_id: None = None  # this server keeps no replies
    background: Off | None = None
    truncation: Literal["disabled"] | None = None
    include: list[Text] | None = None  # of what these models do not have
    reasoning: dict[str, Any] | None = None
    top_logprobs: Zero | None = None

    def as_chat(self) -> ChatCompletionBody:
        """The same for /v1/chat/completions. Raises an ApiError for what this server does not support."""
        refuse_unknown_fields(self.model_extra or {})
        body: dict[str, Any] = {
            "model": self.model,
            "messages": self._list_messages(),
            "max_tokens": self.max_output_tokens,
            "temperature": self.temperature,
            "top_p": self.top_p,
            "response_format": self._describe_format(),
            "tools": [nest(tool.model_dump()) for tool in self.tools or []],
            "tool_choice": self.tool_choice,
            "parallel_tool_calls": self.parallel_tool_calls,
        }
        if isinstance(self.tool_choice, ChosenName):
            body["tool_choice"] = nest(self.tool_choice.model_dump())
        return ChatCompletionBody.model_validate(body)

    def _list_messages(self) -> list[dict[str, Any]]:
        """The items as messages. Calls belong to the message of the assistant before them."""
        messages: list[dict[str, Any]] = []
        if self.instructions:
            messages.append({"role": "system", "content": self.instructions})
        for place, item in enumerate(self.input):
            if isinstance(item, MessageItem):
                messages.append({"role": item.role, "content": item.content})
            elif isinstance(item, ResultItem):
                messages.append({"role": "tool", "content": item.output, "tool_call_id": item.call_id})
            elif isinstance(item, CallItem):
                if not messages or messages[-1]["role"] != "assistant":
                    messages.append({"role": "assistant", "content": None})
                function = {"name": item.name, "arguments": item.arguments}
                calls = messages[-1].setdefault("tool_calls", [])
                calls.append({"id": item.call_id, "type": "function", "function": function})
            elif isinstance(item, ReferenceItem):
                problem = (
                    "This server keeps no replies. Set store to false in the client: it then sends them."
                )
                raise ApiError(400, problem, f"input.{place}", "unsupported_parameter")
        if not messages:
            raise ApiError(400, "There is no message in input.", "input", "invalid_value")
        return messages

    def _describe_format(self) -> dict[str, Any] | None:
        asked = self.text.format if self.text else None
        if not isinstance(asked, NamedFormat):
            return asked and asked.model_dump()
        return {"type": asked.type, asked.type: asked.model_dump(exclude={"type"}, by_alias=True)}


def nest(tool: dict[str, Any]) -> dict[str, Any]:
    """A function as /v1/chat/completions has it: {"type": "function", "function": {"name": ...}}."""
    return {"type": tool.pop("type"), "function": tool}
