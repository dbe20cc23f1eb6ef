"""The lessons' checkpoints pass on an artefact that is whole, and fail on one that is broken."""

import random

import pytest
from safetensors.torch import load_file, save_file
from support.lessons import NOTEBOOKS, name_pair
from support.tiny import CHAT_TEMPLATE, make_tiny_adapter, make_tiny_model

from helpers import adapters, loading, tasks, training
from helpers.tutorial.checks import confirm_adapter, confirm_endings, confirm_split, confirm_weights
from helpers.weights.folders import ModelFolder

USED = [
    ("01_weights", confirm_weights),
    ("04_training", confirm_split),
    ("04_training", confirm_endings),
    ("05_lora_loading", confirm_adapter),
]


@pytest.mark.parametrize(("lesson", "checkpoint"), USED)
def test_lesson_uses_the_checkpoint(lesson, checkpoint):
    pair = name_pair(NOTEBOOKS / f"{lesson}.ipynb").read_text(encoding="utf-8")
    assert f"\nchecks.{checkpoint.__name__}(" in pair


@pytest.fixture
def folder(home):
    """A model folder as fetching leaves it, with its weights.json."""
    made = make_tiny_model(home / "models" / "tiny")
    ModelFolder(made).write_record(source="here")
    return made


def read_marks(capsys) -> list[str]:
    """The sign at the beginning of each checkpoint that was printed: ✅ or ❌."""
    return [line[0] for line in capsys.readouterr().out.splitlines() if line.startswith(("✅", "❌"))]


def cut_short(content):
    return content[:-10]


def change_a_bit(content):
    return content[:-1] + bytes([content[-1] ^ 1])


def leave_the_pointer(content):
    """What git leaves of a large file if git-lfs is not installed."""
    return f"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize {len(content)}\n".encode()


@pytest.mark.parametrize("damage", [cut_short, change_a_bit, leave_the_pointer])
def test_weights_fail_if_they_are_not_those_that_were_fetched(folder, capsys, damage):
    confirm_weights(ModelFolder(folder))
    path = folder / "model.safetensors"
    path.write_bytes(damage(path.read_bytes()))
    confirm_weights(ModelFolder(folder))
    whole, broken = capsys.readouterr().out.splitlines()
    assert whole.startswith("✅")
    assert broken.startswith("❌") and "model.safetensors" in broken


def test_split_fails_if_rows_are_drawn_at_random(template, capsys):
    rows = tasks.load_rows("data/college_preferences/dataset.csv", template)
    confirm_split(*tasks.split_rows(rows))
    shuffled = random.Random(0).sample(rows, len(rows))
    confirm_split(shuffled[200:], shuffled[:200])
    honest, leaking = capsys.readouterr().out.splitlines()
    assert honest.startswith("✅")
    assert leaking.startswith("❌") and "tasks.split_rows" in leaking


def test_split_fails_if_a_comment_differs_in_case_and_punctuation_only(rows, capsys):
    confirm_split(rows[:6], [{**rows[0], "text": rows[0]["text"].upper() + "!"}])
    assert read_marks(capsys) == ["❌"]


@pytest.fixture
def make_batches(tiny, rows, template, tmp_path):
    """A function that makes the batches of a training on the tiny model, as TRL makes them in lesson 4."""
    settings = training.TrainingSettings().replace({"lora_r": 4, "batch_size": 4})
    data = tasks.TaskData(template, rows)

    def make() -> list:
        trainer = training.make_trainer(tiny, data, settings, tmp_path, False, prefix_sharing="off")
        batches = list(trainer.get_train_dataloader())
        tiny.model = trainer.model.unload()
        return batches

    return make


def test_endings_pass_with_a_chat_template_that_writes_eos(tiny, make_batches, capsys):
    for batch in make_batches():
        confirm_endings(batch["labels"], tiny.tokenizer.eos_token_id)
    assert set(read_marks(capsys)) == {"✅"}


def test_endings_pass_with_a_chat_template_without_an_end_because_eos_is_added(tiny, make_batches, capsys):
    tiny.tokenizer.chat_template = CHAT_TEMPLATE.replace("<|im_end|>", "")
    for batch in make_batches():
        confirm_endings(batch["labels"], tiny.tokenizer.eos_token_id)
    assert set(read_marks(capsys)) == {"✅"}


def test_endings_fail_if_padding_is_known_by_its_token(tiny, make_batches, capsys):
    end = tiny.tokenizer.eos_token_id
    batch = make_batches()[0]
    confirm_endings(batch["labels"].masked_fill(batch["input_ids"] == end, -100), end)
    assert read_marks(capsys) == ["❌"]


def confirm_lora(name):
    """Attaches a LoRA to the tiny model and shows its checkpoints."""
    loaded = adapters.attach_adapter(loading.load_model("tiny", dtype="float32"), name)
    confirm_adapter(adapters.prove(loaded, name))


def test_adapter_fails_if_its_matrices_are_zeros(folder, home, capsys):
    path = make_tiny_adapter(home / "loras" / "mine", folder) / "adapter_model.safetensors"
    confirm_lora("mine")
    assert set(read_marks(capsys)) == {"✅"}
    zeros = {name: 0 * tensor for name, tensor in load_file(path).items()}
    save_file(zeros, path, metadata={"format": "pt"})
    confirm_lora("mine")
    assert read_marks(capsys).count("❌") == 2  # its weights are zero, and it does not change the model
