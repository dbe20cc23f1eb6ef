"""`python -m helpers.training`: what it takes from the command line and a settings file, what it refuses."""

from pathlib import Path

import pytest
from safetensors.torch import save_file
from support.loras import read_json
from support.tiny import make_tiny_model

from helpers import PROJECT, tasks
from helpers.common.command import run_command
from helpers.common.files import write_text
from helpers.training.__main__ import main

TEMPLATE = str(PROJECT / "templates" / "college_preferences.yaml")
SHORT = "epochs: 1\nbatch_size: 4\nlora_r: 4\n"


@pytest.fixture
def write(home):
    """A function that writes a settings file of a short training, with more lines, and returns its path."""

    def write(lines=""):
        path = home / "settings.yaml"
        path.write_text(SHORT + lines)
        return str(path)

    return write


@pytest.fixture
def arguments(home, csv):
    """The arguments that train models/tiny on the table as loras/mine."""
    make_tiny_model(home / "models" / "tiny")
    given = ["--model", "tiny", "--data", csv, "--template", TEMPLATE]
    return [*given, "--output", "loras/mine", "--test-size", "0.5"]


def train(home, arguments):
    """The run.json of a training by the command."""
    assert run_command(main, arguments) == 0
    return read_json(home / "loras" / "mine" / "run.json")


def test_command_trains_on_what_is_not_held_out_and_sums_up_in_one_line(home, arguments, write, capsys):
    run = train(home, [*arguments, "--settings", write()])
    line = capsys.readouterr().out.splitlines()[-1]  # after the loss of each step
    assert str(home / "loras" / "mine") in line
    assert "6 rows in " in line
    assert line.endswith("6 rows held out")
    assert run["data"] == "rows.csv"
    assert run["template_file"] == TEMPLATE
    assert run["split"] == {"seed": 0, "test_size": 0.5, "validation_size": 0.0}


def test_seed_of_the_settings_file_is_kept_and_the_split_s_is_0(home, arguments, write):
    run = train(home, [*arguments, "--settings", write("seed: 7\n")])
    assert run["settings"]["seed"] == 7
    assert run["split"]["seed"] == 0


def test_seed_of_the_command_line_is_that_of_training_and_split(home, arguments, write, template, rows):
    run = train(home, [*arguments, "--settings", write("seed: 7\n"), "--seed", "3"])
    assert run["settings"]["seed"] == 3
    assert run["split"]["seed"] == 3
    trained_on, _ = tasks.Split(seed=3, test_size=0.5).divide(rows)
    assert run["rows_sha256"] == tasks.TaskData(template, trained_on).list_facts()["rows_sha256"]


def test_seed_0_of_the_command_line_counts(home, arguments, write):
    run = train(home, [*arguments, "--settings", write("seed: 7\n"), "--seed", "0"])
    assert run["settings"]["seed"] == 0


def test_checkpoint_steps_0_of_the_settings_file_are_kept(home, arguments, write):
    run = train(home, [*arguments, "--settings", write("checkpoint_steps: 0\n")])
    assert run["settings"]["checkpoint_steps"] == 0


def test_epochs_of_the_command_line_replace_those_of_the_settings_file(home, arguments, write):
    run = train(home, [*arguments, "--settings", write(), "--epochs", "2"])
    assert run["settings"]["epochs"] == 2
    assert run["steps"] == 4


@pytest.mark.parametrize("by_file", [True, False])
def test_batch_that_is_chosen_is_printed_with_its_reason_and_recorded(
    home, arguments, write, capsys, by_file
):
    path = write()
    if by_file:
        write_text(Path(path), SHORT.replace("batch_size: 4", "batch_size: auto"))
    run = train(home, [*arguments, "--settings", path, *([] if by_file else ["--batch-size", "auto"])])
    assert "batch_size 4, learning_rate 0.0002: " in capsys.readouterr().out
    assert run["settings"]["batch_size"] == 4
    assert "CPU" in run["batch_reason"]
    assert read_json(home / "loras" / "mine" / "training_parameters.json")["micro_batch_size"] == 4
    assert run["batch_reason"] in (home / "loras" / "mine" / "README.md").read_text()


def test_batch_size_of_the_command_line_replaces_that_of_the_settings(home, arguments, write):
    run = train(home, [*arguments, "--settings", write(), "--batch-size", "2"])
    assert run["settings"]["batch_size"] == 2
    assert run["steps"] == 3


@pytest.mark.parametrize("epochs", ["0", "-1", "nan", "inf"])
def test_number_of_epochs_that_trains_nothing_or_never_ends_writes_nothing(home, arguments, capsys, epochs):
    before = sorted(home.rglob("*"))
    capsys.readouterr()
    assert run_command(main, [*arguments, "--epochs", epochs]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert "epochs" in line
    assert sorted(home.rglob("*")) == before


@pytest.mark.parametrize(
    ("changed", "named"),
    [
        ({"--model": "nothing"}, "'nothing'"),
        ({"--data": "nothing.csv"}, "nothing.csv"),
        ({"--template": "nothing.yaml"}, "nothing.yaml"),
        ({"--output": "../outside"}, "../outside"),
        ({"--output": "loras/my.lora"}, "my.lora"),
        ({"--test-size": "2"}, "2.0"),
        ({"--settings": "nothing.yaml"}, "nothing.yaml"),
        ({"--epochs": "many"}, "many"),
        ({"--prefix-sharing": "maybe"}, "maybe"),
        ({"--batch-size": "0"}, "1 or more, or auto"),
    ],
    ids=str,
)
def test_wrong_command_line_ends_with_one_line_and_code_2(home, arguments, capsys, changed, named):
    capsys.readouterr()
    assert run_command(main, [*arguments, *(part for pair in changed.items() for part in pair)]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert named in line
    assert not (home / "loras").exists()


def test_nothing_to_resume_ends_with_one_line_and_code_2(home, arguments, write, capsys):
    assert run_command(main, [*arguments, "--settings", write(), "--resume"]) == 2
    assert "--resume" in capsys.readouterr().err.splitlines()[-1]


# Before the model is loaded


@pytest.fixture
def unloadable(home, arguments):
    """The arguments, with a model whose weights cannot be loaded: what is refused now is refused before."""
    save_file({}, home / "models" / "tiny" / "model.safetensors")
    return arguments


@pytest.mark.parametrize(
    ("line", "named"),
    [
        ("targets: q_prj", "q_proj"),
        ("targets: 'layers.9.*'", "layers.9"),
        ("optimizer: lomo", "lomo"),
        ("optimizer: galore_adamw", "galore_adamw"),
        ("schedule: cosine_with_min_lr", "cosine"),
    ],
)
def test_settings_that_cannot_be_trained_are_refused_before_the_model_is_loaded(
    home, unloadable, write, capsys, line, named
):
    capsys.readouterr()
    assert run_command(main, [*unloadable, "--settings", write(line)]) == 2
    assert named in capsys.readouterr().err.splitlines()[-1]
    assert not (home / "runs").exists()


def test_targets_that_the_model_has_pass_to_the_loading(unloadable, write, capsys):
    assert run_command(main, [*unloadable, "--settings", write("targets: q_proj,embed_tokens")]) == 2
    assert "lacks" in capsys.readouterr().err.splitlines()[-1]


@pytest.mark.parametrize(
    ("files", "named"),
    [
        ({}, "Omit --resume"),
        ({"checkpoint-3/trainer_state.json": '{"global_step": 3}'}, "plan.json is missing"),
        ({"checkpoint-3/trainer_state.json": '{"global_step": 3}', "plan.json": "{"}, "not valid JSON"),
        (
            {"checkpoint-3/trainer_state.json": '{"global_step": 3}', "plan.json": '{"rows_sha256": "x"}'},
            "other rows",
        ),
        (
            {"checkpoint-3/trainer_state.json": '{"global_step": 3}', "plan.json": '{"settings": 1}'},
            "no settings",
        ),
        ({"checkpoint-3/trainer_state.json": '{"global_step": "x"}'}, "Omit --resume"),
        ({"checkpoint-3/trainer_state.json": '{"global_step": Infinity}'}, "Omit --resume"),
    ],
)
def test_training_that_cannot_be_resumed_is_refused_before_the_model_is_loaded(
    home, unloadable, write, capsys, files, named
):
    for path, content in files.items():
        write_text(home / "runs" / "checkpoints" / "mine" / path, content)
    assert run_command(main, [*unloadable, "--settings", write(), "--resume"]) == 2
    assert named in capsys.readouterr().err.splitlines()[-1]
