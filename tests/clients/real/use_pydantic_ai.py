"""pydantic-ai: text, a stream, objects in two ways and a tool, over chats and over responses."""

from pydantic_ai import Agent, ModelSettings, NativeOutput, ToolOutput
from pydantic_ai.capabilities import Capability
from pydantic_ai.models.openai import OpenAIChatModel, OpenAIResponsesModel
from pydantic_ai.providers.openai import OpenAIProvider
from scene import ASK, GREET, KEY, LIMIT, MODEL, URL, Weather, get_weather, was_called

SETTINGS = ModelSettings(temperature=0, max_tokens=LIMIT, parallel_tool_calls=False)
provider = OpenAIProvider(base_url=URL, api_key=KEY)


class CallFirst(Capability):
    """Asks for a call in the first step of a run."""

    def get_model_settings(self):
        return lambda context: ModelSettings(tool_choice="required" if context.run_step == 1 else "auto")


for kind in (OpenAIChatModel, OpenAIResponsesModel):
    model = kind(MODEL, provider=provider, settings=SETTINGS)
    said = Agent(model, instructions="Be brief.").run_sync(GREET)
    assert said.output
    assert "".join(
        Agent(model).run_stream_sync(ASK, message_history=said.all_messages()).stream_text(delta=True)
    )

    for form in (ToolOutput(Weather), NativeOutput(Weather)):
        assert isinstance(Agent(model, output_type=form).run_sync(ASK).output, Weather)

    caller = Agent(model, tools=[get_weather], capabilities=[CallFirst()], name="clerk")
    said = caller.run_sync(ASK)
    assert was_called() and isinstance(said.output, str)
    parts = [part.part_kind for message in said.all_messages() for part in message.parts]
    assert parts == ["user-prompt", "tool-call", "tool-return", "text"], parts
