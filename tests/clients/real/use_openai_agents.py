"""openai-agents: a tool, an object, a stream and a handover, over responses (its default) and over chats."""

import asyncio

from agents import (
    Agent,
    ModelSettings,
    OpenAIChatCompletionsModel,
    OpenAIResponsesModel,
    Runner,
    function_tool,
    set_tracing_disabled,
)
from openai import AsyncOpenAI
from scene import ASK, GREET, KEY, LIMIT, MODEL, URL, Weather, get_weather, was_called

# To this client, an answer over responses that is cut off is an error.
SETTINGS = ModelSettings(temperature=0, max_tokens=4 * LIMIT)
INSISTING = SETTINGS.resolve(ModelSettings(tool_choice="required", parallel_tool_calls=False))


async def work(model):
    plain = Agent(name="clerk", instructions="Be brief.", model=model, model_settings=SETTINGS)
    said = await Runner.run(plain, GREET)
    assert said.final_output
    said = await Runner.run(plain, [*said.to_input_list(), {"role": "user", "content": "Say goodbye."}])
    assert said.final_output

    reporter = plain.clone(name="reporter", output_type=Weather)
    assert isinstance((await Runner.run(reporter, ASK)).final_output, Weather)

    # A small model may call again and again, so its own loop ends with the first result.
    caller = plain.clone(
        tools=[function_tool(get_weather)],
        model_settings=INSISTING,
        tool_use_behavior="stop_on_first_tool",
    )
    said = await Runner.run(caller, ASK)
    assert was_called() and "sunny" in said.final_output
    streamed = Runner.run_streamed(caller, ASK)
    assert [event.type async for event in streamed.stream_events()]
    assert was_called()
    said = await Runner.run(reporter, [*said.to_input_list(), {"role": "user", "content": ASK}])
    assert isinstance(said.final_output, Weather)

    chief = plain.clone(name="chief", handoffs=[reporter], model_settings=INSISTING)
    said = await Runner.run(chief, ASK)
    assert said.last_agent is reporter and isinstance(said.final_output, Weather)


async def main():
    set_tracing_disabled(True)
    client = AsyncOpenAI(base_url=URL, api_key=KEY, max_retries=0, timeout=300)
    for kind in (OpenAIResponsesModel, OpenAIChatCompletionsModel):
        await work(kind(model=MODEL, openai_client=client))


asyncio.run(main())
