"""The prompts of 2023 as a table: a request's fields in, the prompt and the stop strings out; no model."""

import pytest

from helpers.server.errors import ApiError
from helpers.server.raw_answers import build_chat, list_unused_fields
from helpers.server.raw_bodies import ChatBody
from helpers.server.raw_histories import plan_exchange
from helpers.server.raw_prompts import drop_oldest_exchanges, list_stops, write_prompt
from helpers.server.raw_templates import load_character, load_instruct

INSTRUCT = {"mode": "instruct"}
CHATML = {**INSTRUCT, "instruction_template": "ChatML"}
LLAMA_2 = {**INSTRUCT, "instruction_template": "Llama-v2"}
ALPACA = {**INSTRUCT, "instruction_template": "Alpaca"}
NO_CONTEXT = {"context_instruct": ""}

# What the templates begin with.
CHATML_SYSTEM = "<|im_start|>system\n<|im_end|>\n"
LLAMA_2_SYSTEM = "[INST] <<SYS>>\nAnswer the questions.\n<</SYS>>\n\n"
ALPACA_SYSTEM = (
    "Below is an instruction that describes a task. "
    "Write a response that appropriately completes the request.\n\n"
)

PAST = {"internal": [["one ", " two"], ["three", "four"]], "visible": [["x", "y"], ["x", "y"]]}
BEGUN = {"internal": [["one", " two "]], "visible": [["one", " two "]]}
GREETED = {"internal": [["<|BEGIN-VISIBLE-CHAT|>", "Hello"]], "visible": [["", "Hello"]]}
CONTINUED = {"history": BEGUN, "_continue": True}

NAMES = {"name1": "Ann", "name2": "Bo", "context": " {{char}} and <BOT> meet <USER> and {{user}}.\n"}
NAMED = {**NAMES, "mode": "chat"}
MET = "Bo and Bo meet Ann and Ann.\n"
COMMAND = {"chat_instruct_command": "You are <|character|>.\n<|prompt|>"}
WRAPPED = {**NAMES, **COMMAND, "mode": "chat-instruct"}

# Turn templates of the client's own.
TIGHT = {"turn_template": "<|user|><|user-message|>\\n<|bot|><|bot-message|>\\n"}
SPACED = {"turn_template": "<|user|> <|user-message|>\n<|bot|> <|bot-message|>\n"}
NUMBERED = {"turn_template": "<|round|> <|user|><|user-message|>\n<|bot|><|bot-message|>\n"}
Q_AND_A = {**INSTRUCT, **NO_CONTEXT, "name1_instruct": "Q:", "name2_instruct": "A:"}


def render(messages, continue_last):
    """Writes messages as a model's own template might."""
    text = "".join(f"[{message['role']}:{message['content']}]" for message in messages)
    return text if continue_last else text + "[assistant:"


def build(**sent):
    """(the parsed body, its chat)."""
    body = ChatBody.model_validate({"user_input": "Hi", **sent})
    exchange = plan_exchange(body.history, body.user_input, body.regenerate, body.continue_)
    assert exchange
    return body, build_chat(body, exchange)


PROMPTS = {
    # Each template: a first turn, a history, a reply to lengthen.
    "ChatML": (CHATML, CHATML_SYSTEM + "<|im_start|>user\nHi<|im_end|>\n<|im_start|>assistant\n"),
    "ChatML with a history": (
        {**CHATML, "history": PAST},
        CHATML_SYSTEM
        + "<|im_start|>user\none<|im_end|>\n<|im_start|>assistant\ntwo<|im_end|>\n"
        + "<|im_start|>user\nthree<|im_end|>\n<|im_start|>assistant\nfour<|im_end|>\n"
        + "<|im_start|>user\nHi<|im_end|>\n<|im_start|>assistant\n",
    ),
    "ChatML continued": (
        {**CHATML, **CONTINUED},
        CHATML_SYSTEM + "<|im_start|>user\none<|im_end|>\n<|im_start|>assistant\ntwo",
    ),
    "Llama-v2": (LLAMA_2, LLAMA_2_SYSTEM + "Hi [/INST] "),
    "Llama-v2 with a history": (
        {**LLAMA_2, "history": PAST},
        LLAMA_2_SYSTEM + "one [/INST] two </s><s>[INST] three [/INST] four </s><s>[INST] Hi [/INST] ",
    ),
    "Llama-v2 continued": ({**LLAMA_2, **CONTINUED}, LLAMA_2_SYSTEM + "one [/INST] two"),
    "Llama-v2 without its opening": (
        {**LLAMA_2, "context_instruct": "Be brief. "},
        "Be brief. Hi [/INST] ",
    ),
    "Alpaca": (ALPACA, ALPACA_SYSTEM + "### Instruction:\nHi\n\n### Response:\n"),
    "Alpaca with a history": (
        {**ALPACA, "history": BEGUN},
        ALPACA_SYSTEM
        + "### Instruction:\none\n\n### Response:\ntwo\n\n"
        + "### Instruction:\nHi\n\n### Response:\n",
    ),
    "None is Vicuna": (
        {**INSTRUCT, **NO_CONTEXT, "instruction_template": "None"},
        "USER: Hi\nASSISTANT:",
    ),
    # Other names, other turns.
    "names": (
        {**CHATML, **NO_CONTEXT, "name1_instruct": "human ", "name2_instruct": "gpt"},
        "<|im_start|>human\nHi<|im_end|>\n<|im_start|>gpt\n",
    ),
    "turns with newlines written out": (
        {**Q_AND_A, **TIGHT, "name1_instruct": "Q: ", "name2_instruct": "A: "},
        "Q:Hi\nA:",
    ),
    "a space before the reply goes": (
        {**Q_AND_A, **SPACED, "context_instruct": "Short!\n"},
        "Short!\nQ: Hi\nA:",
    ),
    "and stays before a reply to lengthen": ({**Q_AND_A, **SPACED, **CONTINUED}, "Q: one\nA: two"),
    "rounds": (
        {**Q_AND_A, **NUMBERED, "history": PAST},
        "0 Q:one\nA:two\n1 Q:three\nA:four\n2 Q:Hi\nA:",
    ),
    "turns alone change Alpaca's": (
        {**INSTRUCT, **SPACED},
        ALPACA_SYSTEM + "### Instruction: Hi\n### Response:",
    ),
    # What the user says.
    "stripped": ({**LLAMA_2, **NO_CONTEXT, "user_input": "  Hi \n"}, "Hi [/INST] "),
    "nothing said": ({**CHATML, "user_input": ""}, CHATML_SYSTEM + "assistant\n"),
    "a greeting has no user turn": (
        {**CHATML, "history": GREETED},
        CHATML_SYSTEM
        + "assistant\nHello<|im_end|>\n"
        + "<|im_start|>user\nHi<|im_end|>\n<|im_start|>assistant\n",
    ),
    "placeholders in a message": (
        {**LLAMA_2, **NO_CONTEXT, "user_input": "<|bot|> <|round|>"},
        "<|bot|> <|round|> [/INST] ",
    ),
    "regenerated": (
        {**LLAMA_2, **NO_CONTEXT, "history": BEGUN, "regenerate": True},
        "one [/INST] ",
    ),
    # Mode chat.
    "chat": (NAMED, MET + "Ann: Hi\nBo:"),
    "chat with a history": (
        {**NAMED, "history": PAST},
        MET + "Ann: one\nBo: two\nAnn: three\nBo: four\nAnn: Hi\nBo:",
    ),
    "chat continued": ({**NAMED, **CONTINUED}, MET + "Ann: one\nBo: two"),
    "no mode is chat": ({"context": "Talk.", "your_name": "Sam"}, "Talk.\nSam: Hi\nAI:"),
    "an unknown mode is chat": ({"mode": "cai-chat", "context": "Talk."}, "Talk.\nYou: Hi\nAI:"),
    "no context": ({"mode": "chat", "context": ""}, "\nYou: Hi\nAI:"),
    # Mode chat-instruct.
    "chat-instruct": (
        {**WRAPPED, "instruction_template": "ChatML", "history": BEGUN},
        CHATML_SYSTEM
        + f"<|im_start|>user\nYou are Bo.\n{MET}Ann: one\nBo: two\nAnn: Hi\n<|im_end|>\n"
        + "<|im_start|>assistant\nBo:",
    ),
    "chat-instruct continued": (
        {**WRAPPED, **CONTINUED, "instruction_template": "ChatML"},
        CHATML_SYSTEM
        + f"<|im_start|>user\nYou are Bo.\n{MET}Ann: one\n<|im_end|>\n"
        + "<|im_start|>assistant\nBo:  two ",
    ),
    # The model's own template.
    "own": (
        {**INSTRUCT, "history": PAST},
        "[user:one][assistant:two][user:three][assistant:four][user:Hi][assistant:",
    ),
    "own with a system message": (
        {**INSTRUCT, "context_instruct": "Be brief."},
        "[system:Be brief.][user:Hi][assistant:",
    ),
    "own continued": ({**INSTRUCT, **CONTINUED}, "[user:one][assistant:two]"),
    "own in chat-instruct": (WRAPPED, f"[user:You are Bo.\n{MET}Ann: Hi\n][assistant:Bo:]"),
}


@pytest.mark.parametrize("case", PROMPTS)
def test_prompt_is_that_of_2023(case):
    sent, prompt = PROMPTS[case]
    _, chat = build(**sent)
    assert write_prompt(chat, render) == prompt


@pytest.mark.parametrize(
    ("sent", "stops"),
    [
        (CHATML, ["<|im_end|>\n<|im_start|>assistant", "<|im_end|>\nuser"]),
        (LLAMA_2, [" [/INST]", " </s><s>[INST]"]),
        (ALPACA, ["\n\n### Response:", "\n\n### Instruction:"]),
        ({**ALPACA, "name2_instruct": "### Answer:"}, ["\n\n### Answer:", "\n\n### Instruction:"]),
        (INSTRUCT, []),
        (NAMED, ["\nAnn:", "\nBo:"]),
        (
            {**WRAPPED, "instruction_template": "Llama-v2"},
            [" [/INST]", " </s><s>[INST]", "\nAnn:", "\nBo:"],
        ),
    ],
)
def test_beginning_of_another_turn_ends_the_answer(sent, stops):
    _, chat = build(**sent)
    assert list_stops(chat) == stops


def count(text):
    """A word is a token."""
    return len(text.split())


@pytest.mark.parametrize("mode", [{**NAMED, "context": "a b c"}, {**LLAMA_2, "context_instruct": "a b c "}])
@pytest.mark.parametrize("length", range(7))
def test_oldest_exchanges_are_dropped_until_the_prompt_fits(mode, length):
    past = [[f"user{number}", f"bot{number}"] for number in range(length)]
    _, chat = build(**mode, history={"internal": past, "visible": past})
    for room in range(1, 60):
        prompt = drop_oldest_exchanges(chat, render, count, room)
        kept = sum(said in prompt for said, _ in past)
        assert prompt == write_prompt(chat, render, length - kept)
        assert prompt.startswith("a b c")
        assert count(prompt) < room or kept == 0
        if kept < length:  # none is dropped without need
            assert count(write_prompt(chat, render, length - kept - 1)) >= room


def test_exchange_that_is_lengthened_is_never_dropped():
    _, chat = build(**NAMED, history=PAST, _continue=True)
    assert drop_oldest_exchanges(chat, render, count, 1) == MET + "Ann: three\nBo: four"


@pytest.mark.parametrize(
    ("sent", "param"),
    [
        ({"instruction_template": "Nobody"}, "instruction_template"),
        ({"instruction_template": "../Alpaca"}, "instruction_template"),
        ({"character": "Nobody"}, "character"),
        ({"turn_template": "<|user-message|>"}, "turn_template"),
        ({"turn_template": "<|bot|><|user-message|><|bot-message|>"}, "turn_template"),
    ],
)
@pytest.mark.parametrize("mode", ["instruct", "chat", "chat-instruct"])
def test_unknown_template_is_refused_with_its_field_in_every_mode(sent, param, mode):
    with pytest.raises(ApiError) as refused:
        build(mode=mode, **sent)
    assert (refused.value.status, refused.value.param) == (400, param)
    assert param in refused.value.message


@pytest.mark.parametrize(
    "content",
    ["user: a\nbot: [1]\n", "user: [", "just a text", "", "\xff", "user: 2023-13-45\n", "[" * 2000],
)
def test_damaged_template_is_refused_with_what_it_needs(tmp_path, content):
    (tmp_path / "Mine.yaml").write_bytes(content.encode("latin-1"))
    with pytest.raises(ApiError) as refused:
        load_instruct("Mine", folder=tmp_path)
    assert refused.value.param == "instruction_template"
    for word in ("Mine.yaml", "user", "bot", "turn_template", "context"):
        assert word in refused.value.message


def test_character_gives_name_and_context():
    name, context = load_character("Example")
    _, chat = build(character="Example", your_name="Sam")
    prompt = write_prompt(chat, render)
    assert prompt.startswith(f"{name} looks after")
    assert prompt.endswith(f"Sam: Hi\n{name}:")
    assert "{{" in context
    assert "{{" not in prompt


@pytest.mark.parametrize(
    ("sent", "unused"),
    [
        ({}, []),
        ({"character": None, "instruction_template": "None", "greeting": "", "turn_template": ""}, []),
        (
            {"context_instruct": "Be brief.", "instruction_template": "Alpaca"},
            ["context_instruct", "instruction_template"],
        ),
        (
            {**INSTRUCT, "character": "Example", "context": "x", "name2": "Bo"},
            ["character", "context", "name2"],
        ),
        (
            {**INSTRUCT, "name1_instruct": "Q", "add_bos_token": False},
            ["add_bos_token", "name1_instruct"],
        ),
        ({**ALPACA, "name1_instruct": "Q", "add_bos_token": False}, []),
        ({"mode": "chat-instruct", "chat_instruct_command": "<|prompt|>"}, []),
        (
            {"mode": "story", "greeting": "Hello", "chat-instruct_command": "x"},
            ["chat_instruct_command", "greeting", "mode"],
        ),
        ({"regenerate": True, "_continue": True, "history": PAST}, ["_continue"]),
    ],
)
def test_field_that_means_nothing_in_a_mode_is_named(sent, unused):
    body, chat = build(**sent)
    assert sorted(list_unused_fields(body, chat)) == unused
