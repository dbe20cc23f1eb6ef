"""AutoGen: two named agents in turns, a tool whose result goes back, an object, a stream."""

import asyncio

from autogen_agentchat.agents import AssistantAgent
from autogen_agentchat.conditions import MaxMessageTermination
from autogen_agentchat.teams import RoundRobinGroupChat
from autogen_ext.models.openai import OpenAIChatCompletionClient
from scene import ASK, GREET, KEY, LIMIT, MODEL, URL, Weather, get_weather, was_called

ABILITIES = {
    "vision": False,
    "function_calling": True,
    "json_output": True,
    "structured_output": True,
    "family": "unknown",
}


class Insisting(OpenAIChatCompletionClient):
    """Asks for a call when there are tools. An agent cannot be told to."""

    async def create(self, messages, **settings):
        if settings.get("tools"):
            settings.setdefault("tool_choice", "required")
        return await super().create(messages, **settings)


async def main():
    settings = {"model": MODEL, "base_url": URL, "api_key": KEY, "temperature": 0, "max_tokens": LIMIT}
    client = Insisting(**settings, model_info=ABILITIES, max_retries=0)
    names = ("clerk", "critic")
    clerks = [AssistantAgent(name, client, model_client_stream=name == "critic") for name in names]
    team = RoundRobinGroupChat(clerks, termination_condition=MaxMessageTermination(5))
    said = await team.run(task=GREET)
    assert [message.source for message in said.messages] == ["user", *names, *names]

    caller = AssistantAgent("caller", client, tools=[get_weather], reflect_on_tool_use=True)
    for _ in range(2):
        said = await caller.run(task=ASK)
        assert was_called()
        kinds = [message.type for message in said.messages]
        assert kinds[1:] == ["ToolCallRequestEvent", "ToolCallExecutionEvent", "TextMessage"], kinds

    reporter = AssistantAgent("reporter", client, output_content_type=Weather)
    said = await reporter.run(task=ASK)
    assert isinstance(said.messages[-1].content, Weather)
    await client.close()


asyncio.run(main())
