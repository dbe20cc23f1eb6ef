"""openai: chat, stream, tools, objects; the same over responses."""

import json

from openai import OpenAI, pydantic_function_tool
from pydantic import BaseModel
from scene import ASK, GREET, KEY, LIMIT, MODEL, URL, Weather, get_weather, was_called

client = OpenAI(base_url=URL, api_key=KEY, max_retries=0, timeout=300)
SETTINGS = {"model": MODEL, "temperature": 0}
SCHEMA = {
    "type": "object",
    "properties": {"city": {"type": "string", "enum": ["Oslo", "Rome"]}},
    "required": ["city"],
    "additionalProperties": False,
}
FUNCTION = {"name": "get_weather", "description": "Get the weather.", "parameters": SCHEMA, "strict": True}
NAMED = {"type": "function", "name": "get_weather"}


class GetWeather(BaseModel):
    """Get the weather of a city."""

    city: str


def chat():
    asked = {**SETTINGS, "messages": [{"role": "user", "content": GREET}], "max_tokens": LIMIT}
    whole = client.chat.completions.create(**asked)
    events = list(
        client.chat.completions.create(**asked, stream=True, stream_options={"include_usage": True})
    )
    text = "".join(event.choices[0].delta.content or "" for event in events if event.choices)
    assert text == whole.choices[0].message.content != ""
    assert events[-1].usage == whole.usage


def chat_with_a_tool():
    messages = [{"role": "user", "content": ASK}]
    asked = {**SETTINGS, "tools": [{"type": "function", "function": FUNCTION}], "max_tokens": LIMIT}
    chosen = {"type": "function", "function": {"name": "get_weather"}}
    message = (
        client.chat.completions.create(**asked, messages=messages, tool_choice=chosen).choices[0].message
    )
    messages.append(message)
    for call in message.tool_calls:
        result = get_weather(**json.loads(call.function.arguments))
        messages.append({"role": "tool", "tool_call_id": call.id, "content": result})
    assert was_called()
    assert client.chat.completions.create(**asked, messages=messages).choices[0].message.role == "assistant"


def chat_with_objects():
    asked = {**SETTINGS, "messages": [{"role": "user", "content": ASK}], "max_tokens": LIMIT}
    parsed = client.chat.completions.parse(**asked, response_format=Weather)
    assert isinstance(parsed.choices[0].message.parsed, Weather)
    tools = [pydantic_function_tool(GetWeather)]
    parsed = client.chat.completions.parse(**asked, tools=tools, tool_choice="required")
    assert isinstance(parsed.choices[0].message.tool_calls[0].function.parsed_arguments, GetWeather)
    with client.chat.completions.stream(**asked, tools=tools, tool_choice="required") as stream:
        final = stream.get_final_completion()
    assert isinstance(final.choices[0].message.tool_calls[0].function.parsed_arguments, GetWeather)


def responses():
    asked = {**SETTINGS, "input": GREET, "instructions": "Be brief.", "max_output_tokens": LIMIT}
    whole = client.responses.create(**asked)
    with client.responses.stream(**asked) as stream:
        assert stream.get_final_response().output_text == whole.output_text != ""
    parsed = client.responses.parse(**{**asked, "input": ASK}, text_format=Weather)
    assert isinstance(parsed.output_parsed, Weather)


def responses_with_a_tool():
    items = [{"role": "user", "content": ASK}]
    asked = {**SETTINGS, "tools": [{"type": "function", **FUNCTION}], "max_output_tokens": LIMIT}
    output = client.responses.create(**asked, input=items, tool_choice=NAMED).output
    items += output
    for call in output:
        result = get_weather(**json.loads(call.arguments))
        items.append({"type": "function_call_output", "call_id": call.call_id, "output": result})
    assert was_called()
    assert client.responses.create(**asked, input=items).output


chat()
chat_with_a_tool()
chat_with_objects()
responses()
responses_with_a_tool()
