import json
import os
import subprocess
import sys
import time

import pytest
import torch
from accelerate.commands.config.config_args import load_config_from_file
from accelerate.commands.launch import launch_command_parser
from support.tiny import make_tiny_model
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from transformers import TrainerState
from trl import SFTTrainer

from helpers import PROJECT, KitError, adapters, loading, tasks, training
from helpers.adapters.fingerprint import compute_logits
from helpers.common.command import run_command
from helpers.training.__main__ import main
from helpers.training.checkpoints import find_last_checkpoint
from helpers.training.guards import LossGuard, explain_memory
from helpers.training.prefix_trainer import SharedPrefixTrainer
from helpers.training.runs import refuse_unwritable
from helpers.training.settings import PRESETS, TrainingSettings, explain_changes, pick_settings


@pytest.fixture
def settings():
    return TrainingSettings().replace(
        {"lora_r": 4, "lora_dropout": 0.0, "epochs": 2, "batch_size": 2, "learning_rate": 0.01}
    )


def test_prompt_of_training_starts_with_prompt_of_inference(tiny, rows, template, settings, tmp_path):
    trainer = training.make_trainer(tiny, rows, template, settings, tmp_path, progress=False)
    prompts = {loading.render_chat(tiny.tokenizer, template.build_messages(row)) for row in rows}
    for example in trainer.train_dataset:
        text = tiny.tokenizer.decode(example["input_ids"])
        assert any(text.startswith(prompt) for prompt in prompts)


def test_loss_sees_the_answer_and_its_end_and_nothing_else(tiny, rows, template, settings, tmp_path):
    trainer = training.make_trainer(tiny, rows, template, settings, tmp_path, progress=False)
    for batch in trainer.get_train_dataloader():
        for ids, labels in zip(batch["input_ids"], batch["labels"], strict=True):
            taught = tiny.tokenizer.decode(ids[labels != -100])
            answer, _, rest = taught.partition(tiny.tokenizer.eos_token)
            assert (
                answer
                in {"No preference", "Equal preference", "Alderbrook College", "Dunmarsh State University"}
                and not rest.strip()
            )
            assert tiny.tokenizer.eos_token in taught


def test_trained_adapter_is_saved_whole_and_says_what_was_measured(tiny, rows, template, settings, home):
    run = training.train_lora(tiny, rows, template, settings, home / "loras" / "mine", progress=False)
    folder = home / "loras" / "mine"
    names = [
        "README.md",
        "adapter_config.json",
        "adapter_model.safetensors",
        "run.json",
        "training_parameters.json",
    ]
    assert sorted(path.name for path in folder.iterdir()) == names
    assert json.loads((folder / "run.json").read_text()) == json.loads(json.dumps(run))
    assert (
        run["rows"] == 12
        and len(run["loss"]) == 12
        and run["loss"][-1] < run["loss"][0]
        and run["seconds"] > 0
    )
    assert json.loads((folder / "training_parameters.json").read_text())["lora_rank"] == 4
    assert [path.name for path in (home / "loras").iterdir()] == ["mine"]


def test_reloaded_adapter_gives_the_trained_models_logits_and_not_the_bases(
    tiny, rows, template, settings, home
):
    run = training.train_lora(tiny, rows, template, settings, home / "loras" / "mine", progress=False)
    again = adapters.attach_adapter(loading.load_model("tiny", dtype="float32"), "mine")
    assert all(adapters.compare_fingerprint(again, entry) < 1e-3 for entry in run["fingerprint"])
    with again.model.disable_adapter():
        assert all(adapters.compare_fingerprint(again, entry) > 1e-2 for entry in run["fingerprint"])
    assert adapters.measure_change(again, template.build_messages(rows[0])) > 0


def test_older_adapter_of_that_name_is_kept(tiny, rows, template, settings, home):
    folder = home / "loras" / "mine"
    first = training.train_lora(tiny, rows, template, settings, folder, progress=False)
    training.train_lora(tiny, rows, template, settings.replace({"seed": 5}), folder, progress=False)
    assert (
        json.loads((home / "loras" / "mine-previous" / "run.json").read_text())["fingerprint"]
        == first["fingerprint"]
    )
    assert adapters.list_adapters() == ["mine", "mine-previous"]


def test_failed_training_leaves_nothing(tiny, rows, template, settings, home):
    wild = settings.replace({"learning_rate": 1e30, "max_grad_norm": 1e30})
    with pytest.raises(KitError, match="no number"):
        training.train_lora(tiny, rows, template, wild, home / "loras" / "mine", progress=False)
    assert list((home / "loras").iterdir()) == []


def test_first_step_starts_from_the_base(tiny, rows, template, settings, tmp_path):
    messages = template.build_messages(rows[0])
    base = compute_logits(tiny, messages)
    trainer = training.make_trainer(tiny, rows, template, settings, tmp_path, progress=False)
    tiny.model = trainer.model.eval()
    assert torch.equal(compute_logits(tiny, messages), base)


def test_max_rows_draws_as_many_of_each_label_below_one_limit_of_length(template, settings):
    colleges = {"alternative_a": "Alderbrook College", "alternative_b": "Dunmarsh State University"}
    lengths = {
        3: range(1, 30),
        0: range(1, 30),
        1: range(10, 40),
    }  # label 1 has the longest texts, and sets the limit
    rows = [
        {"text": "x" * length, "label": label, **colleges}
        for label, some in lengths.items()
        for length in some
    ]
    kept = tasks.keep_short(rows, 15, seed=0)
    assert tasks.count_labels(kept) == {0: 5, 1: 5, 3: 5} and max(len(row["text"]) for row in kept) == 14
    assert tasks.keep_short(rows, 15, seed=0) == kept != tasks.keep_short(rows, 15, seed=1)
    assert (
        len(tasks.keep_short(rows, 1000, seed=0)) == len(rows) and len(tasks.keep_short(rows, 8, seed=0)) == 6
    )
    assert len(training.build_dataset(rows, template, settings.replace({"max_rows": 6}))) == 6


def test_adapter_of_another_base_is_refused_with_both_names(tiny, rows, template, settings, home):
    training.train_lora(tiny, rows, template, settings, home / "loras" / "mine", progress=False)
    make_tiny_model(home / "models" / "other")
    with pytest.raises(KitError, match="trained on tiny, not on other"):
        adapters.attach_adapter(loading.load_model("other", dtype="float32"), "mine")


def test_broken_adapter_folders_are_named(tiny, home):
    with pytest.raises(KitError, match="No LoRA 'mine'"):
        adapters.find_adapter("mine")
    folder = home / "loras" / "mine"
    folder.mkdir(parents=True)
    (folder / "adapter_config.json").write_text("{}")
    with pytest.raises(KitError, match="no adapter_model.safetensors"):
        adapters.find_adapter("mine")
    (folder / "adapter_model.safetensors").write_bytes(b"12345")
    with pytest.raises(KitError, match="cannot be read"):
        adapters.find_adapter("mine")


def test_presets_and_files_are_told_apart(tmp_path):
    assert pick_settings("tutorial-2023") == TrainingSettings()
    (tmp_path / "mine.yaml").write_text("epochs: 3\n")
    assert pick_settings(str(tmp_path / "mine.yaml")) == TrainingSettings(epochs=3)
    with pytest.raises(KitError, match="no settings 'tinny'.*one of: tutorial-2023, tiny"):
        pick_settings("tinny")


def test_every_change_of_a_preset_has_a_reason():
    for preset in PRESETS:
        assert all(reason and old != new for _, old, new, reason in explain_changes(preset))
        assert pick_settings(preset) == TrainingSettings().replace(
            {name: new for name, _, new, _ in explain_changes(preset)}
        )


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("lora_rank: 3", "Did you mean lora_r"),
        ("epochs: many", "type float"),
        ("lora_r: 2.5", "type int"),
        ("- 1", "no settings"),
        ("a: [", "no YAML"),
    ],
)
def test_wrong_settings_are_refused(tmp_path, text, message):
    path = tmp_path / "s.yaml"
    path.write_text(text)
    with pytest.raises(KitError, match=message):
        TrainingSettings.from_yaml(path)


def test_settings_survive_their_file(tmp_path):
    settings = pick_settings("tiny")
    assert TrainingSettings.from_yaml(settings.to_yaml(tmp_path / "s.yaml")) == settings


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"--model": "nothing"}, "No model 'nothing'"),
        ({"--data": "nothing.csv"}, "No CSV file at nothing.csv"),
        ({"--template": "nothing.yaml"}, "No template at nothing.yaml"),
        ({"--output": "../outside"}, "no name for a LoRA"),
        ({"--test-size": "2"}, "out of range"),
        ({"--settings": "nothing.yaml"}, "No settings file"),
    ],
)
def test_wrong_command_line_of_training_ends_with_one_line_and_code_2(tiny, home, capsys, changed, message):
    wanted = {"--model": "tiny", "--data": "data/college_preferences/dataset.csv", "--output": "loras/x"}
    wanted["--template"] = "templates/college_preferences.yaml"
    capsys.readouterr()
    assert run_command(main, [part for pair in {**wanted, **changed}.items() for part in pair]) == 2
    error = capsys.readouterr().err
    assert message in error and len(error.splitlines()) == 1 and not (home / "loras" / "x").exists()


def test_shapes_of_our_own_lora_are_copied(tiny, rows, template, settings, home):
    chosen = settings.replace({"targets": "q_proj,v_proj", "learning_rate": 3e-4, "accumulation": 2})
    training.train_lora(tiny, rows, template, chosen, home / "loras" / "mine", progress=False)
    copied = TrainingSettings.from_adapter(home / "loras" / "mine")
    assert copied == TrainingSettings().replace(
        {
            key: getattr(chosen, key)
            for key in (
                "targets",
                "lora_r",
                "lora_alpha",
                "lora_dropout",
                "learning_rate",
                "accumulation",
                "batch_size",
            )
        }
        | {
            "epochs": chosen.epochs,
            "max_length": chosen.max_length,
            "schedule": chosen.schedule,
            "optimizer": chosen.optimizer,
        }
    )


def test_shapes_of_the_webui_s_loras_are_copied(tmp_path):
    boxes = {"q_proj_en": True, "v_proj_en": True, "k_proj_en": False, "o_proj_en": False}
    common = {
        "lora_name": "x",
        "lora_rank": 32,
        "lora_alpha": 64,
        "batch_size": 128,
        "micro_batch_size": 4,
        "learning_rate": "3e-4",
    }
    for era, parameters in {
        "2023": {**common, **boxes},
        "today": {**common, **boxes, "all_linear": True},
    }.items():
        folder = tmp_path / era
        folder.mkdir()
        (folder / "training_parameters.json").write_text(json.dumps(parameters))
        copied = TrainingSettings.from_adapter(folder)
        assert (
            copied.lora_r,
            copied.lora_alpha,
            copied.batch_size,
            copied.accumulation,
            copied.learning_rate,
        ) == (32, 64, 4, 32, 3e-4)
        assert copied.targets == ("q_proj,v_proj" if era == "2023" else "all-linear")


def test_folder_without_a_lora_is_refused(tmp_path):
    with pytest.raises(KitError, match="holds no LoRA"):
        TrainingSettings.from_adapter(tmp_path)


def write_training_script(home, rows, settings):
    """A program that trains these rows in float32 with these settings, as `mine`."""
    (home / "rows.json").write_text(json.dumps(rows))
    settings.to_yaml(home / "settings.yaml")
    script = (
        "import json; from helpers import loading, tasks, training; from helpers.adapters.folders import loras_folder\n"
        "from helpers.training.settings import TrainingSettings\n"
        "template = tasks.load_template('templates/college_preferences.yaml')\n"
        "tiny, rows = loading.load_model('tiny', dtype='float32'), json.load(open('rows.json'))\n"
        "training.train_lora(tiny, rows, template, TrainingSettings.from_yaml('settings.yaml'), loras_folder() / 'mine', progress=False)\n"
    )
    return [sys.executable, "-c", script]


ROWS = [
    {
        "text": f"Comment {i}, {'long ' * (i % 5)}",
        "alternative_a": "Alderbrook College",
        "alternative_b": "Dunmarsh University",
        "label": i % 4,
    }
    for i in range(12)
]


@pytest.mark.long
def test_killed_training_goes_on_from_its_checkpoint_with_the_same_losses(tiny, template, settings, home):
    settings = settings.replace({"epochs": 10, "checkpoint_steps": 5})
    child = subprocess.Popen(write_training_script(home, ROWS, settings), cwd=home, stderr=subprocess.DEVNULL)
    checkpoints = home / "runs" / "checkpoints" / "mine"
    while not (checkpoints / "checkpoint-10" / "trainer_state.json").exists():
        assert child.poll() is None, "the training ended before it was killed"
        time.sleep(0.01)
    child.kill()
    child.wait()
    assert not (home / "loras" / "mine").exists()
    with pytest.raises(KitError, match="Add --resume"):
        training.train_lora(tiny, ROWS, template, settings, home / "loras" / "mine", progress=False)
    with pytest.raises(KitError, match="other rows or settings"):
        training.train_lora(
            tiny, ROWS[:8], template, settings, home / "loras" / "mine", progress=False, resume=True
        )
    resumed = training.train_lora(
        tiny, ROWS, template, settings, home / "loras" / "mine", progress=False, resume=True
    )
    whole = training.train_lora(tiny, ROWS, template, settings, home / "loras" / "whole", progress=False)
    assert len(resumed["loss"]) == len(whole["loss"]) and resumed["loss"] == pytest.approx(
        whole["loss"], rel=1e-5, abs=1e-4
    )
    assert not checkpoints.exists() and not list(home.glob("loras/.*"))


def test_nothing_to_resume_is_said(tiny, template, settings, home):
    with pytest.raises(KitError, match="no checkpoint of mine"):
        training.train_lora(
            tiny, ROWS, template, settings, home / "loras" / "mine", progress=False, resume=True
        )


def test_half_written_checkpoint_is_passed_over(tmp_path):
    for step, text in ((10, '{"global_step": 10}'), (20, '{"global_st')):
        (tmp_path / f"checkpoint-{step}").mkdir()
        (tmp_path / f"checkpoint-{step}" / "trainer_state.json").write_text(text)
    (tmp_path / "checkpoint-30").mkdir()
    assert find_last_checkpoint(tmp_path) == tmp_path / "checkpoint-10"


def test_loss_that_runs_away_ends_the_training_with_the_setting_to_change():
    guard = LossGuard()
    noisy, rising = [2.0, 1.0] * 15, [1.0] * 15 + [1.0 + step for step in range(15)]
    guard.on_log(None, TrainerState(log_history=[{"loss": loss} for loss in noisy]), None)
    with pytest.raises(KitError, match="ran away.*Lower learning_rate"):
        guard.on_log(None, TrainerState(log_history=[{"loss": loss} for loss in rising]), None)


def test_output_that_cannot_be_written_is_refused_before_the_training(tmp_path):
    (tmp_path / "loras").write_text("a file in the way")
    with pytest.raises(KitError, match="Nothing can be written to"):
        refuse_unwritable(tmp_path / "loras" / "mine")


@pytest.mark.slow
def test_two_processes_train_as_one_does_with_the_same_rows_a_step(tiny, template, settings, home):
    rows = [
        {**ROWS[0], "text": f"Comment {i:02}"} for i in range(12)
    ]  # all as long as each other: the order is then the same for both
    settings = settings.replace({"epochs": 4})
    whole = training.train_lora(tiny, rows, template, settings, home / "loras" / "whole", progress=False)
    _, _, script = write_training_script(
        home, rows, settings.replace({"batch_size": settings.batch_size // 2})
    )
    (home / "train.py").write_text(script)
    launch = [
        sys.executable,
        "-m",
        "accelerate.commands.launch",
        "--config_file",
        PROJECT / "launch" / "two_cpu_processes.yaml",
        "train.py",
    ]
    subprocess.run(launch, cwd=home, env={**os.environ, "OMP_NUM_THREADS": "1"}, check=True, timeout=500)
    shared = json.loads((home / "loras" / "mine" / "run.json").read_text())
    assert shared["loss"] == pytest.approx(whole["loss"], rel=1e-4, abs=2e-4)


@pytest.mark.parametrize(
    ("sharing", "kind"), [("off", SFTTrainer), ("on", SharedPrefixTrainer), ("auto", SharedPrefixTrainer)]
)
def test_sharing_can_be_switched_off_and_insisted_on(tiny, rows, template, settings, tmp_path, sharing, kind):
    assert (
        type(
            training.make_trainer(
                tiny, rows, template, settings, tmp_path, progress=False, prefix_sharing=sharing
            )
        )
        is kind
    )


def test_sharing_that_cannot_be_is_refused_where_it_is_insisted_on(tiny, rows, template, settings, tmp_path):
    tiny.model.config.model_type = "olmo"
    with pytest.raises(KitError, match="cannot be used.*'olmo'.*Leave out --prefix-sharing on"):
        training.make_trainer(tiny, rows, template, settings, tmp_path, progress=False, prefix_sharing="on")


def test_out_of_memory_is_answered_with_the_settings_to_change(settings):
    with (
        pytest.raises(
            KitError, match="2 rows of up to 2048 tokens.*Set batch_size to 1 and accumulation to 2"
        ),
        explain_memory(settings),
    ):
        torch.empty(2**60)
    with (
        pytest.raises(KitError, match="1 rows.*Lower max_length"),
        explain_memory(settings.replace({"batch_size": 1})),
    ):
        torch.empty(2**60)
    with pytest.raises(RuntimeError, match="shapes cannot be multiplied"), explain_memory(settings):
        torch.ones(2, 3) @ torch.ones(2, 3)


def test_losses_are_written_as_tensorboard_s_events(tiny, rows, template, settings, home):
    run = training.train_lora(tiny, rows, template, settings, home / "loras" / "mine", progress=False)
    events = EventAccumulator(str(home / "runs" / "tensorboard" / "mine")).Reload()
    assert [event.value for event in events.Scalars("train/loss")] == pytest.approx(run["loss"], abs=1e-4)


@pytest.mark.parametrize("path", sorted((PROJECT / "launch").glob("*.yaml")), ids=lambda path: path.stem)
def test_files_for_accelerate_are_read_by_accelerate(path):
    config = load_config_from_file(str(path))
    assert config.num_processes > 1 and config.num_processes % config.num_machines == 0
    assert set(config.fsdp_config) <= {action.dest for action in launch_command_parser()._actions}
    assert path.name in (PROJECT / "launch" / "README.md").read_text(encoding="utf-8")


@pytest.mark.parametrize("sharing", ["on", "off"])
def test_rows_whose_answer_is_cut_off_are_counted(tiny, rows, template, settings, tmp_path, sharing):
    lengths = [
        len(ids)
        for ids in training.make_trainer(
            tiny, rows, template, settings, tmp_path, progress=False
        ).train_dataset["input_ids"]
    ]
    base = loading.load_model("tiny", dtype="float32")
    limit = settings.replace({"max_length": sorted(lengths)[5]})
    with pytest.warns(
        UserWarning, match=r"of 12 rows are so long that max_length \(\d+ tokens\) leaves nothing"
    ):
        kept = training.make_trainer(
            base, rows, template, limit, tmp_path, progress=False, prefix_sharing=sharing
        ).train_dataset
    assert 6 <= len(kept) < 12
    with pytest.raises(KitError, match="12 of 12 rows are so long.*Raise max_length"):
        base = loading.load_model("tiny", dtype="float32")
        training.make_trainer(
            base,
            rows,
            template,
            settings.replace({"max_length": 20}),
            tmp_path,
            progress=False,
            prefix_sharing=sharing,
        )
