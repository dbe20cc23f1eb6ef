"""Validation rows are watched: what is measured, what is kept, when the training ends."""

import dataclasses
import json
import threading

import pytest
import torch
from datasets import Dataset
from transformers import TrainerCallback
from trl import SFTTrainer

from helpers import PROJECT, adapters, loading, training
from helpers.common.command import run_command
from helpers.common.errors import MismatchError
from helpers.loading.tokenizer import make_chat_tokenizer
from helpers.tasks import TaskData
from helpers.tasks.chats import ChatForm
from helpers.training.__main__ import main
from helpers.training.prefix_trainer import SharedPrefixTrainer
from helpers.training.watching import WatchingTrainer, count_evaluations, watch_validation

TEMPLATE = str(PROJECT / "templates" / "college_preferences.yaml")
CHATS = [
    {
        "messages": [
            {"role": "user", "content": f"Say {number}"},
            {"role": "assistant", "content": "no" if number % 3 else "yes"},
            {"role": "user", "content": "Again"},
            {"role": "assistant", "content": "no" if number % 2 else "yes"},
        ]
    }
    for number in range(8)
]


@pytest.fixture
def watched(data):
    """Eight rows to train on and four to watch."""
    return dataclasses.replace(data, train=data.train[:8], validation=data.train[8:])


@pytest.fixture
def contrary(data):
    """Rows to watch that have the training rows' texts and other labels: learning them makes things worse."""
    others = [{**row, "label": (row["label"] + 1) % 4} for row in data.train]
    return dataclasses.replace(data, validation=others)


@pytest.fixture
def train(tiny, home):
    """A function that trains loras/mine on a base that was just loaded: (run.json, the loaded model)."""

    def train(data, settings, name="mine", **options):
        loaded = loading.load_model("tiny", dtype="float32")
        run = training.train_lora(loaded, data, settings, home / "loras" / name, progress=False, **options)
        return run, loaded

    return train


@pytest.fixture
def measure(tiny, home):
    """A function that gives eval_loss and eval_exact of the plain base on validation rows."""

    def measure(data, settings, model_type="llama", **options):
        loaded = loading.load_model("tiny", dtype="float32")
        loaded.model.config.model_type = model_type
        trainer = training.make_trainer(loaded, data, settings, home / "runs", False, **options)
        found = trainer.evaluate()
        return found["eval_loss"], found["eval_exact"]

    return measure


class Watch(TrainerCallback):
    """Notes which checkpoints there are after each save."""

    def __init__(self, folder):
        self.folder = folder
        self.seen = []

    def on_save(self, *_, **__):
        self.seen.append(sorted(path.name for path in self.folder.glob("checkpoint-*")))


# What is measured


@pytest.mark.parametrize("kind", ["labels", "chats"])
def test_loss_is_that_of_the_stock_trainer_with_all_rows_in_one_batch(
    measure, watched, settings, tmp_path, kind
):
    data = watched if kind == "labels" else TaskData(ChatForm(), CHATS, validation=CHATS)
    base = loading.load_model("tiny", dtype="float32")
    some = training.build_dataset(data.validation, data.template, settings, base.tokenizer)
    config = training.make_sft_config(base.model, settings, tmp_path, progress=False)
    config.per_device_eval_batch_size = len(some)
    stock = SFTTrainer(
        base.model, config, train_dataset=some, eval_dataset=some, processing_class=base.tokenizer
    )
    wanted = stock.evaluate()["eval_loss"]
    assert measure(data, settings)[0] == pytest.approx(wanted, rel=1e-5)
    assert measure(data, settings, prefix_sharing="off")[0] == pytest.approx(wanted, rel=1e-5)
    with pytest.warns(UserWarning, match="'olmo'"):
        assert measure(data, settings, "olmo")[0] == pytest.approx(wanted, rel=1e-5)


def write_greedily(model, ids, count=4):
    """What greedy decoding writes after these tokens."""
    prompt = torch.tensor([ids])
    written = model.generate(
        prompt, attention_mask=torch.ones_like(prompt), do_sample=False, max_new_tokens=count
    )
    return written[0, len(ids) :].tolist()


def make_chat(model, tokenizer, number):
    """A chat of two turns: its tokens, and a mask of what greedy decoding wrote in each turn."""
    ids = tokenizer.encode(f"Question {number}: ")
    mask = [0] * len(ids)
    for text in (" And then? ", ""):
        written = write_greedily(model, ids)
        more = tokenizer.encode(text)
        ids += written + more
        mask += [1] * len(written) + [0] * len(more)
    return ids, mask


def change_token(ids, mask, number):
    """The same with another token at the learned place with this number."""
    place = [place for place, learned in enumerate(mask) if learned][number]
    return [*ids[:place], (ids[place] + 1) % 250, *ids[place + 1 :]]


@pytest.mark.parametrize("trainer_class", [WatchingTrainer, SharedPrefixTrainer])
def test_exact_is_the_share_of_rows_that_greedy_decoding_writes_word_for_word(
    tiny, settings, tmp_path, trainer_class
):
    chats = [make_chat(tiny.model, tiny.tokenizer, number) for number in range(6)]
    changed = {1: 0, 2: 3, 4: -1}  # of these rows, which learned token is another
    columns = [
        {
            "input_ids": change_token(ids, mask, changed[row]) if row in changed else ids,
            "completion_mask": mask,
        }
        for row, (ids, mask) in enumerate(chats)
    ]
    rows = Dataset.from_list([{**one, "row": row} for row, one in enumerate(columns)])
    twice = Dataset.from_list([{**columns[0], "row": 0}, {**columns[1], "row": 0}, {**columns[3], "row": 1}])
    config = training.make_sft_config(tiny.model, settings, tmp_path, progress=False)
    watch_validation(config)
    for examples, share in ((rows, 3 / 6), (twice, 1 / 2)):
        trainer = trainer_class(
            tiny.model, config, train_dataset=rows, eval_dataset=examples, processing_class=tiny.tokenizer
        )
        trainer.watch(checkpoint_steps=0)
        assert trainer.evaluate()["eval_exact"] == share


def test_validation_rows_are_all_watched_whatever_max_rows_is(train, watched, settings):
    run, _ = train(watched, settings.replace({"max_rows": 4, "epochs": 1}))
    assert (run["rows"], run["validation"]["rows"]) == (4, 4)


# When


@pytest.mark.parametrize(
    ("epochs", "train_rows", "validation_rows", "wanted"),
    [(1, 1000, 20, 10), (5, 1000, 20, 2), (20, 1000, 20, 1), (1, 1000, 100, 2), (1, 100, 100, 1)],
)
def test_a_training_has_ten_evaluations_unless_they_cost_a_tenth_of_it(
    epochs, train_rows, validation_rows, wanted
):
    assert count_evaluations(epochs, train_rows, validation_rows) == wanted


@pytest.mark.parametrize(("epochs", "steps"), [(1, [3, 6]), (1.5, [3, 6, 9]), (2, [3, 6, 9, 12])])
def test_epochs_are_evaluated_in_equal_parts_and_at_their_end(train, data, settings, epochs, steps):
    some = dataclasses.replace(data, validation=data.train[:1])
    run, _ = train(some, settings.replace({"epochs": epochs, "learning_rate": 1e-4}))
    assert run["validation"]["steps"] == steps


# What is kept


def test_training_ends_early_and_the_best_state_is_kept(train, contrary, settings, measure, home):
    settings = settings.replace({"epochs": 30, "checkpoint_steps": 0})
    watch = Watch(home / "runs" / "checkpoints" / "mine")
    run, loaded = train(contrary, settings, callbacks=[watch])
    found = run["validation"]
    assert found["stopped_early"] and run["steps"] < run["planned_steps"]
    best = found["loss"].index(min(found["loss"]))
    assert found["best_step"] == found["steps"][best]
    assert len(found["steps"]) == best + 4  # three evaluations without a lower loss
    assert watch.seen and all(len(names) <= 1 for names in watch.seen)
    assert not watch.folder.exists()
    assert run["trainable_parameters"] > 0


def test_lora_that_is_saved_has_the_best_validation_loss(train, contrary, settings, home):
    run, loaded = train(contrary, settings.replace({"epochs": 30}))
    again = loading.load_model("tiny", dtype="float32")
    adapters.attach_adapter(again, "mine")
    chat = make_chat_tokenizer(again.tokenizer)
    total, tokens = 0.0, 0
    for row in contrary.validation:
        prompt, (answer,) = chat.tokenize_answers(
            contrary.template.build_messages(row), [contrary.template.build_answer(row)]
        )
        with torch.no_grad():
            logits = again.model(torch.tensor([prompt + answer])).logits[0, len(prompt) - 1 : -1]
        total -= logits.log_softmax(-1).gather(1, torch.tensor(answer)[:, None]).sum().item()
        tokens += len(answer)
    assert total / tokens == pytest.approx(min(run["validation"]["loss"]), abs=1e-3)


def test_best_and_last_two_checkpoints_are_kept_at_most(train, contrary, settings, home):
    watch = Watch(home / "runs" / "checkpoints" / "mine")
    train(contrary, settings.replace({"epochs": 30, "checkpoint_steps": 4}), callbacks=[watch])
    assert max(map(len, watch.seen)) == 3
    assert not watch.folder.exists()


class Interruption(Exception):
    """Ends a training in these tests, as a power cut would."""


class Cut(TrainerCallback):
    """Interrupts after the step `last`."""

    def __init__(self, last):
        self.last = last

    def on_step_begin(self, args, state, control, **_):
        if state.global_step == self.last:
            raise Interruption


def test_interrupted_training_continues_with_the_same_validation(train, contrary, settings):
    settings = settings.replace({"epochs": 30, "checkpoint_steps": 4})
    whole, _ = train(contrary, settings, "whole")
    with pytest.raises(Interruption):
        train(contrary, settings, callbacks=[Cut(whole["steps"] - 2)])
    resumed, _ = train(contrary, settings, resume=True)
    for key in ("loss", "exact"):
        assert resumed["validation"][key] == pytest.approx(whole["validation"][key], rel=1e-4, abs=2e-4)
    for key in ("steps", "best_step", "stopped_early"):
        assert resumed["validation"][key] == whole["validation"][key]


def test_stop_button_leaves_the_best_state_and_is_no_early_stop(train, watched, settings):
    asked = threading.Event()
    asked.set()
    run, _ = train(watched, settings, callbacks=[training.StopOnRequest(asked)])
    assert run["steps"] == 1
    assert run["validation"]["steps"] == [1] and run["validation"]["best_step"] == 1
    assert not run["validation"]["stopped_early"]


def test_other_validation_rows_do_not_continue_an_interrupted_training(train, watched, settings, tiny):
    settings = settings.replace({"checkpoint_steps": 2})
    with pytest.raises(Interruption):
        train(watched, settings, callbacks=[Cut(3)])
    with pytest.raises(MismatchError, match="other validation rows"):
        train(dataclasses.replace(watched, validation=watched.validation[:2]), settings, resume=True)


def test_training_without_validation_rows_records_none(train, data, settings):
    run, _ = train(data, settings.replace({"epochs": 0.5}))
    assert "validation" not in run


# The command


def test_command_trains_on_chats_without_a_template_and_says_what_was_kept(tiny, home, capsys):
    (home / "settings.yaml").write_text("epochs: 1\nbatch_size: 4\nlora_r: 4\n")
    (home / "chats.jsonl").write_text("\n".join(json.dumps(chat) for chat in CHATS))
    given = ["--model", "tiny", "--data", "chats.jsonl", "--settings", "settings.yaml"]
    sizes = ["--test-size", "0.25", "--validation-size", "0.25"]
    assert run_command(main, [*given, *sizes, "--output", "loras/mine"]) == 0
    line = capsys.readouterr().out.splitlines()[-1]
    assert line.startswith("2 validation rows") and "word for word" in line


@pytest.mark.parametrize("size", ["-0.1", "0.9", "nan"])
def test_impossible_validation_size_is_refused(tiny, home, csv, capsys, size):
    given = ["--model", "tiny", "--data", csv, "--template", TEMPLATE, "--output", "loras/mine"]
    assert run_command(main, [*given, "--test-size", "0.4", "--validation-size", size]) == 2
    assert "--validation-size" in capsys.readouterr().err.splitlines()[-1]
