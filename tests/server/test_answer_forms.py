"""The form of an answer, asked for as OpenAI's, vLLM's and clients of 2023 do."""

import json
import re
from typing import Literal

import openai
import pytest
import requests
from pydantic import BaseModel
from support.server import make_tiny_service, serve_app

from helpers.server.openai_api import make_openai_app
from helpers.server.raw_api import make_raw_app

CHAT = {"model": "tiny", "messages": [{"role": "user", "content": "Hi"}], "temperature": 1, "seed": 5}


class Person(BaseModel):
    """What a client asks for, with the openai package's own helper."""

    name: str
    mood: Literal["good", "bad"]
    children: list[int]


@pytest.fixture(scope="module")
def service(tmp_path_factory):
    return make_tiny_service(tmp_path_factory.mktemp("home"))


@pytest.fixture(scope="module")
def client(service):
    with serve_app(make_openai_app(service)) as address:
        yield openai.OpenAI(base_url=address + "/v1", api_key="none", max_retries=0)


def test_answer_is_parsed_by_the_client(client):
    reply = client.chat.completions.parse(**CHAT, max_tokens=150, response_format=Person)
    assert isinstance(reply.choices[0].message.parsed, Person)


def test_streamed_answer_has_the_form_too(client):
    form = {"type": "json_object"}
    chunks = client.chat.completions.create(**CHAT, max_tokens=40, response_format=form, stream=True)
    text = "".join(chunk.choices[0].delta.content or "" for chunk in chunks)
    assert isinstance(json.loads(text), dict)


def test_each_of_several_answers_has_the_form(client):
    form = {"type": "json_schema", "json_schema": {"name": "x", "schema": {"type": "integer"}}}
    reply = client.chat.completions.create(**CHAT, max_tokens=9, n=3, response_format=form)
    answers = {choice.message.content for choice in reply.choices}
    assert len(answers) == 3 and all(isinstance(json.loads(answer), int) for answer in answers)


@pytest.mark.parametrize(
    ("form", "pattern"),
    [
        ({"regex": r"\d{3}-\d{2}"}, r"\d{3}-\d{2}"),
        ({"choice": ["good", "bad"]}, "good|bad"),
        ({"grammar": 'root ::= "x" [0-9]'}, "x[0-9]"),
        ({"json": {"enum": [3, "ä"]}}, '3|"ä"'),
        ({"json": '{"type": "boolean"}'}, "true|false"),
    ],
)
def test_structured_outputs_of_vllm(client, form, pattern):
    body = {"structured_outputs": form}
    reply = client.completions.create(model="tiny", prompt="Hi", max_tokens=20, extra_body=body)
    assert re.fullmatch(pattern, reply.choices[0].text)


@pytest.mark.parametrize(
    ("body", "field"),
    [
        ({"response_format": {"type": "xml"}}, "response_format"),
        ({"response_format": {"type": "json_schema"}}, "response_format.json_schema"),
        (
            {
                "response_format": {
                    "type": "json_schema",
                    "json_schema": {"name": "x", "schema": {"type": "y"}},
                }
            },
            "response_format",
        ),
        ({"structured_outputs": {"regex": "("}}, "structured_outputs"),
        ({"structured_outputs": {"regex": "a", "choice": ["b"]}}, "structured_outputs"),
        ({"structured_outputs": {}}, "structured_outputs"),
        (
            {"structured_outputs": {"regex": "a"}, "response_format": {"type": "json_object"}},
            "structured_outputs",
        ),
    ],
)
def test_form_that_cannot_be_names_the_field(client, body, field):
    with pytest.raises(openai.BadRequestError) as caught:
        client.chat.completions.create(**CHAT, extra_body=body)
    assert caught.value.param.startswith(field)


def test_grammar_of_2023_is_followed_and_a_wrong_one_names_its_field(service):
    with serve_app(make_raw_app(service)) as address:

        def ask(grammar):
            body = {"prompt": "Hi", "max_new_tokens": 9, "grammar_string": grammar}
            return requests.post(f"{address}/api/v1/generate", json=body, timeout=60)

        assert ask('root ::= ("yes" | "no") "!"').json()["results"][0]["text"] in ("yes!", "no!")
        refused = ask("root ::= nothing")
        assert (refused.status_code, refused.json()["error"]["param"]) == (400, "grammar_string")
