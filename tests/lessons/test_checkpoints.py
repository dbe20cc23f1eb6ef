"""The lessons' checkpoints, each on an artefact that is whole and on one that is broken: green and red."""

import random

import pytest
from safetensors.torch import load_file, save_file
from support.tiny import CHAT_TEMPLATE, make_tiny_adapter, make_tiny_model

from helpers import PROJECT, adapters, loading, tasks, training
from helpers.tasks import TaskData
from helpers.tutorial.checks import confirm_adapter, confirm_endings, confirm_split, confirm_weights
from helpers.weights import ModelFolder

USED = [
    ("01_weights", "checks.confirm_weights(model)"),
    ("04_training", "checks.confirm_split(train, test)"),
    ("04_training", 'checks.confirm_endings(batch["labels"], end)'),
    ("05_lora_loading", "checks.confirm_adapter(findings)"),
]


@pytest.mark.parametrize(("lesson", "line"), USED)
def test_lesson_uses_the_checkpoint(lesson, line):
    assert line in (PROJECT / "notebooks" / "text" / f"{lesson}.py").read_text(encoding="utf-8").splitlines()


@pytest.fixture
def folder(home):
    """A model folder as fetching leaves it, with its weights.json."""
    made = ModelFolder(make_tiny_model(home / "models" / "tiny"))
    made.write_record(source="here")
    return made


def read_lines(capsys):
    return capsys.readouterr().out.splitlines()


def cut_short(content):
    return content[:-10]


def change_a_bit(content):
    return content[:-1] + bytes([content[-1] ^ 1])


def leave_the_pointer(content):
    """What git leaves in place of a large file where git-lfs is not installed."""
    return f"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize {len(content)}\n".encode()


@pytest.mark.parametrize(
    ("change", "words"),
    [(cut_short, "is cut short"), (change_a_bit, "was changed"), (leave_the_pointer, "is only a pointer")],
)
def test_weights_turn_red_when_they_are_not_those_that_were_fetched(folder, capsys, change, words):
    confirm_weights(folder)
    path = folder.path / "model.safetensors"
    path.write_bytes(change(path.read_bytes()))
    confirm_weights(folder)
    whole, broken = read_lines(capsys)
    assert (
        whole.startswith("✅")
        and broken.startswith("❌ not yet")
        and f"model.safetensors {words}" in broken
        and "fetch again" in broken
    )


def test_split_turns_red_when_rows_are_drawn_at_random(template, capsys):
    rows = tasks.load_rows("data/college_preferences/dataset.csv", template)
    confirm_split(*tasks.split_rows(rows))
    shuffled = random.Random(0).sample(rows, len(rows))
    confirm_split(shuffled[200:], shuffled[:200])
    honest, leaking = read_lines(capsys)
    assert honest.startswith("✅") and leaking.startswith("❌") and "dataset.split_rows" in leaking


def test_split_turns_red_on_one_comment_in_other_letters(rows, capsys):
    confirm_split(rows[:6], [{**rows[0], "text": rows[0]["text"].upper() + "!"}])
    assert read_lines(capsys)[0].startswith("❌")


@pytest.mark.parametrize(
    ("chat_template", "sign"),
    [(CHAT_TEMPLATE, "✅"), (CHAT_TEMPLATE.replace("<|im_end|>", ""), "❌")],
    ids=["with eos", "without eos"],
)
def test_endings_turn_red_with_a_chat_template_without_eos(
    tiny, rows, template, tmp_path, capsys, chat_template, sign
):
    chosen = training.TrainingSettings().replace({"lora_r": 4, "batch_size": 4})
    tiny.tokenizer.chat_template = chat_template
    trainer = training.make_trainer(
        tiny, TaskData(template, rows), chosen, tmp_path, progress=False, prefix_sharing="off"
    )
    batches = list(trainer.get_train_dataloader())
    capsys.readouterr()
    for batch in batches:
        confirm_endings(batch["labels"], tiny.tokenizer.eos_token_id)
    assert [line[0] for line in read_lines(capsys)] == [sign] * 3


def test_endings_turn_red_when_padding_is_known_by_its_token(tiny, rows, template, tmp_path, capsys):
    chosen, end = (
        training.TrainingSettings().replace({"lora_r": 4, "batch_size": 4}),
        tiny.tokenizer.eos_token_id,
    )
    trainer = training.make_trainer(
        tiny, TaskData(template, rows), chosen, tmp_path, progress=False, prefix_sharing="off"
    )
    batch = next(iter(trainer.get_train_dataloader()))
    confirm_endings(batch["labels"].masked_fill(batch["input_ids"] == end, -100), end)
    assert read_lines(capsys)[0].startswith("❌")


def test_adapter_turns_red_when_its_matrices_are_zeros(folder, home, capsys):
    path = make_tiny_adapter(home / "loras" / "mine", folder.path) / "adapter_model.safetensors"
    for factor in (1, 0):
        save_file(
            {name: factor * tensor for name, tensor in load_file(path).items()},
            path,
            metadata={"format": "pt"},
        )
        loaded = adapters.attach_adapter(loading.load_model("tiny", dtype="float32"), "mine")
        confirm_adapter(adapters.prove(loaded, "mine"))
    lines = read_lines(capsys)
    whole, zeroed = lines[:6], lines[6:]
    assert all(line.startswith("✅") for line in whole)
    red = [line for line in zeroed if line.startswith("❌ not yet")]
    assert ["not zero" in red[0], "changes the model" in red[1], len(red)] == [True, True, 2]
