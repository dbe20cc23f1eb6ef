"""The end of a training: a whole folder with what was measured, or nothing."""

import contextlib
import os
import subprocess
import sys
from dataclasses import replace

import pytest
import torch
from support.holder import hold_elsewhere
from support.loras import read_json
from support.tiny import make_tiny_adapter, make_tiny_model
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from transformers import TrainerCallback

from helpers import PROJECT, adapters, loading, training
from helpers.adapters.fingerprint import compute_logits
from helpers.adapters.folders import name_output
from helpers.adapters.webui_parameters import copy_settings
from helpers.common.errors import AlreadyThereError, DamagedError, ResourceError, TrainingError, UsageError
from helpers.common.machine import Choice
from helpers.tasks import Split, TaskData
from helpers.tasks.chats import ChatForm
from helpers.training.runs import open_adapter_folder
from helpers.training.train import check_training

FILES = [
    "README.md",
    "adapter_config.json",
    "adapter_model.safetensors",
    "chat_template.jinja",
    "report.html",
    "run.json",
    "training_parameters.json",
]


@pytest.fixture
def folder(home):
    """The folder of the LoRA that a test trains."""
    return home / "loras" / "mine"


def list_names(folder):
    return sorted(path.name for path in folder.iterdir())


class CountSteps(TrainerCallback):
    """Counts the steps that were begun."""

    def __init__(self):
        self.steps = 0

    def on_step_begin(self, *_, **__):
        self.steps += 1


# What a training leaves


def test_trained_lora_is_saved_whole(tiny, data, settings, folder):
    training.train_lora(tiny, data, settings, folder, progress=False)
    assert list_names(folder) == FILES
    assert list_names(folder.parent) == ["mine"]
    assert adapters.describe_adapter("mine").problem is None


def test_run_records_what_was_measured(tiny, data, settings, folder):
    run = training.train_lora(tiny, data, settings, folder, progress=False)
    assert read_json(folder / "run.json") == run
    assert run["rows"] == 12
    assert run["steps"] == run["planned_steps"] == len(run["loss"]) == 12
    assert run["loss"][-1] < run["loss"][0]
    assert run["seconds"] > 0
    assert run["peak_mb"] > 0
    assert run["trainable_parameters"] > 0
    assert run["base"] == "tiny"
    assert len(run["fingerprint"]) == 3


def test_run_records_what_was_chosen_and_why_and_a_cpu_says_nothing(tiny, data, settings, folder, capsys):
    run = training.train_lora(tiny, data, settings, folder)
    assert not run["choices"]["gradient_checkpointing"]["value"]
    assert "CPU" in run["choices"]["gradient_checkpointing"]["reason"]
    assert not run["choices"]["cuda_graphs"]["value"] and "kernel" not in run["choices"]
    assert "gradient_checkpointing" not in capsys.readouterr().err


def test_training_says_before_its_first_step_what_was_chosen_for_a_gpu(tiny, data, settings, folder, capsys):
    chosen = {"kernel": Choice("gptq_triton", "the fastest"), "device": Choice("cuda", "given")}
    run = training.train_lora(replace(tiny, **chosen), data, settings, folder)
    lines = capsys.readouterr().err.splitlines()
    assert "kernel gptq_triton: the fastest" in lines
    assert any(line.startswith("gradient_checkpointing off: ") for line in lines)
    assert any(line.startswith("cuda_graphs off: ") for line in lines)
    assert run["choices"]["kernel"] == {"value": "gptq_triton", "reason": "the fastest"}


def test_run_and_card_hold_no_text_of_a_row(tiny, template, rows, settings, folder):
    examples = ((template.build_messages(rows[0])[-1]["content"], "No preference"),)
    data = TaskData(replace(template, examples=examples), rows[:8], rows[8:])
    training.train_lora(tiny, data, settings, folder, progress=False)
    written = "".join(path.read_text() for path in folder.iterdir() if path.suffix != ".safetensors")
    assert "the text of example 1" in written
    assert [row for row in rows if row["text"] in written or row["alternative_a"] in written] == []


def test_run_of_chats_holds_no_text_of_a_chat(tiny, settings, folder):
    said = [("user", "Wie heißt du?"), ("assistant", "Berta"), ("user", "Und du?"), ("assistant", "Anton")]
    rows = [{"messages": [{"role": role, "content": text} for role, text in said]}] * 4
    run = training.train_lora(tiny, TaskData(ChatForm(), rows), settings, folder, progress=False)
    assert len(run["fingerprint"]) == 3
    written = "".join(path.read_text() for path in folder.iterdir() if path.suffix != ".safetensors")
    assert [text for _, text in said if text in written or ascii(text)[1:-1] in written] == []


def test_run_records_where_the_rows_came_from(tiny, template, rows, settings, folder):
    data = TaskData(template, rows[:8], rows[8:], "rows.csv", "template.yaml", Split(seed=4))
    run = training.train_lora(tiny, data, settings, folder, progress=False)
    assert run["data"] == "rows.csv"
    assert run["template_file"] == "template.yaml"
    assert run["split"] == {"seed": 4, "test_size": 0.2, "validation_size": 0.0}


def test_run_records_the_hashes_of_the_base(tiny, data, settings, folder):
    tiny.folder.write_record(source="here")
    run = training.train_lora(tiny, data, settings, folder, progress=False)
    assert run["base_sha256"] == tiny.folder.hashes
    assert set(run["base_sha256"]) == {"model.safetensors"}


def test_settings_are_recorded_by_the_webui_s_names_too(tiny, data, settings, folder):
    training.train_lora(tiny, data, settings, folder, progress=False)
    parameters = read_json(folder / "training_parameters.json")
    assert parameters["lora_name"] == "mine"
    assert parameters["lora_rank"] == 4
    assert parameters["add_eos_token"] is True  # the kit's completions always end with it


def test_reloaded_lora_gives_the_trained_model_s_logits_and_not_the_base_s(tiny, data, settings, folder):
    run = training.train_lora(tiny, data, settings, folder, progress=False)
    again = adapters.attach_adapter(loading.load_model("tiny", dtype="float32"), "mine")
    for entry in run["fingerprint"]:
        assert adapters.compare_fingerprint(again, entry) < 1e-3
    with again.model.disable_adapter():
        for entry in run["fingerprint"]:
            assert adapters.compare_fingerprint(again, entry) > 1e-2
    assert adapters.measure_change(again, data.template.build_messages(data.train[0])) > 0


def test_trained_lora_is_attached_when_the_training_returns(tiny, data, settings, folder):
    run = training.train_lora(tiny, data, settings, folder, progress=False)
    assert not tiny.model.training
    for entry in run["fingerprint"]:
        assert adapters.compare_fingerprint(tiny, entry) < 1e-3


def test_older_lora_of_that_name_is_kept(tiny, data, settings, folder):
    first = training.train_lora(tiny, data, settings, folder, progress=False)
    training.train_lora(tiny, data, settings.replace({"seed": 5}), folder, progress=False)
    previous = folder.with_name("mine-previous")
    assert adapters.list_adapters() == ["mine", "mine-previous"]
    assert read_json(previous / "run.json") == first
    assert read_json(folder / "run.json")["settings"]["seed"] == 5


def test_second_training_starts_from_the_plain_base(tiny, data, settings, folder):
    first = training.train_lora(tiny, data, settings, folder, progress=False)
    second = training.train_lora(tiny, data, settings, folder, progress=False)
    assert second["loss"] == pytest.approx(first["loss"], abs=1e-3)


def test_losses_are_written_as_tensorboard_s_events(tiny, data, settings, folder, home):
    run = training.train_lora(tiny, data, settings, folder, progress=False)
    events = EventAccumulator(str(home / "runs" / "tensorboard" / "mine")).Reload()
    written = [event.value for event in events.Scalars("train/loss")]
    assert written == pytest.approx(run["loss"], abs=1e-4)


# The lesson's way and train_lora's


def test_lesson_s_way_of_saving_leaves_the_same_files_and_facts(tiny, data, settings, folder, home):
    run = training.train_lora(tiny, data, settings, folder, progress=False)
    loaded = loading.load_model("tiny", dtype="float32")
    torch.manual_seed(settings.seed)
    trainer = training.SharedPrefixTrainer(
        model=loaded.model,
        args=training.make_sft_config(loaded.model, settings, home / "runs" / "shared", progress=False),
        train_dataset=training.build_dataset(data.train, data.template, settings, loaded.tokenizer),
        processing_class=loaded.tokenizer,
        peft_config=training.make_lora_config(loaded.model, settings),
    )
    trainer.train()
    by_lesson = home / "loras" / "lesson"
    with training.save_run(trainer, loaded, data, settings, by_lesson) as fresh:
        trainer.model.save_pretrained(fresh)
    assert list_names(by_lesson) == list_names(folder)
    lesson_run = read_json(by_lesson / "run.json")
    assert list(lesson_run) == list(run)
    assert lesson_run["loss"] == pytest.approx(run["loss"], abs=1e-3)
    assert read_config(by_lesson) == read_config(folder)
    parameters = read_json(by_lesson / "training_parameters.json")
    assert parameters.pop("lora_name") == "lesson"
    expected = read_json(folder / "training_parameters.json")
    del expected["lora_name"]
    assert parameters == expected


def read_config(folder):
    """adapter_config.json, with the layers in alphabetical order: PEFT saves a set."""
    config = read_json(folder / "adapter_config.json")
    return {**config, "target_modules": sorted(config["target_modules"])}


def test_base_is_recorded_by_its_path_below_the_home(tiny, data, settings, folder):
    training.train_lora(tiny, data, settings, folder, progress=False)
    assert read_json(folder / "adapter_config.json")["base_model_name_or_path"] == "models/tiny"
    assert "models/tiny" in (folder / "README.md").read_text()


# What fails leaves nothing


def test_failed_training_leaves_no_lora(tiny, data, settings, folder):
    wild = settings.replace({"learning_rate": 1e30, "max_grad_norm": 1e30})
    with pytest.raises(TrainingError, match="learning_rate"):
        training.train_lora(tiny, data, wild, folder, progress=False)
    assert list_names(folder.parent) == []


def test_failed_training_can_be_started_again_with_the_same_model(tiny, data, settings, folder):
    wild = settings.replace({"learning_rate": 1e30, "max_grad_norm": 1e30})
    expected = training.train_lora(
        loading.load_model("tiny", dtype="float32"), data, settings, folder, progress=False
    )
    with pytest.raises(TrainingError):
        training.train_lora(tiny, data, wild, folder, progress=False)
    again = training.train_lora(tiny, data, settings, folder, progress=False)
    assert again["loss"] == pytest.approx(expected["loss"], abs=1e-3)


def test_save_that_fails_leaves_the_older_lora(home):
    folder = home / "loras" / "mine"
    folder.mkdir(parents=True)
    (folder / "file").write_text("older")
    with pytest.raises(KeyError), open_adapter_folder(folder) as fresh:
        fresh.mkdir()
        raise KeyError
    assert (folder / "file").read_text() == "older"
    assert list_names(folder.parent) == ["mine"]


@pytest.mark.parametrize(
    "content",
    [
        "[]",
        "{",
        "\xff",
        '{"files": [1]}',
        '{"files": null}',
        '{"files": {"a": {"sha256": 5}}}',
        '{"files": {"a": {}}}',
    ],
)
def test_damaged_record_of_the_base_ends_the_training_before_its_first_step(
    tiny, data, settings, folder, home, content
):
    (tiny.folder.path / "weights.json").write_text(content, encoding="latin-1")
    counter = CountSteps()
    with pytest.raises(DamagedError, match="weights.json"):
        training.train_lora(tiny, data, settings, folder, progress=False, callbacks=[counter])
    assert counter.steps == 0
    assert not (home / "loras").exists()
    assert training.list_unfinished() == {}


@pytest.mark.parametrize("facts", [{"source": 5}, {"source": None, "revision": []}])
def test_odd_facts_in_the_record_of_the_base_are_refused_before_the_first_step(
    tiny, data, settings, folder, facts
):
    tiny.folder.write_record(**facts)
    counter = CountSteps()
    with pytest.raises(DamagedError, match="weights.json"):
        training.train_lora(tiny, data, settings, folder, progress=False, callbacks=[counter])
    assert counter.steps == 0


def test_whole_record_of_the_base_lets_the_steps_begin(tiny, data, settings, folder):
    tiny.folder.write_record(source="here")
    counter = CountSteps()
    training.train_lora(tiny, data, settings, folder, progress=False, callbacks=[counter])
    assert counter.steps == 12


@pytest.mark.parametrize(
    ("in_the_way", "error"), [("loras", UsageError), ("loras/mine", AlreadyThereError), ("runs", UsageError)]
)
def test_output_that_cannot_be_written_ends_the_training_before_its_first_step(
    tiny, data, settings, folder, home, in_the_way, error
):
    (home / in_the_way).parent.mkdir(exist_ok=True)
    (home / in_the_way).write_text("a file in the way")
    counter = CountSteps()
    with pytest.raises(error, match=in_the_way):
        training.train_lora(tiny, data, settings, folder, progress=False, callbacks=[counter])
    assert counter.steps == 0


def test_lora_that_was_trained_elsewhere_is_not_replaced(tiny, data, settings, folder):
    make_tiny_adapter(folder, tiny.folder.path)
    before = list_names(folder)
    counter = CountSteps()
    with pytest.raises(AlreadyThereError):
        training.train_lora(tiny, data, settings, folder, progress=False, callbacks=[counter])
    assert counter.steps == 0
    assert list_names(folder) == before
    assert list_names(folder.parent) == ["mine"]


def test_training_that_the_disk_has_no_room_for_ends_before_its_first_step(tiny, data, settings, folder):
    counter = CountSteps()
    huge = replace(settings)
    object.__setattr__(huge, "lora_r", 10**12)  # more than the limits allow, and than any disk holds
    with pytest.raises(ResourceError, match=" GB"):
        training.train_lora(tiny, data, huge, folder, progress=False, callbacks=[counter])
    assert counter.steps == 0


@pytest.mark.parametrize("name", ["a**b", "[a]", "a?", "é" * 127, "lock"])
def test_odd_names_of_a_lora_work(tiny, data, settings, home, name):
    short = settings.replace({"epochs": 1, "checkpoint_steps": 2})
    for _ in range(2):
        training.train_lora(tiny, data, short, name_output(f"loras/{name}"), progress=False)
    assert len(adapters.list_adapters()) == 2
    adapters.attach_adapter(loading.load_model("tiny", dtype="float32"), name)


# What is good is kept


class NoStep(TrainerCallback):
    """Leaves the trainer as one that made no step."""

    def on_train_end(self, args, state, control, **_):
        state.global_step = 0


def test_no_older_lora_is_ever_lost(tiny, data, settings, folder):
    runs = [training.train_lora(tiny, data, settings, folder, progress=False) for _ in range(4)]
    names = ["mine-previous", "mine-previous-2", "mine-previous-3", "mine"]
    assert adapters.list_adapters() == sorted(names)
    assert [read_json(folder.with_name(name) / "run.json") for name in names] == runs


def test_training_without_a_step_saves_nothing_and_replaces_nothing(tiny, data, settings, folder):
    good = training.train_lora(tiny, data, settings, folder, progress=False)
    with pytest.raises(TrainingError):
        training.train_lora(tiny, data, settings, folder, progress=False, callbacks=[NoStep()])
    assert list_names(folder.parent) == ["mine"]
    assert read_json(folder / "run.json") == good


def test_lesson_s_way_saves_nothing_without_a_step(tiny, data, settings, folder, tmp_path):
    trainer = training.make_trainer(tiny, data, settings, tmp_path / "checkpoints", progress=False)
    with pytest.raises(TrainingError), training.save_run(trainer, tiny, data, settings, folder) as fresh:
        trainer.model.save_pretrained(fresh)
    assert list_names(folder.parent) == []


def test_first_step_starts_from_the_base(tiny, data, settings, tmp_path):
    messages = data.template.build_messages(data.train[0])
    base = compute_logits(tiny, messages)
    trainer = training.make_trainer(tiny, data, settings, tmp_path, progress=False)
    tiny.model = trainer.model.eval()
    assert torch.equal(compute_logits(tiny, messages), base)


def test_settings_of_a_lora_of_the_kit_are_read_back(tiny, data, settings, home):
    chosen = settings.replace({"targets": "q_proj,v_proj", "learning_rate": 3e-4, "accumulation": 2})
    training.train_lora(tiny, data, chosen, home / "loras" / "mine", progress=False)
    # What neither adapter_config.json nor the WebUI records has its default: the defaults of `settings` too.
    # The WebUI records a warm-up in steps, and 0.03 of these few are one step.
    expected = chosen.replace({"warmup_ratio": 1})
    assert copy_settings(home / "loras" / "mine") == expected


# One training at a time


def test_second_training_of_a_name_is_refused_in_words_until_the_first_is_killed(
    tiny, data, settings, folder
):
    counter = CountSteps()
    with hold_elsewhere(folder) as process, pytest.raises(AlreadyThereError) as caught:
        training.train_lora(tiny, data, settings, folder, progress=False, callbacks=[counter])
    assert counter.steps == 0
    assert f"process {process.pid}" in caught.value.problem
    training.train_lora(tiny, data, settings, folder, progress=False)
    assert list_names(folder.parent) == ["mine"]


def test_name_that_another_training_has_is_refused_before_the_model_is_loaded(tiny, data, settings, home):
    with hold_elsewhere(home / "loras" / "mine"), pytest.raises(AlreadyThereError):
        check_training(tiny.name, data, settings, home / "loras" / "mine")
    check_training(tiny.name, data, settings, home / "loras" / "mine")


def test_training_of_the_same_name_elsewhere_does_not_share_its_checkpoints(tiny, data, settings, home):
    with hold_elsewhere(home / "runs" / "checkpoints" / "mine"), pytest.raises(AlreadyThereError):
        training.train_lora(tiny, data, settings, home / "elsewhere" / "mine", progress=False)


def test_lesson_s_way_is_refused_too_and_keeps_the_trained_model(tiny, data, settings, folder, tmp_path):
    trainer = training.make_trainer(tiny, data, settings, tmp_path / "checkpoints", progress=False)
    trainer.train()

    def save():
        with training.save_run(trainer, tiny, data, settings, folder) as fresh:
            trainer.model.save_pretrained(fresh)

    with hold_elsewhere(folder), pytest.raises(AlreadyThereError):
        save()
    save()
    assert list_names(folder) == FILES


@pytest.mark.long
def test_of_two_trainings_at_once_one_is_refused_and_the_other_is_saved(home, data, settings, write_program):
    make_tiny_model(home / "models" / "tiny")
    write_program(data.train, settings.replace({"epochs": 40.0}))
    environment = {**os.environ, "PYTHONPATH": str(PROJECT)}
    command = [sys.executable, "train.py"]
    with contextlib.ExitStack() as stack:
        both = [
            stack.enter_context(
                subprocess.Popen(command, cwd=home, env=environment, stderr=subprocess.PIPE, text=True)
            )
            for _ in range(2)
        ]
        errors = {process.communicate()[1]: process.returncode for process in both}
    assert sorted(errors.values()) == [0, 1]
    (refused,) = (error for error, code in errors.items() if code)
    assert "AlreadyThereError" in refused.splitlines()[-1]
    assert list_names(home / "loras") == ["mine"]
    assert list_names(home / "loras" / "mine") == FILES
