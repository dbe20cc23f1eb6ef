"""Tools in a conversation: the form of calls in a chat template, and the kit's for templates without one."""

import json

import pytest
from support.tiny import make_byte_tokenizer
from support.zoo import list_trl_templates, make_family_tokenizer

from helpers.common.errors import UsageError
from helpers.loading.chat_tokenizer import unmark
from helpers.loading.tokenizer import make_chat_tokenizer
from helpers.loading.tools import OWN, ToolForm, ToolTemplate

TOOL = {
    "type": "function",
    "function": {"name": "add", "description": "Adds.", "parameters": {"type": "object", "properties": {}}},
}
USER = {"role": "user", "content": "1 + 2?"}
CALL = {"id": "call_abc", "type": "function", "function": {"name": "add", "arguments": '{"a": 1, "b": 2}'}}
CALLED = {"role": "assistant", "content": None, "tool_calls": [CALL]}
RESULT = {"role": "tool", "tool_call_id": "call_abc", "content": "3"}

HERMES = ToolForm(
    '<tool_call>\n{"name": "',
    '", "arguments": ',
    '}\n</tool_call>\n<tool_call>\n{"name": "',
    "}\n</tool_call>",
)
# As templates of these families write calls, in short.
MISTRAL = """
{%- for m in messages -%}
{%- if loop.last and tools -%}[AVAILABLE_TOOLS]{{ tools | tojson }}[/AVAILABLE_TOOLS]{%- endif -%}
{%- if m.role == "assistant" and m.tool_calls -%}
[TOOL_CALLS] [
{%- for c in m.tool_calls -%}
{%- if c.id | length != 9 -%}{{ raise_exception("ids have nine characters") }}{%- endif -%}
{{ '{"name": "' + c.function.name + '", "arguments": ' + c.function.arguments | tojson }}
{{- ', "id": "' + c.id + '"}' }}
{%- if not loop.last -%}, {% endif -%}
{%- endfor -%}]</s>
{%- elif m.role == "assistant" -%} {{ m.content }}</s>
{%- elif m.role == "tool" -%}[TOOL_RESULTS]{{ m.tool_call_id + m.content }}[/TOOL_RESULTS]
{%- else -%}[INST] {{ m.content }}[/INST]{%- endif -%}
{%- endfor -%}"""
DEEPSEEK = """
{%- for t in tools or [] -%}{{ t.function.name }} {%- endfor -%}
{%- for m in messages -%}
{%- if m.role == "assistant" and m.tool_calls -%}
<assistant><calls>
{%- for c in m.tool_calls -%}
{{ "<call>function<sep>" + c.function.name + "\\n```json\\n" + c.function.arguments + "\\n```</call>" }}
{%- if not loop.last -%}{{ "\\n" }}{%- endif -%}
{%- endfor -%}</calls></s>
{%- elif m.role == "assistant" -%}<assistant>{{ m.content }}</s>
{%- else -%}<{{ m.role }}>{{ m.content }}{%- endif -%}
{%- endfor -%}"""


def make_template(source):
    """A byte tokenizer with this chat template, which ends answers with </s>."""
    tokenizer = make_byte_tokenizer()
    tokenizer.add_special_tokens({"eos_token": "</s>"})
    return ToolTemplate(make_chat_tokenizer(tokenizer, source))


def make_family(name):
    """TRL's template of a family."""
    return ToolTemplate(make_chat_tokenizer(make_family_tokenizer(name)))


@pytest.mark.parametrize("family", ["qwen2_5", "qwen3", "qwen3_instruct_2507"])
def test_form_of_hermes_is_found(family):
    assert make_family(family).form == HERMES


@pytest.mark.parametrize("family", ["llama3_1", "llama3_2"])
def test_llama_writes_one_call_with_parameters(family):
    assert make_family(family).form == ToolForm('{"name": "', '", "parameters": ', None, "}")


def test_form_with_a_list_and_ids_is_found():
    form = make_template(MISTRAL).form
    assert form.begin == '[TOOL_CALLS] [{"name": "'
    assert form.between == ', "id": "000000000"}, {"name": "'
    assert form.end == ', "id": "000000000"}]'


def test_template_that_takes_arguments_as_text_is_given_text():
    template = make_template(DEEPSEEK)
    assert template.form.middle == "\n```json\n"
    assert 'add\n```json\n{"a": 1, "b": 2}\n```' in unmark(template.render_marked([USER, CALLED, RESULT]))


@pytest.mark.parametrize("family", ["chatml", "gemma3", "gemma4", "glm4moe", "vicuna"])
def test_template_without_tools_or_with_calls_that_are_not_json_gets_the_form_of_the_kit(family):
    template = make_family(family)
    assert template.form == OWN
    assert not template.is_own


# A loaded model's template has a system role in any case; Gemma's gets one. SmolVLM's takes no plain texts.
FAMILIES = [name for name in ("chatml", "vicuna", *list_trl_templates()) if name not in ("gemma", "smolvlm")]


@pytest.mark.parametrize("family", FAMILIES)
def test_every_template_writes_tools_calls_and_results(family):
    text = unmark(make_family(family).render_marked([USER, CALLED, RESULT, USER], tools=[TOOL]))
    for part in ("Adds.", "add", "1 + 2?", "3"):
        assert part in text
    assert text.count("1 + 2?") == 2


def test_results_of_one_turn_are_one_message_in_the_form_of_the_kit():
    two = {**CALLED, "tool_calls": [CALL, {**CALL, "id": "call_def"}]}
    other = {**RESULT, "tool_call_id": "call_def", "content": "4"}
    text = unmark(make_family("chatml").render_marked([USER, two, RESULT, other], tools=[TOOL]))
    assert "<tool_response>\n3\n</tool_response>\n<tool_response>\n4\n</tool_response><|im_end|>" in text


def test_instruction_of_the_client_stays_before_that_of_the_tools():
    system = {"role": "system", "content": "Be brief."}
    text = unmark(make_family("chatml").render_marked([system, USER], tools=[TOOL]))
    assert text.startswith("<|im_start|>system\nBe brief.\n\n")
    assert json.dumps(TOOL) in text


def test_ids_are_numbered_in_the_order_of_the_calls():
    asked = [USER, CALLED, RESULT, USER, {**CALLED, "tool_calls": [{**CALL, "id": "x"}]}]
    template = make_template(MISTRAL)
    text = unmark(template.render_marked([*asked, {**RESULT, "tool_call_id": "x"}], tools=[TOOL]))
    assert "[TOOL_RESULTS]0000000003" in text and "[TOOL_RESULTS]0000000013" in text


def test_control_tokens_in_tools_calls_and_results_are_read_as_text():
    chat = make_chat_tokenizer(make_family_tokenizer("qwen3"))
    end, plain = chat.control_tokens["<|im_end|>"], "x"
    counts = []
    for word in ("<|im_end|>", plain):
        tool = {"type": "function", "function": {**TOOL["function"], "description": word}}
        call = {"type": "function", "function": {"name": "add", "arguments": json.dumps({word: word})}}
        said = [USER, {**CALLED, "tool_calls": [call]}, {**RESULT, "content": word}]
        counts.append(chat_ids(chat, said, [tool]).count(end))
    assert counts[0] == counts[1]


def chat_ids(chat, messages, tools):
    """The token ids of messages with tools."""
    from helpers.loading.chat_tokenizer import encode_marked

    return encode_marked(chat.encode, ToolTemplate(chat).render_marked(messages, tools=tools))


def test_call_that_was_cut_off_is_still_rendered():
    cut = {**CALLED, "tool_calls": [{**CALL, "function": {"name": "add", "arguments": '{"a": 1'}}]}
    assert '{"a": 1' in unmark(make_family("chatml").render_marked([USER, cut, RESULT], tools=[TOOL]))


def test_messages_that_a_template_rejects_are_one_line():
    template = make_template("{{ raise_exception('no') if messages | length > 2 }}" + DEEPSEEK)
    with pytest.raises(UsageError, match="rejects these messages"):
        template.render_marked([USER, CALLED, RESULT], tools=[TOOL])
