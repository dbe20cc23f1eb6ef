"""LoRAs for other programs: the WebUI of 2023 and of today, llama.cpp, vLLM."""

import json
import math
import shutil

import pytest
import torch
from gguf import GGUFReader
from support.gguf import make_tiny_gguf
from support.loras import change_config, change_weights, read_json
from support.tiny import make_tiny_model

from helpers import adapters
from helpers.adapters.__main__ import main
from helpers.adapters.exporting import PEFT_2023
from helpers.adapters.fingerprint import compute_logits
from helpers.adapters.webui_parameters import copy_settings
from helpers.common.command import run_command
from helpers.common.errors import (
    AlreadyThereError,
    DamagedError,
    MismatchError,
    NotFoundError,
    UnsupportedError,
    UsageError,
)

PROMPT = [{"role": "user", "content": "Where to?"}]
WEBUIS = ["webui", "webui-2023"]


def read_parameters(folder):
    return read_json(folder / "training_parameters.json")


# The WebUI, 2023 and today


def test_export_for_the_webui_of_2023_has_its_files_and_prints_the_folder(trained, home, capsys):
    assert run_command(main, ["export", "mine", "--for", "webui-2023"]) == 0
    folder = home / "runs" / "exports" / "webui-2023" / "mine"
    assert capsys.readouterr().out.strip() == str(folder)
    names = sorted(path.name for path in folder.iterdir())
    assert names == ["adapter_config.json", "adapter_model.bin", "training_parameters.json"]


def test_export_for_the_webui_of_2023_has_only_the_fields_of_that_peft(trained):
    config = read_json(adapters.export_adapter("mine", "webui-2023") / "adapter_config.json")
    assert set(config) <= set(PEFT_2023)
    assert config["base_model_name_or_path"] == "models/tiny"
    assert config["r"] == 4


def test_export_for_the_webui_of_2023_names_layers_one_by_one(trained):
    parameters = read_parameters(adapters.export_adapter("mine", "webui-2023"))
    assert parameters["q_proj_en"] is True
    assert parameters["down_proj_en"] is True
    assert "all_linear" not in parameters


def test_files_of_a_lora_and_of_its_exports_can_be_read_as_other_files(trained, home):
    (home / "probe").touch()
    ordinary = (home / "probe").stat().st_mode
    for folder in (home / "loras" / "mine", *(adapters.export_adapter("mine", each) for each in WEBUIS)):
        assert {path.stat().st_mode for path in folder.iterdir()} == {ordinary}


def test_lora_of_the_kit_is_exported_with_the_settings_of_its_training(trained):
    for program in WEBUIS:
        parameters = read_parameters(adapters.export_adapter("mine", program))
        assert parameters["epochs"] == 1
        assert parameters["learning_rate"] == "0.01"
        assert parameters["micro_batch_size"] == 4
        assert parameters["warmup_steps"] == math.ceil(
            0.03 * read_json(trained / "run.json")["planned_steps"]
        )


def test_export_for_the_webui_of_2023_attaches_with_the_same_logits(trained, home, load_tiny):
    wanted = compute_logits(adapters.attach_adapter(load_tiny(), "mine"), PROMPT)
    shutil.copytree(adapters.export_adapter("mine", "webui-2023"), home / "loras" / "old")
    assert torch.equal(compute_logits(adapters.attach_adapter(load_tiny(), "old"), PROMPT), wanted)


@pytest.mark.parametrize("values", [{"use_rslora": True}, {"init_lora_weights": "pissa"}], ids=str)
def test_export_for_2023_refuses_what_that_peft_did_not_know(made, home, values):
    change_config(made[0], **values)
    with pytest.raises(UnsupportedError, match=next(iter(values))):
        adapters.export_adapter("a", "webui-2023")
    assert not (home / "runs").exists()


def test_export_for_today_s_webui_is_the_folder_with_its_settings(made):
    folder = adapters.export_adapter("a", "webui")
    copied = {path.name for path in made[0].iterdir()}
    assert {path.name for path in folder.iterdir()} == copied | {"training_parameters.json"}
    assert copy_settings(folder).lora_r == 4


def test_export_for_today_s_webui_keeps_the_settings_that_are_there(made):
    (made[0] / "training_parameters.json").write_text('{"lora_rank": 4, "epochs": 7, "own": 1}')
    parameters = read_parameters(adapters.export_adapter("a", "webui"))
    assert parameters == {"lora_rank": 4, "epochs": 7, "own": 1}


def test_second_export_replaces_the_first(made):
    folder = adapters.export_adapter("a", "webui")
    (folder / "left over").write_text("")
    assert adapters.export_adapter("a", "webui") == folder
    assert not (folder / "left over").exists()


# A LoRA that was trained elsewhere


@pytest.mark.parametrize("program", WEBUIS)
def test_lora_from_elsewhere_is_exported_with_what_its_own_files_record_and_nothing_else(made, program):
    parameters = read_parameters(adapters.export_adapter("a", program))
    config = read_json(made[0] / "adapter_config.json")
    assert parameters["lora_rank"] == config["r"] == 4
    assert parameters["lora_alpha"] == config["lora_alpha"] == 16
    assert parameters["lora_dropout"] == config["lora_dropout"] == 0
    unrecorded = {
        "epochs",
        "learning_rate",
        "micro_batch_size",
        "batch_size",
        "cutoff_len",
        "lr_scheduler_type",
        "optimizer",
    }
    assert unrecorded & set(parameters) == set()


WHOLE_PATHS = ["model.layers.0.self_attn.q_proj", "model.layers.1.self_attn.q_proj"]


@pytest.mark.parametrize("program", WEBUIS)
@pytest.mark.parametrize("targets", [["q_proj"], WHOLE_PATHS, ".*q_proj"], ids=["name", "paths", "pattern"])
def test_layers_tick_their_boxes_however_peft_records_them(made, program, targets):
    def keep_queries(tensors):
        return {name: tensor for name, tensor in tensors.items() if "q_proj" in name}

    change_config(made[0], target_modules=targets)
    change_weights(made[0], keep_queries)
    parameters = read_parameters(adapters.export_adapter("a", program))
    assert [box for box, ticked in parameters.items() if box.endswith("_proj_en") and ticked] == ["q_proj_en"]


@pytest.mark.parametrize("program", WEBUIS)
def test_lora_from_elsewhere_does_not_claim_an_eos_token(made, program):
    parameters = read_parameters(adapters.export_adapter("a", program))
    assert "add_eos_token" not in parameters


def test_settings_of_the_webui_s_own_training_survive_an_export_for_2023(made):
    recorded = {
        "lora_rank": 4,
        "epochs": 3.0,
        "learning_rate": "3e-4",
        "batch_size": 128,
        "micro_batch_size": 4,
        "cutoff_len": 256,
    }
    (made[0] / "training_parameters.json").write_text(json.dumps({**recorded, "lora_name": "a"}))
    parameters = read_parameters(adapters.export_adapter("a", "webui-2023"))
    assert float(parameters.pop("learning_rate")) == float(recorded.pop("learning_rate"))
    assert {name: parameters[name] for name in recorded} == recorded


def test_eos_token_that_the_webui_did_not_add_is_not_claimed(made):
    recorded = {"lora_rank": 4, "learning_rate": "3e-4", "add_eos_token": False}
    (made[0] / "training_parameters.json").write_text(json.dumps(recorded))
    parameters = read_parameters(adapters.export_adapter("a", "webui-2023"))
    assert not parameters.get("add_eos_token")


ODD_PARAMETERS = [
    '{"learning_rate": "fast"}',
    '{"learning_rate": null}',
    '{"lora_dropout": []}',
    '{"batch_size": 4, "micro_batch_size": 0}',
    '{"batch_size": "128", "micro_batch_size": 4}',
    '{"batch_size": 128, "micro_batch_size": "4"}',
]


@pytest.mark.parametrize("content", ODD_PARAMETERS)
def test_settings_that_cannot_be_understood_are_one_error_that_names_the_file(made, content):
    (made[0] / "training_parameters.json").write_text(content)
    with pytest.raises(DamagedError, match="training_parameters.json"):
        adapters.export_adapter("a", "webui-2023")


# Where exports go


def test_export_does_not_overwrite_what_is_at_the_output(made, home):
    (home / "precious").mkdir()
    (home / "precious" / "file").write_text("mine")
    with pytest.raises(AlreadyThereError, match="precious"):
        adapters.export_adapter("a", "webui", home / "precious")
    assert (home / "precious" / "file").read_text() == "mine"


def test_export_goes_to_the_output_that_is_named(made, home):
    assert adapters.export_adapter("a", "webui", home / "here") == home / "here"
    assert (home / "here" / "adapter_model.safetensors").is_file()


def test_program_that_nothing_is_exported_for_is_refused(made):
    with pytest.raises(UsageError, match="'ollama'"):
        adapters.export_adapter("a", "ollama")


def test_several_loras_are_refused_for_a_program_that_takes_one(made, capsys):
    assert run_command(main, ["export", "a", "b", "--for", "webui"]) == 2
    assert len(capsys.readouterr().err.splitlines()) == 1


# llama.cpp


def test_export_for_llama_cpp_takes_the_gguf_version_of_the_base(made, home):
    make_tiny_gguf(home / "models" / "tiny-GGUF", home / "models" / "tiny")
    path = adapters.export_adapter("a", "llama.cpp")
    assert path == home / "runs" / "exports" / "llama.cpp" / "a.gguf"
    assert len(GGUFReader(path).tensors) == 2 * 2 * 7  # A and B of seven layers in two blocks


def test_export_of_a_name_that_ends_with_a_slash_has_the_lora_s_name(made, home):
    make_tiny_gguf(home / "models" / "tiny-GGUF", home / "models" / "tiny")
    assert adapters.export_adapter("a/", "llama.cpp").name == "a.gguf"


@pytest.mark.parametrize("recorded", ["models/tiny-GPTQ", "models/tiny-GGUF"])
def test_gguf_version_is_found_for_quantised_bases_too(made, home, recorded):
    make_tiny_gguf(home / "models" / "tiny-GGUF", home / "models" / "tiny")
    change_config(made[0], base_model_name_or_path=recorded)
    assert adapters.export_adapter("a", "llama.cpp").is_file()


def test_export_for_llama_cpp_without_the_gguf_version_names_it(made):
    with pytest.raises(NotFoundError, match="tiny-GGUF"):
        adapters.export_adapter("a", "llama.cpp")


def test_export_for_llama_cpp_needs_a_recorded_base(made):
    change_config(made[0], base_model_name_or_path=None)
    with pytest.raises(MismatchError, match="base_model_name_or_path"):
        adapters.export_adapter("a", "llama.cpp")


# vLLM


def test_vllm_command_fits_rank_number_of_loras_gpus_and_machines(made, capsys):
    assert run_command(main, ["export", "a", "b", "--for", "vllm", "--gpus", "4", "--machines", "2"]) == 0
    head, worker, serve = capsys.readouterr().out.strip().splitlines()
    assert head.startswith("ray start --head")
    assert worker.startswith("ray start --address")
    assert serve.startswith("vllm serve models/tiny ")
    assert "--lora-modules a=loras/a b=loras/b --max-lora-rank 8 --max-loras 2 " in serve
    assert "--tensor-parallel-size 4 --pipeline-parallel-size 2" in serve


def test_vllm_command_for_one_gpu_is_one_line(made):
    (line,) = adapters.build_vllm_command(["a"])
    assert "--max-loras 1 " in line
    assert "parallel-size" not in line


@pytest.mark.parametrize(
    "recorded", ["acme/tiny", "models/acme_tiny", "/hub/models--acme--tiny/snapshots/0a1b"]
)
def test_vllm_command_has_paths_that_exist_in_the_home(made, home, recorded):
    (home / "models" / "tiny").rename(home / "models" / "acme_tiny")
    change_config(made[0], base_model_name_or_path=recorded)
    (line,) = adapters.build_vllm_command(["a"])
    words = line.split()
    assert words[2] == "models/acme_tiny"
    assert (home / words[2]).is_dir()
    assert (home / words[words.index("--lora-modules") + 1].partition("=")[2]).is_dir()


@pytest.mark.parametrize(
    ("change", "error", "named"),
    [
        ({"base_model_name_or_path": "models/other"}, MismatchError, "other, tiny"),
        ({"base_model_name_or_path": "acme/absent"}, NotFoundError, "fetch acme/absent"),
        ({"base_model_name_or_path": None}, MismatchError, "a .*base_model_name_or_path"),
        ({"use_dora": True}, UnsupportedError, "DoRA.*vLLM"),
        ({"peft_type": "IA3"}, UnsupportedError, "IA3"),
    ],
    ids=str,
)
def test_vllm_command_is_refused_for_what_vllm_does_not_take(made, home, change, error, named):
    make_tiny_model(home / "models" / "other")
    change_config(made[0], **change)
    with pytest.raises(error, match=named):
        adapters.build_vllm_command(["a", "b"])


def test_vllm_command_is_refused_for_a_rank_above_its_limit(made):
    def widen(tensors):
        wide = {}
        for name, tensor in tensors.items():
            shape = (513, tensor.shape[1]) if "lora_A" in name else (len(tensor), 513)
            wide[name] = torch.zeros(shape)
        return wide

    change_weights(made[0], widen)
    change_config(made[0], r=513)
    with pytest.raises(UnsupportedError, match="512.*513"):
        adapters.build_vllm_command(["a"])
