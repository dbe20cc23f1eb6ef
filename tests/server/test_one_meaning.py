"""A request means the same on both engines: the same prompt, and from the same weights the same answer."""

import openai
import pytest
import requests

USER = {"role": "user", "content": "Hi"}
SAID = {"role": "assistant", "content": "Hello, how"}
WEIGHT = {"type": "object", "properties": {"kg": {"enum": [1, 20, 300]}}, "required": ["kg"]}
TOOL = {"type": "function", "function": {"name": "weigh", "parameters": WEIGHT}}
CALL = {"id": "call_1", "type": "function", "function": {"name": "weigh", "arguments": '{"kg": 20}'}}
CALLED = {"role": "assistant", "content": None, "tool_calls": [CALL]}
RESULT = {"role": "tool", "tool_call_id": "call_1", "content": "heavy"}
CASES = {
    "plain": {},
    "name": {"messages": [{**USER, "name": "anna"}]},
    "developer": {"messages": [{"role": "developer", "content": "Be brief."}, USER]},
    "last one is the assistant's": {"messages": [USER, SAID]},
    "two of the assistant": {"messages": [USER, SAID, SAID]},
    "two of the user": {"messages": [USER, USER]},
    "continued": {
        "messages": [USER, SAID],
        "extra_body": {"continue_final_message": True, "add_generation_prompt": False},
    },
    "stop": {"stop": ["\n", "e"]},
    "likeliest only": {"temperature": 1.5, "top_p": 0},
    "min_p": {"temperature": 1.5, "extra_body": {"min_p": 1}},
    "top_k": {"temperature": 1.5, "extra_body": {"top_k": 1}},
    "no limits": {"max_tokens": 12, "extra_body": {"top_k": -1, "max_completion_tokens": -1}},
    "repeat_penalty": {"extra_body": {"repeat_penalty": 1.3}},
    "bias": {"logit_bias": {"66": 3.0}},
    "form": {"extra_body": {"structured_outputs": {"regex": "[a-z]{5}"}}},
    "tools": {"tools": [TOOL]},
    "a tool": {"tools": [TOOL], "tool_choice": "required", "max_tokens": 60},
    "result of a tool": {"messages": [USER, CALLED, RESULT], "tools": [TOOL]},
    "without effect": {
        "tools": [], "tool_choice": "none", "reasoning_effort": "low", "logprobs": False, "top_logprobs": 0,
        "extra_body": {"skip_special_tokens": True, "chat_template_kwargs": {}, "prompt_cache_options": {}},
    },
}  # fmt: skip


def describe(message):
    """What a message says and calls, without the ids of the calls, which are random."""
    calls = [call.function for call in message.tool_calls or []]
    return message.content, *((call.name, call.arguments) for call in calls)


@pytest.mark.parametrize("case", CASES)
def test_request_means_the_same_on_both_engines(clients, case):
    request = {"model": "x", "messages": [USER], "temperature": 0, "max_tokens": 12, "seed": 3, **CASES[case]}
    replies = [client.chat.completions.create(**request) for client in clients]
    assert len({reply.usage.prompt_tokens for reply in replies}) == 1
    assert len({reply.choices[0].finish_reason for reply in replies}) == 1
    assert len({describe(reply.choices[0].message) for reply in replies}) == 1


def test_missing_settings_have_the_same_defaults(clients):
    request = {"model": "x", "messages": [USER], "max_tokens": 12, "extra_body": {"top_k": 1}}
    replies = [client.chat.completions.create(**request) for client in clients]
    assert len({reply.choices[0].message.content for reply in replies}) == 1


def test_message_of_the_assistant_is_answered_or_continued_as_asked(clients):
    for client in clients:
        counts = []
        for more in ({}, {"continue_final_message": True}):
            reply = client.chat.completions.create(
                model="x", messages=[USER, SAID], max_tokens=1, extra_body=more
            )
            counts.append(reply.usage.prompt_tokens)
        assert counts[0] > counts[1]  # the first has another message's beginning


@pytest.mark.parametrize(
    ("body", "field"),
    [
        ({"continue_final_message": True}, "continue_final_message"),
        ({"add_generation_prompt": False}, "add_generation_prompt"),
        ({"chat_template_kwargs": {"enable_thinking": False}}, "chat_template_kwargs"),
        ({"tool_choice": "required"}, "tool_choice"),
    ],
)
def test_what_cannot_be_done_names_its_cause(clients, body, field):
    for client in clients:
        with pytest.raises(openai.BadRequestError) as caught:
            client.chat.completions.create(model="x", messages=[USER], extra_body=body)
        assert caught.value.param == field


def tokenize(client, **body):
    """The reply of /tokenize."""
    address = str(client.base_url).removesuffix("v1/") + "tokenize"
    return requests.post(address, json=body, timeout=60)


def test_tokens_of_messages_are_those_of_their_prompt(clients):
    replies = [tokenize(client, messages=[USER]).json() for client in clients]
    assert replies[0]["tokens"] == replies[1]["tokens"]
    for client, reply in zip(clients, replies, strict=True):
        answer = client.chat.completions.create(model="x", messages=[USER], max_tokens=1)
        assert answer.usage.prompt_tokens == reply["count"] == len(reply["tokens"])


def test_tokens_of_a_text(clients):
    for client in clients:
        assert tokenize(client, prompt="Hi", add_special_tokens=False).json()["count"] == 2
        assert tokenize(client, prompt="").status_code == 200


@pytest.mark.parametrize(
    "body", [{}, {"prompt": "x", "messages": [USER]}, {"messages": []}, {"prompt": 3}, {"text": "x"}]
)
def test_wrong_body_of_tokenize_is_a_400(clients, body):
    assert tokenize(clients[0], **body).status_code == 400
