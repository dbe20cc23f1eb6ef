"""The prompts of 2023 as a table: a request's fields in, the prompt and the stop strings out. No engine, no model."""

import pytest

from helpers.server.errors import ApiError
from helpers.server.raw_answers import build_chat, list_unused_fields
from helpers.server.raw_bodies import ChatBody
from helpers.server.raw_histories import plan_exchange
from helpers.server.raw_prompts import drop_oldest_exchanges, list_stops, write_prompt
from helpers.server.raw_templates import load_character, load_instruct

ALPACA = "Below is an instruction that describes a task. Write a response that appropriately completes the request.\n\n"
LLAMA = "[INST] <<SYS>>\nAnswer the questions.\n<</SYS>>\n\n"
SYSTEM = "<|im_start|>system\n<|im_end|>\n"
PAST = {"internal": [["one ", " two"], ["three", "four"]], "visible": [["x", "y"], ["x", "y"]]}
BEGUN = {"internal": [["one", " two "]], "visible": [["one", " two "]]}
NAMED = {
    "mode": "chat",
    "name1": "Ann",
    "name2": "Bo",
    "context": " {{char}} and <BOT> meet <USER> and {{user}}.\n",
}
MET = "Bo and Bo meet Ann and Ann.\n"
WRAPPED = {**NAMED, "mode": "chat-instruct", "chat_instruct_command": "You are <|character|>.\n<|prompt|>"}


def render(messages, continue_last):
    """Stands for a model's own template."""
    return "".join(f"[{message['role']}:{message['content']}]" for message in messages) + (
        "" if continue_last else "[assistant:"
    )


def build(**sent):
    body = ChatBody.model_validate({"user_input": "Hi", **sent})
    return body, build_chat(body, plan_exchange(body.history, body.user_input, body.regenerate, body.continue_))


PROMPTS = {
    # the templates: a first turn, a history, a reply to lengthen
    "ChatML": ({"instruction_template": "ChatML"}, SYSTEM + "<|im_start|>user\nHi<|im_end|>\n<|im_start|>assistant\n"),
    "ChatML with a history": (
        {"instruction_template": "ChatML", "history": PAST},
        SYSTEM + "<|im_start|>user\none<|im_end|>\n<|im_start|>assistant\ntwo<|im_end|>\n<|im_start|>user\nthree<|im_end|>\n"
        "<|im_start|>assistant\nfour<|im_end|>\n<|im_start|>user\nHi<|im_end|>\n<|im_start|>assistant\n",
    ),
    "ChatML continued": (
        {"instruction_template": "ChatML", "history": BEGUN, "_continue": True},
        SYSTEM + "<|im_start|>user\none<|im_end|>\n<|im_start|>assistant\ntwo",
    ),
    "Llama-v2": ({"instruction_template": "Llama-v2"}, LLAMA + "Hi [/INST] "),
    "Llama-v2 with a history": (
        {"instruction_template": "Llama-v2", "history": PAST},
        LLAMA + "one [/INST] two </s><s>[INST] three [/INST] four </s><s>[INST] Hi [/INST] ",
    ),
    "Llama-v2 continued": ({"instruction_template": "Llama-v2", "history": BEGUN, "_continue": True}, LLAMA + "one [/INST] two"),
    "Llama-v2 without its opening": ({"instruction_template": "Llama-v2", "context_instruct": "Be brief. "}, "Be brief. Hi [/INST] "),
    "Alpaca": ({"instruction_template": "Alpaca"}, ALPACA + "### Instruction:\nHi\n\n### Response:\n"),
    "Alpaca with a history": (
        {"instruction_template": "Alpaca", "history": BEGUN},
        ALPACA + "### Instruction:\none\n\n### Response:\ntwo\n\n### Instruction:\nHi\n\n### Response:\n",
    ),
    "None is Vicuna": ({"instruction_template": "None", "context_instruct": ""}, "USER: Hi\nASSISTANT:"),
    # other names, other turns
    "names": (
        {"instruction_template": "ChatML", "name1_instruct": "human ", "name2_instruct": "gpt", "context_instruct": ""},
        "<|im_start|>human\nHi<|im_end|>\n<|im_start|>gpt\n",
    ),
    "turns with newlines written out": (
        {"turn_template": "<|user|><|user-message|>\\n<|bot|><|bot-message|>\\n", "name1_instruct": "Q: ", "name2_instruct": "A: ",
         "context_instruct": ""},
        "Q:Hi\nA:",
    ),
    "a space before the reply goes": (
        {"turn_template": "<|user|> <|user-message|>\n<|bot|> <|bot-message|>\n", "name1_instruct": "Q:", "name2_instruct": "A:",
         "context_instruct": "Short!\n"},
        "Short!\nQ: Hi\nA:",
    ),
    "and stays before a reply to lengthen": (
        {"turn_template": "<|user|> <|user-message|>\n<|bot|> <|bot-message|>\n", "name1_instruct": "Q:", "name2_instruct": "A:",
         "context_instruct": "", "history": BEGUN, "_continue": True},
        "Q: one\nA: two",
    ),
    "rounds": (
        {"turn_template": "<|round|> <|user|><|user-message|>\n<|bot|><|bot-message|>\n", "name1_instruct": "Q:", "name2_instruct": "A:",
         "context_instruct": "", "history": PAST},
        "0 Q:one\nA:two\n1 Q:three\nA:four\n2 Q:Hi\nA:",
    ),
    "turns alone change Alpaca's": (
        {"turn_template": "<|user|> <|user-message|>\n<|bot|> <|bot-message|>\n"}, ALPACA + "### Instruction: Hi\n### Response:",
    ),
    # what is said
    "stripped": ({"instruction_template": "Llama-v2", "context_instruct": "", "user_input": "  Hi \n"}, "Hi [/INST] "),
    "nothing said": ({"instruction_template": "ChatML", "user_input": ""}, SYSTEM + "assistant\n"),
    "a greeting has no user turn": (
        {"instruction_template": "ChatML", "history": {"internal": [["<|BEGIN-VISIBLE-CHAT|>", "Hello"]], "visible": [["", "Hello"]]}},
        SYSTEM + "assistant\nHello<|im_end|>\n<|im_start|>user\nHi<|im_end|>\n<|im_start|>assistant\n",
    ),
    "placeholders that somebody says": (
        {"instruction_template": "Llama-v2", "context_instruct": "", "user_input": "<|bot|> <|round|>"}, "<|bot|> <|round|> [/INST] ",
    ),
    "anew": ({"instruction_template": "Llama-v2", "context_instruct": "", "history": BEGUN, "regenerate": True}, "one [/INST] "),
    # chat
    "chat": (NAMED, MET + "Ann: Hi\nBo:"),
    "chat with a history": ({**NAMED, "history": PAST}, MET + "Ann: one\nBo: two\nAnn: three\nBo: four\nAnn: Hi\nBo:"),
    "chat continued": ({**NAMED, "history": BEGUN, "_continue": True}, MET + "Ann: one\nBo: two"),
    "no mode is chat": ({"context": "Talk.", "your_name": "Sam"}, "Talk.\nSam: Hi\nAI:"),
    "an unknown mode is chat": ({"mode": "cai-chat", "context": "Talk."}, "Talk.\nYou: Hi\nAI:"),
    "no context": ({"mode": "chat", "context": ""}, "\nYou: Hi\nAI:"),
    "chat-instruct": (
        {**WRAPPED, "instruction_template": "ChatML", "history": BEGUN},
        f"{SYSTEM}<|im_start|>user\nYou are Bo.\n{MET}Ann: one\nBo: two\nAnn: Hi\n<|im_end|>\n<|im_start|>assistant\nBo:",
    ),
    "chat-instruct continued": (
        {**WRAPPED, "instruction_template": "ChatML", "history": BEGUN, "_continue": True},
        f"{SYSTEM}<|im_start|>user\nYou are Bo.\n{MET}Ann: one\n<|im_end|>\n<|im_start|>assistant\nBo:  two ",
    ),
    # the model's own template
    "own": ({"mode": "instruct", "history": PAST}, "[user:one][assistant:two][user:three][assistant:four][user:Hi][assistant:"),
    "own with a system message": ({"mode": "instruct", "context_instruct": "Be brief."}, "[system:Be brief.][user:Hi][assistant:"),
    "own continued": ({"mode": "instruct", "history": BEGUN, "_continue": True}, "[user:one][assistant:two]"),
    "own in chat-instruct": (WRAPPED, f"[user:You are Bo.\n{MET}Ann: Hi\n][assistant:Bo:"),
}  # fmt: skip


@pytest.mark.parametrize("case", PROMPTS)
def test_prompt_is_that_of_2023(case):
    sent, prompt = PROMPTS[case]
    mode = {} if "context" in sent or "mode" in sent else {"mode": "instruct"}
    assert write_prompt(build(**mode, **sent)[1], render) == prompt


@pytest.mark.parametrize(
    ("sent", "stops"),
    [
        ({"instruction_template": "ChatML"}, ["<|im_end|>\n<|im_start|>assistant", "<|im_end|>\nuser"]),
        ({"instruction_template": "Llama-v2"}, [" [/INST]", " </s><s>[INST]"]),
        ({"instruction_template": "Alpaca"}, ["\n\n### Response:", "\n\n### Instruction:"]),
        (
            {"instruction_template": "Alpaca", "name2_instruct": "### Answer:"},
            ["\n\n### Answer:", "\n\n### Instruction:"],
        ),
        ({}, []),
        (NAMED, ["\nAnn:", "\nBo:"]),
        (
            {**NAMED, "mode": "chat-instruct", "instruction_template": "Llama-v2"},
            [" [/INST]", " </s><s>[INST]", "\nAnn:", "\nBo:"],
        ),
    ],
)
def test_another_turn_ends_the_answer(sent, stops):
    assert list_stops(build(**{"mode": "instruct", **sent})[1]) == stops


def count(text):
    return len(text.split())


@pytest.mark.parametrize(
    "mode",
    [
        {**NAMED, "context": "a b c"},
        {"mode": "instruct", "instruction_template": "Llama-v2", "context_instruct": "a b c "},
    ],
)
@pytest.mark.parametrize("rows", range(7))
def test_oldest_rows_are_dropped_until_the_prompt_fits(mode, rows):
    history = [[f"user{number}", f"bot{number}"] for number in range(rows)]
    chat = build(**mode, history={"internal": history, "visible": history})[1]
    for room in range(1, 60):
        prompt = drop_oldest_exchanges(chat, render, count, room)
        kept = sum(f"user{number}" in prompt for number in range(rows))
        assert prompt == write_prompt(chat, render, rows - kept) and prompt.startswith("a b c")
        assert count(prompt) < room or not kept
        assert (
            kept == rows or count(write_prompt(chat, render, rows - kept - 1)) >= room
        )  # none is dropped without need


def test_row_that_is_lengthened_is_never_dropped():
    chat = build(**NAMED, history=PAST, _continue=True)[1]
    assert drop_oldest_exchanges(chat, render, count, 1) == MET + "Ann: three\nBo: four"


@pytest.mark.parametrize(
    ("sent", "param"),
    [({"instruction_template": "Nobody"}, "instruction_template"), ({"instruction_template": "../Alpaca"}, "instruction_template"),
     ({"character": "Nobody"}, "character"), ({"turn_template": "<|user-message|>"}, "turn_template"),
     ({"turn_template": "<|bot|><|user-message|><|bot-message|>"}, "turn_template")],
)  # fmt: skip
@pytest.mark.parametrize("mode", ["instruct", "chat", "chat-instruct"])
def test_what_is_not_there_is_refused_with_its_field_in_every_mode(sent, param, mode):
    with pytest.raises(ApiError) as refused:
        build(mode=mode, **sent)
    assert (refused.value.status, refused.value.param) == (400, param) and param in refused.value.message


def test_damaged_template_is_refused_with_what_it_lacks(tmp_path):
    (tmp_path / "Mine.yaml").write_text("user: a\nbot: [1]\n", encoding="utf-8")
    with pytest.raises(
        ApiError, match="Mine.yaml is damaged; it needs the texts user, bot, turn_template, context"
    ):
        load_instruct("Mine", folder=tmp_path)


def test_character_gives_name_and_context():
    name, context = load_character("Example")
    prompt = write_prompt(build(character="Example", your_name="Sam")[1], render)
    assert (
        prompt.startswith(f"{name} looks after")
        and prompt.endswith(f"Sam: Hi\n{name}:")
        and "{{" in context
        and "{{" not in prompt
    )


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
            {"mode": "instruct", "character": "Example", "context": "x", "name2": "Bo"},
            ["character", "context", "name2"],
        ),
        (
            {"mode": "instruct", "name1_instruct": "Q", "add_bos_token": False},
            ["add_bos_token", "name1_instruct"],
        ),
        (
            {
                "mode": "instruct",
                "instruction_template": "Alpaca",
                "name1_instruct": "Q",
                "add_bos_token": False,
            },
            [],
        ),
        ({"mode": "chat-instruct", "chat_instruct_command": "<|prompt|>"}, []),
        (
            {"mode": "story", "greeting": "Hello", "chat-instruct_command": "x"},
            ["chat_instruct_command", "greeting", "mode"],
        ),
        ({"regenerate": True, "_continue": True, "history": PAST}, ["_continue"]),
    ],
)
def test_what_means_nothing_in_a_mode_is_named(sent, unused):
    assert sorted(list_unused_fields(*build(**sent))) == unused
