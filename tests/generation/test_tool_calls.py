"""Calls of tools in an answer: they have their form whatever the model prefers, and are read as they come."""

import json
import random

import jsonschema
import pytest
from support.schemas import make_schema
from support.zoo import make_family_tokenizer

from helpers.generation.forms import TextForm
from helpers.generation.request import GenerationRequest
from helpers.generation.structure import StructureRefused, translate
from helpers.generation.tool_calls import CallReader, Tool, describe_calls, read_answer
from helpers.loading.chat_tokenizer import ChatTokenizer
from helpers.loading.tokenizer import make_chat_tokenizer
from helpers.loading.tools import ToolForm, ToolTemplate

CITY = {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]}
TOOLS = [Tool("get_weather", CITY), Tool("stop", {})]
WEATHER = '<tool_call>\n{"name": "get_weather", "arguments": {"city": "O}\\"slo"}}\n</tool_call>'
STOP = '<tool_call>\n{"name": "stop", "arguments": {}}\n</tool_call>'


@pytest.fixture(scope="module")
def template():
    """A chat template without tools, which gets the form of the kit."""
    return ToolTemplate(make_chat_tokenizer(make_family_tokenizer("chatml")))


def accepts(structure, text):
    """Whether the text has the form, and is whole."""
    form = TextForm(structure, 10_000, len)
    try:
        form.take(list(text.encode()), 5_000)
    except StructureRefused:
        return False
    return form.matcher.is_accepting()


@pytest.mark.parametrize("text", ["", "Hello <tool_cal", WEATHER, f"Wait.\n{WEATHER}\n{STOP}", "{}"])
def test_free_answers_may_have_texts_and_calls(template, text):
    assert accepts(describe_calls(template, TOOLS, "text"), text)


@pytest.mark.parametrize(
    "text",
    [
        WEATHER[:-1],  # not ended
        f"{WEATHER} and",  # text after a call
        WEATHER.replace("get_weather", "get_news"),
        WEATHER.replace("city", "town"),
        WEATHER.replace('"}}', '", "more": 1}}'),
    ],
)
def test_begun_call_has_to_be_one(template, text):
    assert not accepts(describe_calls(template, TOOLS, "text"), text)


def test_answer_that_has_to_call_has_no_text(template):
    structure = describe_calls(template, TOOLS, None)
    assert accepts(structure, f"{WEATHER}\n{STOP}")
    assert not accepts(structure, "")
    assert not accepts(structure, f"Wait.{WEATHER}")


def test_one_call_is_all_if_they_are_not_parallel(template):
    structure = describe_calls(template, TOOLS, None, parallel=False)
    assert accepts(structure, STOP)
    assert not accepts(structure, f"{STOP}\n{STOP}")


def test_answer_with_a_schema_is_json_of_it_or_calls(template):
    structure = describe_calls(template, TOOLS, CITY)
    assert accepts(structure, '{"city": "Oslo"}')
    assert accepts(structure, STOP)
    assert not accepts(structure, "Oslo")


def test_special_tokens_of_a_form_are_tokens_and_are_not_in_its_text():
    tokenizer = make_family_tokenizer("qwen3")  # in which <tool_call> is a special token
    template = ToolTemplate(make_chat_tokenizer(tokenizer))
    structure = describe_calls(template, TOOLS, "text")
    assert f"<[{tokenizer.convert_tokens_to_ids('<tool_call>')}]>" in translate(structure)
    assert accepts(structure, STOP.removeprefix("<tool_call>"))


def test_schema_that_cannot_be_enforced_is_refused_for_strict_tools_only(template):
    schema = {"type": "object", "properties": {"a": {"not": {"type": "string"}}}}
    translate(describe_calls(template, [Tool("f", schema)], None))
    with pytest.raises(StructureRefused, match="list of tools"):
        translate(describe_calls(template, [Tool("f", schema, strict=True)], None))


def split_at_random(text, seed):
    """The text in pieces of 1 to 5 characters."""
    random_ = random.Random(seed)
    while text:
        size = random_.randint(1, 5)
        yield text[:size]
        text = text[size:]


@pytest.mark.parametrize("seed", range(20))
def test_calls_are_read_from_pieces_as_from_the_whole(template, seed):
    text = f"Wait <tool_ca.\n{WEATHER}\n{STOP}"
    whole = read_answer(CallReader(template.visible_form), text)
    assert whole.text == "Wait <tool_ca.\n"
    assert [(call.name, json.loads(call.arguments)) for call in whole.calls] == [
        ("get_weather", {"city": 'O}"slo'}),
        ("stop", {}),
    ]
    reader, said, calls = CallReader(template.visible_form), "", ["", ""]
    for piece in split_at_random(text, seed):
        part = reader.feed(piece)
        said += part.text
        for call in part.calls:
            calls[call.index] += call.arguments
    assert said + reader.finish().text == whole.text
    assert calls == [call.arguments for call in whole.calls]


def test_begin_of_a_call_that_does_not_come_is_text(template):
    assert read_answer(CallReader(template.visible_form), "a <tool_call>\n{").text == "a <tool_call>\n{"


def test_json_that_only_contains_a_call_is_text_where_calls_stand_alone():
    chat = ChatTokenizer("", {}, {}, lambda text: [], None)
    template = ToolTemplate(chat)
    template.__dict__["_found"] = (ToolForm('{"name": "', '", "parameters": ', None, "}"), False)
    answer = read_answer(CallReader(template.visible_form, anywhere=False), '{"tool": {"name": "x"}}')
    assert (answer.text, answer.calls) == ('{"tool": {"name": "x"}}', [])


def test_call_that_is_cut_off_keeps_what_came(template):
    answer = read_answer(CallReader(template.visible_form), WEATHER.partition("O}")[0])
    assert [(call.name, call.arguments) for call in answer.calls] == [("get_weather", '{"city": "')]


def test_random_models_call_with_valid_arguments_on_both_engines(engine):
    random_ = random.Random(4)
    for seed in range(6):
        schema = {"type": "object", "properties": {"a": make_schema(random_)}, "required": ["a"]}
        template = engine.tool_template
        structure = describe_calls(template, [Tool("f", schema)], None if seed % 2 else "text")
        request = GenerationRequest(
            prompt="Hello", max_new_tokens=250, structure=structure, temperature=1.0, seed=seed
        )
        answer = engine.generate(request)
        found = read_answer(CallReader(template.visible_form), answer.text)
        assert found.calls or not seed % 2
        for call in found.calls:
            jsonschema.validate(json.loads(call.arguments), schema)
