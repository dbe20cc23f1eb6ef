"""/v1/responses on both engines: texts, streams, tools and schemas, as openai's own types have them."""

import json

import openai
import pytest
import requests
from openai.types.responses import Response, ResponseStreamEvent
from pydantic import TypeAdapter

WEIGHT = {"type": "object", "properties": {"kg": {"enum": [1, 20, 300]}}, "required": ["kg"]}
TOOL = {"type": "function", "name": "weigh", "description": "Weighs.", "parameters": WEIGHT, "strict": False}
WEIGH = {"type": "function", "name": "weigh"}
SCHEMA = {"type": "json_schema", "name": "answer", "schema": {"enum": ["good", "bad"]}}


@pytest.fixture(scope="module", params=["transformers", "llama.cpp"])
def client(request, clients):
    """A client of an engine."""
    return clients[0 if request.param == "transformers" else 1]


def respond(client, **settings):
    """The reply, whole or streamed."""
    request = {"model": "x", "input": "Hi", "temperature": 0, "max_output_tokens": 20}
    return client.responses.create(**{**request, **settings})


def chat(client, messages, **settings):
    """The same as a chat completion."""
    request = {"model": "x", "messages": messages, "temperature": 0, "max_tokens": 20}
    return client.chat.completions.create(**{**request, **settings})


def test_text_is_the_answer_of_a_chat(client):
    reply = respond(client, instructions="Be brief.")
    said = chat(client, [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Hi"}])
    assert reply.output_text == said.choices[0].message.content
    assert (reply.usage.input_tokens, reply.usage.output_tokens) == (
        said.usage.prompt_tokens,
        said.usage.completion_tokens,
    )
    assert reply.status == ("incomplete" if said.choices[0].finish_reason == "length" else "completed")


def test_output_can_be_sent_back_as_input(client):
    first = respond(client)
    asked = [{"role": "user", "content": "Hi"}, *first.to_dict()["output"], {"role": "user", "content": "?"}]
    reply = respond(client, input=asked)
    said = {"role": "assistant", "content": first.output_text}
    same = chat(client, [asked[0], said, asked[-1]])
    assert reply.output_text == same.choices[0].message.content


@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"tools": [TOOL], "tool_choice": WEIGH, "max_output_tokens": 100},
        {"tools": [TOOL], "tool_choice": "required", "max_output_tokens": 300},
        {"text": {"format": SCHEMA}},
        {"tools": [TOOL], "tool_choice": WEIGH, "max_output_tokens": 40},  # cut off
    ],
)
def test_stream_has_the_events_of_the_whole_reply(client, settings):
    whole = respond(client, **settings)
    events = list(respond(client, **settings, stream=True))
    assert [event.sequence_number for event in events] == list(range(len(events)))
    assert [event.type for event in events[:2]] == ["response.created", "response.in_progress"]
    assert events[-1].type == f"response.{whole.status}"
    final = events[-1].response
    assert final.output_text == whole.output_text
    assert list_calls(final) == list_calls(whole)
    deltas = [event.delta for event in events if event.type == "response.output_text.delta"]
    assert "".join(deltas) == whole.output_text
    parts = [event.delta for event in events if event.type == "response.function_call_arguments.delta"]
    assert "".join(parts) == "".join(arguments for _, arguments in list_calls(whole))


def list_calls(reply):
    """(name, arguments) of the calls in a reply."""
    return [(item.name, item.arguments) for item in reply.output if item.type == "function_call"]


def test_result_of_a_call_is_part_of_the_prompt(client):
    asked = [{"role": "user", "content": "Hi"}]
    called = respond(client, input=asked, tools=[TOOL], tool_choice=WEIGH, max_output_tokens=100)
    [call] = [item for item in called.output if item.type == "function_call"]
    assert json.loads(call.arguments)["kg"] in (1, 20, 300)
    result = {"type": "function_call_output", "call_id": call.call_id, "output": "20 kg"}
    counts = [
        respond(client, input=sent, tools=[TOOL]).usage.input_tokens
        for sent in (asked, [*asked, call.to_dict(), result])
    ]
    assert counts[0] < counts[1]


def test_schema_is_kept(client):
    assert json.loads(respond(client, text={"format": SCHEMA}).output_text) in ("good", "bad")


def test_replies_and_events_are_of_openai_types(client):
    address = f"{client.base_url}responses"
    body = {
        "input": "Hi",
        "max_output_tokens": 60,
        "tools": [TOOL],
        "tool_choice": "required",
        "temperature": 0,
    }
    reply = requests.post(address, json=body, timeout=60).json()
    assert Response.model_validate(reply).to_dict(exclude_unset=True) == reply
    lines = requests.post(address, json={**body, "stream": True}, timeout=60).text.split("\n\n")
    events = [json.loads(line.split("data: ", 1)[1]) for line in lines if line]
    kind = TypeAdapter(ResponseStreamEvent)
    for event in events:
        assert kind.validate_python(event).to_dict(exclude_unset=True) == event


@pytest.mark.parametrize(
    ("body", "field"),
    [
        ({"previous_response_id": "resp_1"}, "previous_response_id"),
        ({"input": []}, "input"),
        ({"input": [{"type": "item_reference", "id": "x"}]}, "input.0"),
        ({"input": [{"role": "user", "content": [{"type": "input_image"}]}]}, "input.0.message.content"),
        ({"tools": [{"type": "web_search", "name": "x"}]}, "tools.0.type"),
        ({"tools": [{"type": "web_search"}]}, "tools.0.type"),
        ({"tools": [TOOL], "tool_choice": {"type": "web_search"}}, "tool_choice.type"),
        ({"top_logprobs": False}, "top_logprobs"),
        ({"background": 0}, "background"),
        ({"background": True}, "background"),
        ({"max_output_tokens": 10_000}, "max_output_tokens"),
        ({"text": {"format": {**SCHEMA, "schema": {"$ref": "#/nowhere"}}}}, "text.format"),
        ({"conversation": "conv_1"}, "conversation"),
        ({"tool_choice": "required"}, "tool_choice"),
    ],
)
def test_what_cannot_be_done_names_its_field(client, body, field):
    with pytest.raises(openai.BadRequestError) as caught:
        client.responses.create(**{"model": "x", "input": "Hi", "extra_body": body})
    assert caught.value.param == field


def test_refusal_of_a_reference_names_the_setting_of_the_client(client):
    with pytest.raises(openai.BadRequestError) as caught:
        respond(client, input=[{"type": "item_reference", "id": "x"}])
    assert caught.value.code == "unsupported_parameter"
    assert "store" in caught.value.body["message"]


def test_what_newer_clients_send_without_effect_is_taken(client):
    extra = {
        "store": False,
        "include": ["reasoning.encrypted_content"],
        "truncation": "disabled",
        "user": "ada",
    }
    reply = respond(client, **extra, reasoning={"effort": "low"}, metadata={"a": "b"}, service_tier="auto")
    assert reply.output_text == respond(client).output_text
    assert reply.metadata == {"a": "b"}
