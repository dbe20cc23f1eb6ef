"""Which model a LoRA belongs to: every name that a model goes by, and what really is another model."""

import shutil

import pytest
import torch
from safetensors.torch import save_file
from support.gguf import make_tiny_gguf
from support.loras import change_config, change_json, read_json
from support.tiny import make_tiny_adapter, make_tiny_model

from helpers import adapters
from helpers.adapters.__main__ import main
from helpers.adapters.bases import find_gguf, read_layers
from helpers.common.command import run_command
from helpers.common.errors import DamagedError, MismatchError, NotFoundError
from helpers.server.service import ModelChoice, find_choice
from helpers.weights import ModelFolder

CACHED = "/home/ann/.cache/huggingface/hub/models--acme--tiny/snapshots/0a1b2c"
# (what adapter_config.json records, a folder's name that is that model)
SAME = [
    ("models/tiny", "tiny"),
    ("models/Tiny", "tiny"),
    ("models/tiny", "acme_tiny"),
    ("models/acme_tiny", "tiny"),
    ("models/acme_tiny", "acme_tiny"),
    ("C:\\webui\\models\\tiny\\", "tiny"),
    ("acme/tiny", "tiny"),
    ("acme/tiny", "acme_tiny"),
    ("ACME/Tiny", "acme_tiny"),
    ("acme/tiny", "acme_tiny_gptq-4bit-32g"),
    (CACHED, "tiny"),
    (CACHED, "acme_tiny"),
    ("unsloth/tiny", "acme_tiny"),
    ("unsloth/tiny-bnb-4bit", "acme_tiny"),
    ("unsloth/Tiny-unsloth-bnb-4bit", "acme_tiny"),
    ("tiny-bnb-4bit", "tiny"),
    ("acme/tiny", "tiny-bnb-4bit"),
    ("acme/tiny", "tiny-GGUF"),
    ("acme/tiny", "converter_tiny-GGUF"),
    ("acme/tiny-GPTQ", "acme_tiny-GPTQ"),
]
OTHER = [
    ("models/tiny", "other"),
    ("acme/tiny", "someone_tiny"),
    ("models/acme_tiny", "someone_tiny"),
    ("acme/tiny", "acme_tiny-GPTQ"),
    ("acme/tiny-GPTQ", "acme_tiny"),
    ("models/my_model", "my_model_v2"),
    ("acme/tiny", "acme_tinytoo"),
    (CACHED, "0a1b2c"),
    ("/kaggle/input/llama/1", "tiny_1"),
]


def rename(made, home, recorded, folder):
    """loras/a with this base recorded, and models/tiny under another name."""
    (home / "models" / "tiny").rename(home / "models" / folder)
    change_config(made[0], base_model_name_or_path=recorded)
    return adapters.AdapterFolder(made[0]), ModelFolder(home / "models" / folder)


@pytest.mark.parametrize(("recorded", "folder"), SAME)
def test_base_is_known_and_found_by_each_of_its_names(made, home, recorded, folder):
    lora, base = rename(made, home, recorded, folder)
    adapters.check_base(lora, base)
    assert adapters.find_base(lora).name == folder
    facts = adapters.describe_adapter("a")
    assert (facts.base, facts.problem) == (folder, None)


@pytest.mark.parametrize(("recorded", "folder"), OTHER)
def test_another_model_is_refused_with_both_names(made, home, recorded, folder):
    lora, base = rename(made, home, recorded, folder)
    with pytest.raises(MismatchError) as caught:
        adapters.check_base(lora, base)
    assert lora.base_name in str(caught.value)
    assert folder in str(caught.value)
    with pytest.raises(NotFoundError, match=lora.base_name):
        adapters.find_base(lora)
    assert lora.base_name in adapters.describe_adapter("a").problem


def test_base_that_is_not_there_is_fetched_by_the_command_that_the_error_names(made, home):
    lora, _ = rename(made, home, "acme/absent", "tiny")
    with pytest.raises(NotFoundError, match="helpers.weights fetch acme/absent"):
        adapters.find_base(lora)


def test_folder_is_the_model_that_it_was_fetched_from_whatever_its_name(made, home):
    lora, base = rename(made, home, "acme/tiny", "mine")
    base.write_record(source="acme/tiny", revision="main")
    adapters.check_base(lora, base)
    base.write_record(source="someone/large", revision="main")
    with pytest.raises(MismatchError, match="mine"):
        adapters.check_base(lora, base)


def test_folder_of_the_very_same_name_is_taken_before_others(made, home):
    for name in ("acme_tiny", "acme_tiny_branch", "tiny-GGUF"):
        shutil.copytree(home / "models" / "tiny", home / "models" / name)
    change_config(made[0], base_model_name_or_path="acme/tiny")
    shutil.rmtree(home / "models" / "tiny")
    assert adapters.find_base(adapters.AdapterFolder(made[0])).name == "acme_tiny"


def test_damaged_folder_beside_the_base_does_not_hide_it(made, home):
    odd = home / "models" / "odd"
    odd.mkdir()
    (odd / "weights.json").write_text("{")
    assert adapters.find_base(adapters.AdapterFolder(made[0])).name == "tiny"
    odd_base = home / "models" / "tiny" / "weights.json"
    odd_base.write_text("{")
    assert str(odd_base) in adapters.describe_adapter("a").problem


def test_any_base_that_fits_is_accepted_if_none_is_recorded(made, home):
    lora, base = rename(made, home, None, "other")
    adapters.check_base(lora, base)
    with pytest.raises(MismatchError, match="--model"):
        adapters.find_base(lora)


# By hashes


def test_recorded_hashes_decide_before_names(trained, home):
    lora = adapters.AdapterFolder(trained)
    base = ModelFolder(home / "models" / "tiny")
    base.write_record(source="mine", revision="main")
    change_json(trained / "run.json", base_sha256=base.hashes)
    base.path.rename(home / "models" / "renamed")
    assert adapters.find_base(lora).name == "renamed"
    adapters.check_base(lora, adapters.find_base(lora))


def test_other_hashes_of_the_same_format_are_another_model_and_those_of_another_say_nothing(trained, home):
    lora = adapters.AdapterFolder(trained)
    base = ModelFolder(home / "models" / "tiny")
    base.write_record(source="mine", revision="main")
    change_json(trained / "run.json", base_sha256={"model.safetensors": "0" * 64})
    with pytest.raises(MismatchError, match="tiny.*hashes"):
        adapters.check_base(lora, base)
    assert "hashes" in adapters.describe_adapter("mine").problem
    change_json(trained / "run.json", base_sha256={"tiny.gguf": "0" * 64})
    adapters.check_base(lora, base)


# By shapes


def test_other_shapes_are_refused_under_the_right_name_and_before_a_model_is_loaded(made, home):
    wide = make_tiny_model(home / "models" / "wide", hidden=64)
    shutil.rmtree(home / "models" / "tiny")
    wide.rename(home / "models" / "tiny")
    with pytest.raises(MismatchError, match=r"down_proj.*\(4, 64\).*128 inputs"):
        adapters.check_base(adapters.AdapterFolder(made[0]), ModelFolder(home / "models" / "tiny"))
    with pytest.raises(MismatchError, match="tiny"):
        find_choice(ModelChoice("tiny", ("a",)), None, None)


def test_layer_that_the_base_does_not_have_is_a_misfit(made, home):
    config = home / "models" / "tiny" / "config.json"
    shallow = {**read_json(config), "num_hidden_layers": 1}
    from transformers import LlamaConfig, LlamaForCausalLM

    LlamaForCausalLM(LlamaConfig.from_dict(shallow)).save_pretrained(home / "models" / "tiny")
    with pytest.raises(MismatchError, match="layers.1"):
        adapters.check_base(adapters.AdapterFolder(made[0]), ModelFolder(home / "models" / "tiny"))


PACKED = {  # quantization_config of down_proj: (64 inputs, 32 outputs), the shape of its packed weights
    "GPTQ": ({"quant_method": "gptq", "bits": 4}, (64 // 8, 32), (64, 32)),
    "AWQ": ({"quant_method": "awq", "bits": 4, "version": "gemm"}, (64, 32 // 8), (64, 32)),
    "unknown": ({"quant_method": "gptq", "bits": 4, "checkpoint_format": "marlin"}, (4, 64), None),
}


@pytest.mark.parametrize("kind", PACKED)
def test_packed_weights_are_counted_as_what_they_hold(home, kind):
    folder = ModelFolder(home / "models" / "tiny-GPTQ")
    folder.path.mkdir(parents=True)
    quantization, shape, layer = PACKED[kind]
    packed = torch.zeros(shape, dtype=torch.int32)
    save_file({"model.layers.0.mlp.down_proj.qweight": packed}, folder.path / "model.safetensors")
    (folder.path / "config.json").write_text("{}")
    change_json(folder.path / "config.json", quantization_config=quantization)
    assert read_layers(folder).get("layers.0.mlp.down_proj") == layer


# Commands


def test_commands_find_the_folder_of_a_recorded_hub_id(made, home, capsys):
    rename(made, home, "acme/tiny", "acme_tiny")
    make_tiny_gguf(home / "models" / "acme_tiny-GGUF", home / "models" / "acme_tiny")
    assert run_command(main, ["prove", "a"]) == 0
    assert run_command(main, ["merge", "a", "--output", "merged"]) == 0
    assert run_command(main, ["export", "a", "--for", "llama.cpp"]) == 0
    assert (home / "models" / "merged" / "model.safetensors").is_file()


def test_server_takes_the_lora_of_a_recorded_hub_id(made, home):
    rename(made, home, "acme/tiny", "acme_tiny")
    assert [lora.name for lora in find_choice(ModelChoice("acme_tiny", ("a",)), None, None).loras] == ["a"]


def test_recorded_path_of_peft_is_found(home):
    model = make_tiny_model(home / "models" / "tiny")
    lora = adapters.AdapterFolder(make_tiny_adapter(home / "loras" / "mine", model))
    assert adapters.find_base(lora).path == model


def test_damaged_run_is_named_and_not_taken_for_a_base_that_is_missing(made):
    folder = adapters.AdapterFolder(made[0])
    (folder.path / "run.json").write_text("{")
    with pytest.raises(DamagedError, match="run.json"):
        find_gguf(folder, "Name it.")


def test_base_that_only_a_path_names_can_be_named_by_the_remedy(made, home, load_tiny):
    change_config(made[0], base_model_name_or_path="/kaggle/input/llama/1")
    with pytest.raises(MismatchError, match="write tiny into .*adapter_config.json"):
        adapters.attach_adapter(load_tiny(), "a")
    change_config(made[0], base_model_name_or_path="tiny")  # as it says
    adapters.attach_adapter(load_tiny(), "a")
