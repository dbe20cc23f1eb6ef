"""The conversation in a body of the OpenAI-style API: messages, tools, and how the prompt ends."""

from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field

from helpers.server.errors import ApiError
from helpers.server.fields import Text
from helpers.server.openai_fields import Content, refuse_unknown_fields
from helpers.server.openai_tools import MAX_TOOLS, CallField, ToolField

MAX_MESSAGES = 10_000  # a context of 131,072 tokens holds fewer, of which each has a role and some words


def map_developer_role(role: object) -> object:
    """Turns "developer", OpenAI's newer word, into "system"; any other role stays as it is."""
    return "system" if role == "developer" else role


Role = Annotated[
    Literal["system", "user", "assistant", "tool"],
    BeforeValidator(
        map_developer_role,
        json_schema_input_type=Literal["system", "developer", "user", "assistant", "tool"],
    ),
]


class Message(BaseModel):
    """One message of a conversation."""

    model_config = ConfigDict(extra="allow", strict=True)

    role: Role
    content: Content | None = None  # None beside calls
    name: Text | None = None  # of agents, who tell each other apart by it; chat templates do not write it
    tool_calls: list[CallField] | None = Field(None, max_length=MAX_TOOLS)  # of the assistant
    tool_call_id: Text | None = None  # of a tool's result: the call that it answers
    parsed: Any = None  # of the assistant: the content as an object, which openai's npm package sends back

    def describe(self, place: str) -> dict[str, Any]:
        """The message as an engine takes it. Raises an ApiError, which names the field after `place`."""
        refuse_unknown_fields(self.model_extra or {}, place)
        message: dict[str, Any] = {"role": self.role, "content": self.content}
        if self.content is None and not self.tool_calls:
            raise ApiError(400, f"Send {place}content.", place + "content", "missing_required_parameter")
        if self.tool_calls:
            if self.role != "assistant":
                problem = "Only messages of the assistant have tool_calls."
                raise ApiError(400, problem, place + "tool_calls", "invalid_value")
            message["tool_calls"] = [call.model_dump() for call in self.tool_calls]
        if self.role == "tool":
            if self.tool_call_id is None:
                problem = "Send the id of the call that this message answers."
                raise ApiError(400, problem, place + "tool_call_id", "missing_required_parameter")
            message["tool_call_id"] = self.tool_call_id
        return message


class Conversation(BaseModel):
    """The messages of a body, and how the prompt ends. The last two fields are vLLM's."""

    messages: list[Message] | None = Field(None, min_length=1, max_length=MAX_MESSAGES)
    tools: list[ToolField] | None = Field(None, max_length=MAX_TOOLS)
    continue_final_message: bool | None = None  # the model continues the last one, the assistant's
    add_generation_prompt: bool | None = None  # false only beside the field above

    def list_messages(self) -> list[dict[str, Any]]:
        """The messages as an engine takes them.

        Raises an ApiError for one with a field that this server does not know, and for an end of the prompt
        that it does not write.
        """
        messages = self.messages or []
        listed = [message.describe(f"messages.{index}.") for index, message in enumerate(messages)]
        continued = bool(self.continue_final_message)
        if continued and (not messages or messages[-1].role != "assistant" or self.add_generation_prompt):
            problem = "It is for a last message of the assistant, without add_generation_prompt."
            raise ApiError(400, problem, "continue_final_message", "invalid_value")
        if continued and listed[-1]["content"] is None:
            problem = "The last message has no content to be continued."
            raise ApiError(400, problem, "continue_final_message", "invalid_value")
        if self.add_generation_prompt is False and not continued:
            problem = "Without continue_final_message the assistant begins a message of its own."
            raise ApiError(400, problem, "add_generation_prompt", "unsupported_parameter")
        return listed

    def list_tools(self) -> list[dict[str, Any]] | None:
        """The tools as an engine takes them; None without any. Raises an ApiError for two of one name."""
        names = [tool.function.name for tool in self.tools or []]
        if len(set(names)) < len(names):
            raise ApiError(400, "Two tools have the same name.", "tools", "invalid_value")
        return [tool.describe() for tool in self.tools or []] or None
