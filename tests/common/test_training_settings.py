"""Training settings: presets, YAML files, and those that a LoRA's own files record."""

import json
from dataclasses import asdict

import pytest
import yaml

from helpers.adapters.webui_parameters import copy_settings
from helpers.common.errors import DamagedError, NotFoundError, UsageError
from helpers.common.training_settings import PRESETS, TrainingSettings, explain_changes, pick_settings


@pytest.fixture
def write(tmp_path):
    """A function that writes a settings file and returns its path."""

    def write(text):
        path = tmp_path / "settings.yaml"
        path.write_text(text, encoding="latin-1")
        return path

    return write


# Presets


def test_tutorial_s_preset_is_the_default():
    assert pick_settings("tutorial-2023") == TrainingSettings()


def test_unknown_preset_is_refused_with_those_that_are_there():
    with pytest.raises(NotFoundError, match="'tinny'.*tutorial-2023, tiny"):
        pick_settings("tinny")


@pytest.mark.parametrize("preset", PRESETS)
def test_every_change_of_a_preset_has_a_reason(preset):
    changes = explain_changes(preset)
    for _, before, here, reason in changes:
        assert reason
        assert here != before
    changed = {name: here for name, _, here, _ in changes}
    assert pick_settings(preset) == TrainingSettings().replace(changed)


# YAML files


def test_file_changes_what_it_names_and_nothing_else(write):
    assert pick_settings(str(write("epochs: 3\n"))) == TrainingSettings(epochs=3)


def test_empty_file_changes_nothing(write):
    assert pick_settings(str(write(""))) == TrainingSettings()


def test_all_settings_can_be_given_in_a_file(write):
    settings = pick_settings("tiny")
    assert pick_settings(str(write(yaml.safe_dump(asdict(settings))))) == settings


@pytest.mark.parametrize(
    "line", ["batch_size: 0", "lora_r: 0", "max_length: -1", "learning_rate: .nan", "epochs: 0"]
)
def test_number_that_no_training_can_have_is_refused(write, line):
    with pytest.raises(UsageError, match=line.partition(":")[0]):
        pick_settings(str(write(line)))


@pytest.mark.parametrize("number", ["2e-4", "2E-4", "2.0e-4", "0.0002", "+2e-4"])
def test_numbers_may_have_an_exponent_without_a_decimal_point(write, number):
    assert pick_settings(str(write(f"learning_rate: {number}"))).learning_rate == 0.0002


def test_file_that_is_missing_is_named(home):
    with pytest.raises(NotFoundError, match="nothing.yaml"):
        pick_settings("nothing.yaml")


@pytest.mark.parametrize("text", ["a: [", "epochs: \xff"], ids=["no YAML", "not UTF-8"])
def test_file_that_cannot_be_read_is_damaged(write, text):
    with pytest.raises(DamagedError, match="settings.yaml"):
        TrainingSettings.from_yaml(write(text))


@pytest.mark.parametrize(
    ("text", "named"),
    [
        ("lora_rank: 3", "lora_rank.*lora_r"),  # with what was probably meant
        ("surprise: 3", "surprise.*learning_rate"),  # with all that there are
        ("1: 3", "'1'"),
        ("epochs: many", "many.*float"),
        ("lora_r: 2.5", "2.5.*int"),
        ("lora_r: true", "True.*int"),
        ("targets: [q_proj]", "q_proj.*str"),
        ("optimizer: adamw_torhc", "adamw_torhc.*adamw_torch"),
        ("turns: first", "unknown turns 'first'.*all, last"),
        ("schedule: surprise", "schedule 'surprise'.*cosine"),
        ("- 1", "settings.yaml"),
        ("7", "settings.yaml"),
    ],
)
def test_wrong_settings_are_refused_by_name(write, text, named):
    with pytest.raises(UsageError, match=named):
        TrainingSettings.from_yaml(write(text))


@pytest.mark.parametrize("epochs", ["0", "0.0", "-1", ".nan", ".inf"])
def test_number_of_epochs_that_trains_nothing_or_never_ends_is_refused(write, epochs):
    with pytest.raises(UsageError, match="epochs"):
        TrainingSettings.from_yaml(write(f"epochs: {epochs}"))


def test_part_of_an_epoch_is_enough(write):
    assert TrainingSettings.from_yaml(write("epochs: 0.5")).epochs == 0.5


@pytest.mark.parametrize(
    ("text", "steps"), [("", 50), ("checkpoint_steps: 0", 0), ("checkpoint_steps: 7", 7)]
)
def test_checkpoint_steps_are_50_unless_the_file_says_otherwise(write, text, steps):
    assert TrainingSettings.from_yaml(write(text)).checkpoint_steps == steps


def test_whole_numbers_are_accepted_for_shares(write):
    assert TrainingSettings.from_yaml(write("lora_dropout: 0")).lora_dropout == 0


# Settings of a LoRA that is there


BOXES = {"q_proj_en": True, "v_proj_en": True, "k_proj_en": False, "o_proj_en": False}


@pytest.mark.parametrize(
    ("era", "targets"), [({}, "q_proj,v_proj"), ({"all_linear": True}, "all-linear")], ids=["2023", "today"]
)
def test_settings_of_a_lora_of_the_webui_are_read(tmp_path, era, targets):
    parameters = {
        "lora_name": "x",
        "lora_rank": 32,
        "lora_alpha": 64,
        "batch_size": 128,
        "micro_batch_size": 4,
        "learning_rate": "3e-4",
        "warmup_steps": 100,
        **BOXES,
        **era,
    }
    (tmp_path / "training_parameters.json").write_text(json.dumps(parameters))
    assert copy_settings(tmp_path) == TrainingSettings(
        lora_r=32,
        lora_alpha=64,
        batch_size=4,
        accumulation=32,
        learning_rate=3e-4,
        targets=targets,
        warmup_ratio=4,
    )


def test_folder_without_a_lora_is_refused(tmp_path):
    with pytest.raises(NotFoundError, match=tmp_path.name):
        copy_settings(tmp_path)


def test_lora_whose_settings_have_the_wrong_type_is_refused(tmp_path):
    (tmp_path / "training_parameters.json").write_text('{"lora_rank": "wide"}')
    with pytest.raises(UsageError, match="wide"):
        copy_settings(tmp_path)
