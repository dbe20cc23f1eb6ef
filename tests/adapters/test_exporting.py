"""LoRAs for other programs: the WebUI of 2023 and of today, llama.cpp, vLLM."""

import json
import math
import os
import shutil
import sys
import time

import pytest
import torch
from gguf import GGUFReader
from safetensors.torch import save_file
from support.gguf import make_tiny_gguf
from support.holder import hold_elsewhere
from support.loras import change_config, change_weights, read_json
from support.tiny import make_tiny_model

from helpers import adapters
from helpers.adapters.__main__ import main
from helpers.adapters.exporting import PEFT_2023, split_evenly
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
from helpers.weights.shape import Shape

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
    assert names == ["adapter_config.json", "adapter_model.bin", "export.json", "training_parameters.json"]


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
    assert {path.name for path in folder.iterdir()} == copied | {"training_parameters.json", "export.json"}
    assert copy_settings(folder).lora_r == 4


def test_export_for_today_s_webui_keeps_the_settings_that_are_there(made):
    (made[0] / "training_parameters.json").write_text('{"lora_rank": 4, "epochs": 7, "own": 1}')
    parameters = read_parameters(adapters.export_adapter("a", "webui"))
    assert parameters == {"lora_rank": 4, "epochs": 7, "own": 1}


def test_second_export_replaces_the_first(made):
    folder = adapters.export_adapter("a", "webui")
    (made[0] / "README.md").write_text("new")
    assert adapters.export_adapter("a", "webui") == folder
    assert (folder / "README.md").read_text() == "new"


@pytest.mark.parametrize("program", WEBUIS)
def test_own_files_in_an_export_are_never_lost(made, program):
    folder = adapters.export_adapter("a", program)
    (folder / "own.txt").write_text("precious")
    with pytest.raises(AlreadyThereError, match="own|did not make"):
        adapters.export_adapter("a", program)
    (folder / "own.txt").unlink()
    (folder / "adapter_config.json").write_text("changed by hand")
    with pytest.raises(AlreadyThereError):
        adapters.export_adapter("a", program)
    assert (folder / "adapter_config.json").read_text() == "changed by hand"


def test_folder_in_the_place_of_an_export_stays(made, home):
    folder = home / "runs" / "exports" / "webui" / "a"
    folder.mkdir(parents=True)
    (folder / "own.txt").write_text("precious")
    with pytest.raises(AlreadyThereError):
        adapters.export_adapter("a", "webui")
    assert (folder / "own.txt").read_text() == "precious"


@pytest.mark.parametrize("program", WEBUIS)
def test_lora_does_not_take_the_place_of_the_exports_of_models(made, home, program):
    made[0].rename(home / "loras" / "models")
    with pytest.raises(UsageError, match="--output"):
        adapters.export_adapter("models", program)
    assert adapters.export_adapter("models", program, home / "elsewhere").is_dir()


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no such files")
def test_export_has_the_files_of_the_lora_and_nothing_else_in_its_folder(made, home):
    (home / "secret").mkdir()
    (home / "secret" / "key").write_text("KEY")
    before = {path.name for path in made[0].iterdir()}
    for name, target in (("sec", home / "secret"), ("up", ".."), ("loop", "."), ("dead", "nothing")):
        (made[0] / name).symlink_to(target)
    os.mkfifo(made[0] / "pipe")
    folder = adapters.export_adapter("a", "webui")
    assert {path.name for path in folder.iterdir()} == before | {"training_parameters.json", "export.json"}


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no such files")
@pytest.mark.parametrize("kind", ["link", "dead", "pipe"])
def test_file_of_a_lora_that_leads_out_of_its_folder_is_refused_by_name(made, home, kind):
    (home / "key").write_text("KEY")
    path = made[0] / "README.md"
    path.unlink(missing_ok=True)
    if kind == "pipe":
        os.mkfifo(path)
    else:
        path.symlink_to(home / ("key" if kind == "link" else "nothing"))
    with pytest.raises(UnsupportedError, match=r"README\.md"):
        adapters.export_adapter("a", "webui")
    assert not list((home / "runs").rglob("README.md"))


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


@pytest.mark.parametrize(
    ("heads", "gpus", "used"),
    # (attention heads, key-value heads, width of the MLP), of SmolLM2 135M, Llama 2 70B and Qwen 3 4B
    [
        ((9, 3, 1536), 4, 3),
        ((9, 3, 1536), 2, 1),
        ((64, 8, 28672), 16, 16),
        ((32, 8, 9728), 6, 4),
        ((6, 4, 96), 6, 2),
    ],
)
def test_model_is_split_across_as_many_gpus_as_share_its_heads_evenly(heads, gpus, used):
    attention, keys, mlp = heads
    shape = Shape(layers=1, hidden=64, intermediate=mlp, heads=attention, kv_heads=keys, head_size=16)
    assert split_evenly(shape, gpus) == used


def test_vllm_command_says_that_it_leaves_gpus_idle(made):
    note, serve = adapters.build_vllm_command(["a"], gpus=3)  # the model has 4 heads
    assert note.startswith("# 2 of 3 GPUs")
    assert "--tensor-parallel-size 2" in serve


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


# What is there already


@pytest.mark.parametrize("place", ["loras/a/out", "loras/out", "models/tiny/out"])
def test_export_into_models_or_loras_is_refused(made, home, place):
    with pytest.raises(UsageError, match="kept|read here"):
        adapters.export_adapter("a", "webui", home / place)
    assert not (home / place).exists()


def test_edited_export_is_not_replaced(made):
    written = adapters.export_adapter("a", "webui") / "adapter_config.json"
    time.sleep(0.02)  # the clock of a disk is not finer
    written.write_text(written.read_text().replace('"lora_alpha": 16', '"lora_alpha": 64'))
    with pytest.raises(AlreadyThereError):
        adapters.export_adapter("a", "webui")
    assert read_json(written)["lora_alpha"] == 64


def test_folder_of_somebody_else_is_not_replaced_by_an_export(made, tmp_path):
    (tmp_path / "own").mkdir()
    (tmp_path / "own" / "file").write_text("precious")
    for program in ("webui", "webui-2023", "llama.cpp"):
        with pytest.raises(AlreadyThereError):
            adapters.export_adapter("a", program, tmp_path / "own")
    assert (tmp_path / "own" / "file").read_text() == "precious"


def test_two_exports_to_one_place_are_kept_apart(made, home):
    with hold_elsewhere(home / "runs" / "exports" / "webui" / "a", "an export"):
        with pytest.raises(AlreadyThereError):
            adapters.export_adapter("a", "webui")
    adapters.export_adapter("a", "webui")


@pytest.mark.parametrize("program", ["webui-2023", "webui", "llama.cpp", "vllm"])
def test_lora_with_nan_is_not_exported(made, capsys, program):
    change_weights(made[0], lambda tensors: {name: tensor * math.nan for name, tensor in tensors.items()})
    assert run_command(main, ["export", "a", "--for", program]) == 2
    error = capsys.readouterr().err
    assert "NaN" in error and len(error.splitlines()) == 1


@pytest.mark.parametrize("program", WEBUIS)
def test_lora_without_matrices_is_not_exported(made, program):
    save_file({}, made[0] / "adapter_model.safetensors", metadata={"format": "pt"})
    with pytest.raises(DamagedError, match="no matrices"):
        adapters.export_adapter("a", program)
