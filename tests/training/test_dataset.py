"""Rows to tokens: a row that cannot be trained on is named as the user knows it."""

import json

import pytest

from helpers import training
from helpers.common.errors import UsageError
from helpers.tasks import TaskData
from helpers.tasks.chats import ChatForm
from helpers.tasks.data import load_task_data

USER = {"role": "user", "content": "Where?"}
ANSWER = {"role": "assistant", "content": "Here."}
ALTERNATING = (  # as Llama 2's own template
    "{% for message in messages %}"
    "{% if (message['role'] == 'user') != (loop.index0 % 2 == 0) %}"
    "{{ raise_exception('Roles must alternate') }}{% endif %}"
    "<|im_start|>{{ message['content'] }}<|im_end|>"
    "{% endfor %}"
)


@pytest.fixture
def strict(tiny):
    """A model whose chat template wants user and assistant in turns."""
    tiny.tokenizer.chat_template = ALTERNATING
    return tiny


def ask(number):
    """The chat with this number, which the template takes."""
    return [{"role": "user", "content": f"Question {number}"}, ANSWER]


@pytest.mark.parametrize("place", [0, 13, 19])
def test_row_that_the_chat_template_rejects_is_named_by_its_place_in_the_file(strict, home, settings, place):
    chats = [ask(number) for number in range(20)]
    chats[place] = [USER, USER, ANSWER]
    (home / "chats.jsonl").write_text("\n".join(json.dumps({"messages": chat}) for chat in chats))
    data = load_task_data("chats.jsonl")
    parts = [*data.train, *data.test]
    everything = TaskData(data.template, parts[:10], validation=parts[10:], source=data.source)
    with pytest.raises(UsageError, match=rf"^Row {place + 1} .*chats.jsonl: .*must alternate"):
        training.make_trainer(strict, everything, settings, home / "runs", progress=False)


def test_row_from_memory_that_the_chat_template_rejects_is_named_by_its_number(strict, settings, tmp_path):
    rows = [{"messages": ask(1)}, {"messages": [USER, USER, ANSWER]}]
    with pytest.raises(UsageError, match="^Row 2 of the training rows: "):
        training.make_trainer(strict, TaskData(ChatForm(), rows), settings, tmp_path, progress=False)
    with pytest.raises(UsageError, match="^Row 2: "):
        training.build_dataset(rows, ChatForm(), settings, strict.tokenizer)


@pytest.mark.parametrize(("turns", "learned"), [("all", 2), ("last", 1)])
def test_turns_of_a_chat_are_learned_as_the_settings_say(tiny, settings, turns, learned):
    chat = {"messages": [USER, ANSWER, USER, ANSWER]}
    (example,) = training.build_dataset(
        [chat], ChatForm(), settings.replace({"turns": turns}), tiny.tokenizer
    )
    ids, mask = example["input_ids"], example["completion_mask"]
    text = tiny.tokenizer.decode([token for token, bit in zip(ids, mask, strict=True) if bit])
    assert text == "Here.<|im_end|>" * learned
