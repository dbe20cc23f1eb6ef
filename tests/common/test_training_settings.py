"""Training settings: presets, YAML files, and those that a LoRA's own files record."""

import json
from dataclasses import asdict

import pytest
import torch
import yaml
from transformers import get_scheduler
from transformers.trainer_utils import SchedulerType
from trl import SFTConfig

from helpers.adapters.webui_parameters import copy_settings
from helpers.common.errors import DamagedError, MissingPackageError, NotFoundError, UsageError
from helpers.common.presets import PRESETS, explain_changes, pick_settings
from helpers.common.training_settings import LIMITS, SCHEDULES, TrainingSettings, check_optimizer


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


@pytest.mark.parametrize("key", LIMITS)
def test_numbers_from_the_smallest_to_the_largest_are_taken(key):
    smallest, largest = LIMITS[key]
    largest = 0.999 if key == "lora_dropout" else largest
    for value in (smallest, largest):
        assert getattr(TrainingSettings().replace({key: value}), key) == value


@pytest.mark.parametrize("value", ["-1", ".nan", ".inf", "-.inf", "1e31", f"{10**400}", "'2'", "true", "[]"])
@pytest.mark.parametrize("key", LIMITS)
def test_number_that_no_training_can_have_is_refused(write, key, value):
    with pytest.raises(UsageError, match=key) as caught:
        pick_settings(str(write(f"{key}: {value}")))
    assert len(str(caught.value)) < 300


@pytest.mark.parametrize(
    "line",
    [
        *(
            f"{key}: 0"
            for key in ("lora_r", "lora_alpha", "epochs", "batch_size", "accumulation", "max_length")
        ),
        "learning_rate: 0",
        "lora_dropout: 1.0",
        f"seed: {2**32}",
        "warmup_ratio: 1.5",
    ],
)
def test_number_at_the_edge_that_no_training_can_have_is_refused(write, line):
    with pytest.raises(UsageError, match=line.partition(":")[0]):
        pick_settings(str(write(line)))


@pytest.mark.parametrize("ratio", [0, 0.5, 1, 1.0, 5])
def test_warm_up_is_a_share_or_a_whole_number_of_steps(ratio):
    assert TrainingSettings(warmup_ratio=ratio).warmup_ratio == ratio


def test_values_are_checked_without_a_file_too():
    with pytest.raises(UsageError, match="lora_dropout"):
        TrainingSettings(lora_dropout=2)


# A batch that is chosen


def test_batch_size_may_be_auto_wherever_settings_are_given(write):
    wanted = TrainingSettings(batch="auto")
    assert pick_settings(str(write("batch_size: auto\n"))) == wanted
    assert TrainingSettings(batch_size="auto") == wanted
    assert TrainingSettings().replace({"batch_size": "auto"}) == wanted


def test_auto_keeps_the_number_that_the_learning_rate_was_chosen_for():
    settings = pick_settings("tiny").replace({"batch_size": "auto"})
    assert (settings.batch_size, settings.batch) == (8, "auto")


def test_number_ends_auto():
    settings = TrainingSettings(batch_size="auto").replace({"batch_size": 2})
    assert settings == TrainingSettings(batch_size=2)


@pytest.mark.parametrize("times", [0.5, 1, 4])
def test_learning_rate_grows_with_the_square_root_of_the_batch(times):
    before = TrainingSettings(batch_size="auto")
    after = before.take_batch(int(4 * times))
    assert after.batch_size == 4 * times
    assert after.learning_rate == pytest.approx(before.learning_rate * times**0.5)
    assert after == TrainingSettings(batch_size=after.batch_size, learning_rate=after.learning_rate)


@pytest.mark.parametrize("value", ["atuo", "Auto", "8"])
def test_other_words_for_a_batch_are_refused_with_auto(write, value):
    with pytest.raises(UsageError, match="batch_size.*int, or auto"):
        pick_settings(str(write(f"batch_size: '{value}'")))


# Names


@pytest.mark.parametrize("name", SCHEDULES)
def test_schedule_needs_nothing_but_its_name(name):
    optimizer = torch.optim.SGD([torch.zeros(1)])
    get_scheduler(name, optimizer, num_warmup_steps=1, num_training_steps=2)
    SFTConfig(lr_scheduler_type=TrainingSettings(schedule=name).schedule, use_cpu=True)


@pytest.mark.parametrize("name", sorted({kind.value for kind in SchedulerType} - {*SCHEDULES}))
def test_schedule_that_needs_more_is_refused(name):
    with pytest.raises((TypeError, ValueError)):  # otherwise the kit could offer it
        SFTConfig(lr_scheduler_type=name, use_cpu=True)
        get_scheduler(name, torch.optim.SGD([torch.zeros(1)]), num_warmup_steps=1, num_training_steps=2)
    with pytest.raises(UsageError, match=name):
        TrainingSettings(schedule=name)


@pytest.mark.parametrize("name", ["galore_adamw", "apollo_adamw_layerwise"])
def test_optimizer_that_needs_names_of_layers_is_refused(name):
    with pytest.raises(UsageError, match=name):
        TrainingSettings(optimizer=name)


@pytest.mark.parametrize("name", ["adamw_torch_fused", "adafactor", "sgd"])
def test_optimizer_of_installed_packages_can_be_used(name):
    check_optimizer(TrainingSettings(optimizer=name))


@pytest.mark.parametrize(
    ("name", "near"),
    [("schedule_free_adamw", "adamw_torch"), ("lomo", "adamw_torch_fused"), ("rmsprop_bnb", "rmsprop")],
)
def test_optimizer_whose_package_is_missing_is_refused_with_one_that_is_there(name, near):
    with pytest.raises(MissingPackageError, match=f"{name}.*{near}"):
        check_optimizer(TrainingSettings(optimizer=name))


@pytest.mark.parametrize("number", ["2e-4", "2E-4", "2.0e-4", "0.0002", "+2e-4"])
def test_numbers_may_have_an_exponent_without_a_decimal_point(write, number):
    assert pick_settings(str(write(f"learning_rate: {number}"))).learning_rate == 0.0002


@pytest.mark.parametrize("text", ["010", "+10", "10"])
def test_whole_numbers_are_decimal(write, text):
    assert pick_settings(str(write(f"max_rows: {text}"))).max_rows == 10


@pytest.mark.parametrize("text", ["1:30", "1_000", "0x1f", "0b11", "1.5.2", ".inf", ".nan"])
def test_what_yaml_1_2_does_not_take_for_a_number_is_refused(write, text):
    with pytest.raises(UsageError, match="epochs"):
        pick_settings(str(write(f"epochs: {text}")))


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
    with pytest.raises(DamagedError, match="wide"):
        copy_settings(tmp_path)


@pytest.mark.parametrize(
    "line", ["a: 2001-99-99", "epochs: 1\nepochs: 2", "? [a]\n: 1", "epochs: !!int ''", "a: " + "[" * 1000]
)
def test_file_that_pyyaml_fails_on_is_damaged(write, line):
    with pytest.raises(DamagedError, match="settings.yaml"):
        TrainingSettings.from_yaml(write(line))


def test_number_that_python_cannot_write_down_is_refused(write):
    with pytest.raises(UsageError, match="lora_r"):
        TrainingSettings.from_yaml(write("lora_r: 0x" + "f" * 5000))


def nest(first, form):
    """YAML of eight lines, each with ten times what the line before stands for."""
    names = "abcdefgh"
    lines = [f"a: &a {first}"]
    lines += [
        f"{name}: &{name} {form.format(','.join([f'*{before}'] * 10))}"
        for before, name in zip(names, names[1:], strict=False)
    ]
    return "\n".join(lines)


@pytest.mark.parametrize("text", [
    nest("[x,x,x,x,x,x,x,x,x,x]", "[{}]").replace("h: ", "epochs: "),
    "epochs: [" + ", ".join(line.partition(": ")[2] for line in nest("[x,x]", "[{}]").splitlines()) + "]",
    nest("{x: 1, y: 2}", "{{<<: [{}]}}"),
])  # fmt: skip
def test_settings_that_stand_for_billions_of_values_are_refused_at_once(tmp_path, text):
    (tmp_path / "settings.yaml").write_text(text)
    with pytest.raises((UsageError, DamagedError)) as caught:
        TrainingSettings.from_yaml(tmp_path / "settings.yaml")
    assert len(str(caught.value)) < 1000
