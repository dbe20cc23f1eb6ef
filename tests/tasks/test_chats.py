"""Chats in the forms in which they are published, as messages."""

import json

import pytest

from helpers import tasks
from helpers.common.errors import DamagedError, UnsupportedError, UsageError
from helpers.tasks.chats import ChatForm

QUESTION, ANSWER = {"role": "user", "content": "Q"}, {"role": "assistant", "content": "A"}


def write(folder, *rows):
    path = folder / "chats.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


def read(folder, *rows):
    return [row["messages"] for row in tasks.load_rows(write(folder, *rows), ChatForm())]


@pytest.mark.parametrize(
    "row",
    [
        {"messages": [QUESTION, ANSWER]},
        {"messages": json.dumps([QUESTION, ANSWER])},
        {"messages": [QUESTION, ANSWER, QUESTION]},
        {"messages": [{"role": "user", "content": [{"type": "text", "text": "Q"}]}, ANSWER]},
        {"conversations": [{"from": "human", "value": "Q"}, {"from": "gpt", "value": "A"}]},
        {"prompt": "Q", "completion": "A"},
        {"prompt": [QUESTION], "completion": [ANSWER]},
        {"instruction": "Q", "input": "", "output": "A"},
        {"instruction": "Q", "output": "A"},
        {"text": "### Human: Q### Assistant: A"},
        {"message_tree_id": "1", "prompt": {"role": "prompter", "text": "Q", "replies": [
            {"role": "assistant", "text": "B", "rank": 1}, {"role": "assistant", "text": "A", "rank": 0}]}},
    ],
)  # fmt: skip
def test_published_forms_of_chats_are_read(tmp_path, row):
    assert read(tmp_path, row) == [[QUESTION, ANSWER]]


@pytest.mark.parametrize(
    "cell", ["[" * 20_000, '[{"role": "user", "content": "\\ud800"}]'], ids=["deep", "half"]
)
def test_odd_json_in_a_cell_is_refused_with_its_row(tmp_path, cell):
    with pytest.raises(DamagedError, match="Row 1"):
        read(tmp_path, {"messages": cell})


def test_rank_beyond_all_numbers_is_the_last(tmp_path):
    replies = [
        {"role": "assistant", "text": "B", "rank": 10**400},
        {"role": "assistant", "text": "A", "rank": 1},
    ]
    row = {"message_tree_id": "1", "prompt": {"role": "prompter", "text": "Q", "replies": replies}}
    assert read(tmp_path, row) == [[QUESTION, ANSWER]]


def test_input_of_alpaca_stands_below_the_instruction(tmp_path):
    row = {"instruction": "Translate.", "input": "Hallo", "output": "Hello", "system": "Be brief."}
    assert read(tmp_path, row) == [
        [
            {"role": "system", "content": "Be brief."},
            {"role": "user", "content": "Translate.\n\nHallo"},
            {"role": "assistant", "content": "Hello"},
        ]
    ]


def test_rows_of_a_message_tree_become_its_best_thread(tmp_path):
    def message(name, parent, role, text, rank=None):
        return {"message_id": name, "parent_id": parent, "role": role, "text": text, "rank": rank}

    rows = [
        message("a", None, "prompter", "Q"),
        message("b", "a", "assistant", "worse", 1),
        message("c", "a", "assistant", "A", 0),
        message("d", "c", "prompter", "Thanks"),
        message("e", None, "prompter", "no answer"),
    ]
    assert read(tmp_path, *rows) == [[QUESTION, ANSWER]]


@pytest.mark.parametrize(
    ("messages", "kind", "named"),
    [
        ([QUESTION], DamagedError, "assistant"),
        ([QUESTION, {"role": "assistant", "content": " "}], DamagedError, "Message 2"),
        ([QUESTION, {"role": "tool", "content": "1"}, ANSWER], UnsupportedError, "Message 2"),
        ([QUESTION, {"role": "assistant", "content": None, "tool_calls": [{}]}], UnsupportedError, "tool"),
        ([{"role": "user", "content": [{"type": "image_url"}]}, ANSWER], UnsupportedError, "Message 1"),
        (["hello", ANSWER], DamagedError, "Message 1"),
        ("no list", DamagedError, "JSON"),
        ([QUESTION, {**ANSWER, "weight": 0}], DamagedError, "assistant"),
    ],
)
def test_chat_that_cannot_be_learned_is_refused_with_its_row(tmp_path, messages, kind, named):
    with pytest.raises(kind, match="Row 2 ") as caught:
        read(tmp_path, {"messages": [QUESTION, ANSWER]}, {"messages": messages})
    assert named in str(caught.value)


def test_all_turns_are_learned_or_the_last_one_but_none_of_weight_0():
    rows = {"messages": [QUESTION, {**ANSWER, "weight": 0}, QUESTION, ANSWER, QUESTION, ANSWER]}
    row = ChatForm().make_row(rows)
    assert ChatForm().list_learned(row, "all") == [3, 5]
    assert ChatForm().list_learned(row, "last") == [5]


def test_chats_need_no_template_and_other_tables_do(tmp_path):
    rows = [{"messages": [{**QUESTION, "content": f"Q{number}"}, ANSWER]} for number in range(10)]
    data = tasks.load_task_data(write(tmp_path, *rows))
    assert (len(data.train), len(data.test), data.template_source) == (8, 2, None)
    with pytest.raises(UsageError, match="suggest"):
        tasks.load_task_data(write(tmp_path, {"question": "Q", "answer": "A"}))


def test_first_message_is_not_learned_if_nobody_asked_before_it():
    row = ChatForm().make_row({"messages": [ANSWER, QUESTION, ANSWER]})
    assert ChatForm().list_learned(row) == [2]
    with pytest.raises(DamagedError, match="assistant"):
        ChatForm().make_row({"messages": [ANSWER]})
