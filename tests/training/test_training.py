"""Rows and settings become a trainer: what it sees, what it teaches, how it computes."""

import json
import os
import subprocess
import sys
from dataclasses import replace

import pytest
from accelerate.commands.config.config_args import load_config_from_file
from accelerate.commands.launch import launch_command_parser
from support.zoo import make_zoo_model
from transformers import GPT2Config, GPT2LMHeadModel

from helpers import PROJECT, loading, tasks, training
from helpers.common.errors import UnsupportedError, UsageError
from helpers.tasks import TaskData
from helpers.training.watching import WatchingTrainer
from helpers.weights.folders import ModelFolder

ANSWERS = {"No preference", "Equal preference", "Alderbrook College", "Dunmarsh State University"}


@pytest.fixture
def make_trainer(tiny, data, settings, tmp_path):
    """A function that makes the trainer of the twelve rows."""

    def make(loaded=tiny, settings=settings, **options):
        return training.make_trainer(loaded, data, settings, tmp_path, progress=False, **options)

    return make


# What the model sees and learns


def test_prompt_of_training_is_the_prompt_of_inference(tiny, data, make_trainer):
    prompts = {loading.render_chat(tiny.tokenizer, data.template.build_messages(row)) for row in data.train}
    examples = make_trainer().train_dataset
    assert len(examples) == 12
    for example in examples:
        learned = sum(label != -100 for label in example["labels"])
        assert tiny.tokenizer.decode(example["input_ids"][:-learned]) in prompts


def test_loss_covers_the_answer_and_its_end_and_nothing_else(tiny, make_trainer):
    batches = make_trainer(prefix_sharing="off").get_train_dataloader()
    learned = []
    for batch in batches:
        for ids, labels in zip(batch["input_ids"], batch["labels"], strict=True):
            learned.append(tiny.tokenizer.decode(ids[labels != -100]))
    assert len(learned) == 12
    for text in learned:
        answer, end, rest = text.partition(tiny.tokenizer.eos_token)
        assert answer in ANSWERS
        assert end and not rest


@pytest.mark.parametrize("sharing", ["on", "off"])
def test_rows_whose_answer_is_cut_off_are_counted_and_left_out(make_trainer, settings, sharing):
    lengths = sorted(len(ids) for ids in make_trainer().train_dataset["input_ids"])
    shorter = settings.replace({"max_length": lengths[5]})
    base = loading.load_model("tiny", dtype="float32")
    with pytest.warns(UserWarning, match=f"of 12 .*{lengths[5]}"):
        trainer = make_trainer(base, shorter, prefix_sharing=sharing)
    assert 6 <= len(trainer.train_dataset) < 12


@pytest.mark.parametrize("sharing", ["on", "off"])
def test_training_without_a_row_whose_answer_fits_is_refused(make_trainer, settings, sharing):
    with pytest.raises(UsageError, match="20.*max_length"):
        make_trainer(settings=settings.replace({"max_length": 20}), prefix_sharing=sharing)


# Which rows are taken


def make_rows(lengths):
    """Rows with texts of the given lengths: {label: lengths}."""
    colleges = {"alternative_a": "Alderbrook College", "alternative_b": "Dunmarsh State University"}
    return [
        {"text": "x" * length, "label": label, **colleges}
        for label, some in lengths.items()
        for length in some
    ]


# Label 1 has the longest texts. Its five shortest have 10 to 14 letters, so 14 is the limit for all.
UNEQUAL = {3: range(1, 30), 0: range(1, 30), 1: range(10, 40)}


def test_short_rows_are_drawn_equally_from_all_labels_below_one_limit():
    kept = tasks.keep_short(make_rows(UNEQUAL), 15, seed=0)
    assert tasks.count_labels(kept) == {0: 5, 1: 5, 3: 5}
    assert max(len(row["text"]) for row in kept) == 14


def test_short_rows_are_the_same_for_the_same_seed_and_others_for_another():
    rows = make_rows(UNEQUAL)
    assert tasks.keep_short(rows, 15, seed=0) == tasks.keep_short(rows, 15, seed=0)
    assert tasks.keep_short(rows, 15, seed=0) != tasks.keep_short(rows, 15, seed=1)


@pytest.mark.parametrize(("count", "kept"), [(1000, 88), (8, 6), (1, 3)])
def test_as_many_rows_of_each_label_are_kept_as_the_limit_leaves_room_for(count, kept):
    assert len(tasks.keep_short(make_rows(UNEQUAL), count, seed=0)) == kept


def test_max_rows_limits_the_data_set(tiny, template, settings):
    rows = make_rows(UNEQUAL)
    assert len(training.build_dataset(rows, template, settings, tiny.tokenizer)) == len(rows)
    assert len(training.build_dataset(rows, template, settings.replace({"max_rows": 6}), tiny.tokenizer)) == 6


# How it computes


@pytest.mark.parametrize(
    ("sharing", "kind"),
    [("off", WatchingTrainer), ("on", training.SharedPrefixTrainer), ("auto", training.SharedPrefixTrainer)],
)
def test_sharing_can_be_switched_off_and_insisted_on(make_trainer, sharing, kind):
    assert type(make_trainer(prefix_sharing=sharing)) is kind


def test_sharing_that_is_insisted_on_is_refused_for_an_architecture_that_does_not_allow_it(
    tiny, make_trainer
):
    tiny.model.config.model_type = "olmo"
    with pytest.raises(UnsupportedError, match="olmo.*--prefix-sharing"):
        make_trainer(prefix_sharing="on")


def test_named_layers_get_a_lora_and_no_others(make_trainer, settings):
    trainer = make_trainer(settings=settings.replace({"targets": "q_proj,v_proj"}))
    trained = {name for name, parameter in trainer.model.named_parameters() if parameter.requires_grad}
    assert trained
    assert all(".q_proj." in name or ".v_proj." in name for name in trained)


# Several processes


@pytest.mark.parametrize("path", sorted((PROJECT / "launch").glob("*.yaml")), ids=lambda path: path.stem)
def test_files_for_accelerate_are_read_by_accelerate(path):
    config = load_config_from_file(str(path))
    options = vars(launch_command_parser().parse_args(["train.py"]))
    assert config.num_processes > 1
    assert config.num_processes % config.num_machines == 0
    assert set(config.fsdp_config) <= set(options)


@pytest.mark.parametrize("path", sorted((PROJECT / "launch").glob("*.yaml")), ids=lambda path: path.stem)
def test_files_for_accelerate_are_described(path):
    assert path.name in (PROJECT / "launch" / "README.md").read_text(encoding="utf-8")


@pytest.mark.slow
def test_two_processes_train_as_one_does_with_the_same_rows_a_step(
    tiny, template, rows, settings, home, write_program
):
    # All texts are as long as each other, so that rows come in the same order for both.
    rows = [{**rows[0], "text": f"Comment {number:02}"} for number in range(12)]
    settings = settings.replace({"epochs": 4})
    data = TaskData(template, rows)
    whole = training.train_lora(tiny, data, settings, home / "loras" / "whole", progress=False)
    program = write_program(rows, settings.replace({"batch_size": settings.batch_size // 2}))
    command = [sys.executable, "-m", "accelerate.commands.launch", "--config_file"]
    command += [str(PROJECT / "launch" / "two_cpu_processes.yaml"), program]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    subprocess.run(command, cwd=home, env=environment, check=True, timeout=500)
    shared = json.loads((home / "loras" / "mine" / "run.json").read_text())
    assert shared["loss"] == pytest.approx(whole["loss"], rel=1e-4, abs=2e-4)


def test_rows_longer_than_the_context_of_the_model_are_left_out(make_trainer, home, settings):
    lengths = sorted(len(ids) for ids in make_trainer().train_dataset["input_ids"])
    make_zoo_model("chatml", home / "models" / "narrow", max_position_embeddings=lengths[5])
    narrow = loading.load_model("narrow", dtype="float32")
    with pytest.warns(UserWarning, match=f"the context of the model .{lengths[5]} tokens"):
        trainer = make_trainer(narrow, settings)
    assert max(map(len, trainer.train_dataset["input_ids"])) <= lengths[5]


def test_prompts_longer_than_the_context_have_no_fingerprint(tiny, data, home, settings):
    folder = make_zoo_model("chatml", home / "models" / "narrow")
    rows = [{**row, "text": "a", "alternative_a": "b", "alternative_b": "c"} for row in data.train]
    tokenizer = loading.load_tokenizer(ModelFolder(folder))
    dataset = training.build_dataset(rows, data.template, settings, tokenizer)
    longest = max(map(len, dataset["input_ids"]))  # a stand-in for a row is longer than these rows
    config = GPT2Config(vocab_size=512, n_positions=longest, n_embd=8, n_layer=1, n_head=1)
    GPT2LMHeadModel(config).save_pretrained(folder)
    narrow = loading.load_model("narrow", dtype="float32")
    run = training.train_lora(
        narrow, replace(data, train=rows), settings, home / "loras" / "mine", progress=False
    )
    assert run["fingerprint"] == []
