"""Free answers and chats, packed, give the loss and gradients of TRL's trainer on the same rows."""

import pytest
import torch
from support.gradients import assert_same
from support.tiny import make_tiny_model

from helpers.tasks.chats import ChatForm
from helpers.tasks.template import Template
from helpers.training.prefix_trainer import PackingCollator


@pytest.fixture(autouse=True)
def many_branches(monkeypatch):
    monkeypatch.setattr(
        "helpers.training.token_tree.BRANCH_TOKENS", 40
    )  # so that four rows have more than one


ANSWERS = Template("answers", "{who} asks. Answer in one sentence.", "{question}", answer="{answer}")


def make_answers(who):
    """Eight rows with answers of different lengths; `who` begins their prompts."""
    return [
        {
            "who": who(number),
            "question": f"What is {number}?",
            "answer": "It is " + "long " * (7 * number % 11),
        }
        for number in range(8)
    ]


def make_chat(turns, begin=""):
    """A chat with this many turns of different lengths."""
    messages = []
    for turn in range(turns):
        messages.append({"role": "user", "content": f"{begin}Question {turn}"})
        messages.append({"role": "assistant", "content": f"Answer {turn} " * (turn + 1)})
        begin = ""
    return {"messages": messages}


@pytest.mark.parametrize(
    "who",
    [lambda number: "Somebody", lambda number: f"{number} people"],
    ids=["shared instruction", "own instructions"],
)
def test_free_answers_of_different_lengths(home, tmp_path, who):
    make_tiny_model(home / "models" / "tiny")
    assert_same("tiny", make_answers(who), ANSWERS, tmp_path, accumulation=2)


def test_chats_of_several_turns_of_which_one_begins_another(home, tmp_path):
    make_tiny_model(home / "models" / "tiny")
    rows = [make_chat(1), make_chat(3), make_chat(2), make_chat(2, "Hello. ")]
    assert_same("tiny", rows, ChatForm(), tmp_path)


def test_chats_that_begin_alike_and_learn_other_turns(home, tmp_path):
    make_tiny_model(home / "models" / "tiny")
    rows = [make_chat(3), {**make_chat(3), "skipped": [1]}, {**make_chat(2), "skipped": [1]}, make_chat(1)]
    assert_same("tiny", rows, ChatForm(), tmp_path)


def test_chat_that_begins_another_is_computed_once():
    long = {"input_ids": [1, 2, 3, 4, 5], "labels": [-100, 2, -100, -100, 5]}
    short = {"input_ids": [1, 2, 3], "labels": [-100, 2, -100]}
    batch = PackingCollator()([short, long])
    assert batch["input_ids"].tolist() == [[1, 2, 3, 4, 5]]
    assert batch["places"].tolist() == [0, 0, 3] and batch["targets"].tolist() == [2, 2, 5]
    assert torch.equal(batch["positions"], torch.arange(5))
