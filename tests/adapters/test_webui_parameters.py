"""training_parameters.json, where the WebUI's training tab keeps its settings, in 2023 and today."""

import json
from dataclasses import asdict

import pytest
from support.loras import change_config

from helpers import adapters
from helpers.adapters.webui_parameters import build_parameters, read_parameters, read_recorded_settings
from helpers.common.presets import PRESETS, pick_settings
from helpers.common.training_settings import TrainingSettings

BOXES = ["q_proj_en", "v_proj_en", "k_proj_en", "o_proj_en", "gate_proj_en", "down_proj_en", "up_proj_en"]


@pytest.mark.parametrize("targets", ["q_proj,v_proj", "down_proj"])
@pytest.mark.parametrize("preset", PRESETS)
def test_settings_of_a_lora_survive_the_webui_s_names(preset, targets):
    changes = {"targets": targets, "warmup_ratio": 7}  # 7 steps
    settings = asdict(pick_settings(preset).replace(changes))
    back = read_parameters(build_parameters("mine", settings))
    assert back == {name: settings[name] for name in back}
    assert set(settings) - set(back) == {
        "max_rows",
        "batch",
        "weight_decay",
        "max_grad_norm",
        "checkpoint_steps",
        "seed",
        "turns",
    }


def test_batch_size_of_the_webui_is_that_of_a_step():
    parameters = build_parameters("mine", asdict(TrainingSettings(batch_size=4, accumulation=32)))
    assert parameters["micro_batch_size"] == 4
    assert parameters["batch_size"] == 128


def test_warm_up_of_the_webui_is_counted_in_batches():
    settings = {"batch_size": 4, "accumulation": 8}
    for warmup, batches in ((5, 40), (0.05, 80), (0, 0)):  # of 200 steps
        parameters = build_parameters("mine", {**settings, "warmup_ratio": warmup}, steps=200)
        assert parameters["warmup_steps"] == batches
    assert (
        read_parameters({"micro_batch_size": 4, "batch_size": 32, "warmup_steps": 100})["warmup_ratio"] == 13
    )


def test_share_of_an_unknown_number_of_steps_is_omitted():
    assert "warmup_steps" not in build_parameters("mine", {"warmup_ratio": 0.05})


def test_learning_rate_of_the_webui_is_text():
    assert build_parameters("mine", {"learning_rate": 3e-4})["learning_rate"] == "0.0003"
    assert read_parameters({"learning_rate": "3e-4"}) == {"learning_rate": 3e-4}


def test_all_linear_layers_tick_one_box():
    parameters = build_parameters("mine", {"targets": "all-linear"})
    assert parameters["all_linear"] is True
    assert not any(parameters[box] for box in BOXES)


def test_named_layers_tick_their_boxes():
    parameters = build_parameters("mine", {"targets": "q_proj,v_proj"})
    assert parameters["all_linear"] is False
    assert [box for box in BOXES if parameters[box]] == ["q_proj_en", "v_proj_en"]


def test_unknown_settings_are_omitted():
    assert set(build_parameters("mine", {"lora_r": 4})) <= {"lora_name", "lora_rank", "add_eos_token"}
    assert read_parameters({"lora_rank": 4, "higher_rank_limit": False}) == {"lora_r": 4}


def test_boxes_without_all_linear_are_read_as_layers():
    boxes = {"q_proj_en": True, "v_proj_en": True, "k_proj_en": False}
    assert read_parameters(boxes) == {"targets": "q_proj,v_proj"}
    assert read_parameters({**boxes, "all_linear": False}) == {"targets": "q_proj,v_proj"}


def test_boxes_below_all_linear_are_not_read():
    assert "targets" not in read_parameters({"q_proj_en": True, "all_linear": True})


def test_batch_smaller_than_the_micro_batch_is_one_batch_a_step():
    assert read_parameters({"batch_size": 2, "micro_batch_size": 4})["accumulation"] == 1


def test_config_has_the_last_word_about_the_lora_s_shape(made):
    recorded = {"lora_rank": 99, "lora_alpha": 99, "epochs": 3.0, "q_proj_en": True}
    (made[0] / "training_parameters.json").write_text(json.dumps(recorded))
    change_config(made[0], target_modules=["v_proj", "q_proj"], lora_dropout=0.25)
    assert read_recorded_settings(adapters.AdapterFolder(made[0])) == {
        "lora_r": 4,
        "lora_alpha": 16,
        "lora_dropout": 0.25,
        "targets": "q_proj,v_proj",
        "epochs": 3.0,
    }


def test_parameters_alone_are_enough(tmp_path):
    (tmp_path / "training_parameters.json").write_text('{"lora_rank": 32}')
    assert read_recorded_settings(adapters.AdapterFolder(tmp_path)) == {"lora_r": 32}


def test_folder_without_either_file_records_nothing(tmp_path):
    assert read_recorded_settings(adapters.AdapterFolder(tmp_path)) == {}
