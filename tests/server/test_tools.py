"""Tools in chats, on both engines: calls whole and streamed, their results, and what a client may choose."""

import json
from functools import partial

import pytest
import requests
from support.zoo import make_family_tokenizer

from helpers.generation.request import Piece
from helpers.generation.tool_calls import CallReader
from helpers.loading.tokenizer import make_chat_tokenizer
from helpers.loading.tools import ToolTemplate
from helpers.server.openai_dialects import ChatDialect

USER = {"role": "user", "content": "How heavy is it?"}
WEIGHT = {"type": "object", "properties": {"kg": {"enum": [1, 20, 300]}}, "required": ["kg"]}
TOOLS = [
    {"type": "function", "function": {"name": "weigh", "description": "Weighs.", "parameters": WEIGHT}},
    {"type": "function", "function": {"name": "stop"}},
]
WEIGH = {"type": "function", "function": {"name": "weigh"}}


@pytest.fixture(scope="module", params=["transformers", "llama.cpp"])
def client(request, clients):
    """A client of an engine."""
    return clients[0 if request.param == "transformers" else 1]


def chat(client, **settings):
    """The reply, whole or streamed."""
    request = {"model": "x", "messages": [USER], "temperature": 0, "max_tokens": 150, "tools": TOOLS}
    return client.chat.completions.create(**{**request, **settings})


def join_stream(events):
    """(content, calls, reason) of a streamed answer."""
    content, calls, reason = "", {}, None
    for event in events:
        choice = event.choices[0]
        content += choice.delta.content or ""
        reason = choice.finish_reason or reason
        for part in choice.delta.tool_calls or []:
            call = calls.setdefault(part.index, {"id": part.id, "name": part.function.name, "arguments": ""})
            call["arguments"] += part.function.arguments
    return content, list(calls.values()), reason


def test_required_call_is_made_with_arguments_of_its_schema(client):
    choice = chat(client, tool_choice="required").choices[0]
    assert choice.finish_reason == "tool_calls"
    assert choice.message.content is None
    assert len({call.id for call in choice.message.tool_calls}) == len(choice.message.tool_calls)
    for call in choice.message.tool_calls:
        arguments = json.loads(call.function.arguments)
        assert arguments == {} if call.function.name == "stop" else arguments["kg"] in (1, 20, 300)


def test_named_tool_is_called_once(client):
    [call] = chat(client, tool_choice=WEIGH).choices[0].message.tool_calls
    assert call.function.name == "weigh"


def test_one_call_is_made_if_they_may_not_be_parallel(client):
    reply = chat(client, tool_choice="required", parallel_tool_calls=False)
    assert len(reply.choices[0].message.tool_calls) == 1


@pytest.mark.parametrize("choice", ["auto", "required", WEIGH])
def test_stream_has_the_same_answer(client, choice):
    whole = chat(client, tool_choice=choice).choices[0]
    content, calls, reason = join_stream(chat(client, tool_choice=choice, stream=True))
    assert content == (whole.message.content or "")
    assert reason == whole.finish_reason
    assert all(call["id"].startswith("call_") for call in calls)
    assert [(call["name"], call["arguments"]) for call in calls] == [
        (call.function.name, call.function.arguments) for call in whole.message.tool_calls or []
    ]


def test_event_has_a_part_of_one_call_only():
    call = '<tool_call>\n{"name": "weigh", "arguments": {"kg": 1}}\n</tool_call>\n'
    template = ToolTemplate(make_chat_tokenizer(make_family_tokenizer("chatml")))
    dialect = ChatDialect(1, False, None, partial(CallReader, template.visible_form))
    dialect.describe_start(0)
    choices = [*dialect.describe_piece(0, Piece(f"So: {2 * call}")), *dialect.describe_end(0, "stop")]
    parts = [part for choice in choices for part in choice["delta"].get("tool_calls", [])[:1]]
    assert [part["function"]["name"] for part in parts if "id" in part] == ["weigh", "weigh"]
    assert "".join(part["function"]["arguments"] for part in parts) == 2 * '{"kg": 1}'


def test_result_of_a_tool_is_part_of_the_prompt(client):
    called = chat(client, tool_choice=WEIGH).choices[0].message
    asked = [USER, called.model_dump(exclude_none=True)]
    said = {"role": "tool", "tool_call_id": called.tool_calls[0].id, "content": "20 kg"}
    counts = [
        chat(client, messages=messages, max_tokens=1).usage.prompt_tokens
        for messages in ([USER], [*asked, said], [*asked, {**said, "content": "20 kg, about"}])
    ]
    assert counts[0] < counts[1] == counts[2] - len(", about")  # the model's tokens are single bytes


def test_what_clients_add_to_a_message_that_they_send_back_changes_nothing(client):
    function = {"name": "weigh", "arguments": '{"kg": 20}'}
    plain = {"role": "assistant", "tool_calls": [{"id": "a", "type": "function", "function": function}]}
    call = {"id": "a", "index": 0, "function": {**function, "parsed_arguments": {"kg": 20}}}
    added = {"role": "assistant", "tool_calls": [call], "parsed": {"kg": 20}}
    said = {"role": "tool", "tool_call_id": "a", "content": "20 kg"}
    counts = [
        chat(client, messages=[USER, called, said], max_tokens=1).usage.prompt_tokens
        for called in (plain, added)
    ]
    assert counts[0] == counts[1]


def test_tools_are_not_in_the_prompt_of_an_answer_that_may_not_call_them(client):
    counts = [
        chat(client, tool_choice=choice, max_tokens=1).usage.prompt_tokens for choice in ("auto", "none")
    ]
    assert counts[1] == chat(client, tools=[], max_tokens=1).usage.prompt_tokens < counts[0]


def test_answer_without_a_call_has_the_schema_that_is_asked_for(client):
    schema = {"name": "answer", "schema": {"enum": ["good", "bad"]}}
    choice = chat(client, response_format={"type": "json_schema", "json_schema": schema}).choices[0]
    assert choice.message.tool_calls or json.loads(choice.message.content) in ("good", "bad")


def test_call_that_is_cut_off_says_so(client):
    choice = chat(client, tool_choice=WEIGH, max_tokens=45).choices[0]
    assert choice.finish_reason == "length"


def test_tokens_of_a_prompt_with_tools_are_counted(client):
    address = str(client.base_url).removesuffix("v1/") + "tokenize"
    reply = requests.post(address, json={"messages": [USER], "tools": TOOLS}, timeout=60).json()
    assert reply["count"] == chat(client, max_tokens=1).usage.prompt_tokens


def test_several_answers_have_calls_of_their_own(client):
    reply = chat(client, n=2, tool_choice=WEIGH)
    ids = {choice.message.tool_calls[0].id for choice in reply.choices}
    assert len(ids) == 2
