"""Each private part of a library that the kit touches has a test here. It names what an update has moved."""

import importlib
import importlib.util
import inspect
import json
import logging
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from peft import LoraConfig, get_peft_model
from peft.tuners import lora
from transformers import AutoModelForCausalLM, AutoTokenizer

from helpers import PROJECT
from helpers.adapters._private import LeanLoraLinear, use_lean_layers
from helpers.tasks._private import match_files
from helpers.training._private import judge_padded, read_attention
from helpers.weights._private import HTTP_CLIENTS, TOKENIZER_LEFTOVERS

PEFT_ATTRIBUTES = """base_layer lora_A lora_B lora_bias lora_dropout lora_variant scaling
    active_adapters disable_adapters merged"""


@pytest.fixture
def layer():
    """PEFT's own LoRA layer around a linear layer."""
    model = get_peft_model(torch.nn.Sequential(torch.nn.Linear(4, 4)), LoraConfig(r=2, target_modules=["0"]))
    return model.base_model.model[0]


@pytest.mark.parametrize("name", PEFT_ATTRIBUTES.split())
def test_peft_s_layer_has_what_the_lean_layer_reads(layer, name):
    assert type(layer) is lora.Linear
    assert hasattr(layer, name), f"peft.tuners.lora.Linear.{name} moved: see helpers/adapters/_private.py"


def test_peft_takes_a_layer_of_another_class():
    config = use_lean_layers(LoraConfig(r=2, target_modules=["0"]))
    model = get_peft_model(torch.nn.Sequential(torch.nn.Linear(4, 4)), config)
    moved = "LoraConfig._register_custom_module no longer has an effect: see helpers/adapters/_private.py"
    assert type(model.base_model.model[0]) is LeanLoraLinear, moved


def test_huggingface_hub_raises_the_errors_of_a_client_that_is_known():
    """It raises what its HTTP client raises; one of HTTP_CLIENTS has to be that client."""
    hub_errors = importlib.import_module("huggingface_hub.errors")
    base = inspect.getmro(hub_errors.HfHubHTTPError)
    clients = {kind.__module__.split(".")[0] for kind in base} & set(HTTP_CLIENTS)
    assert clients, (
        f"huggingface_hub's errors derive from {base}: see HTTP_CLIENTS in helpers/weights/_private.py"
    )
    client = importlib.import_module(clients.pop())
    assert not issubclass(client.InvalidURL, client.HTTPError), "InvalidURL need not be listed any more"


def test_transformers_still_writes_leftovers_into_a_saved_tokenizer(tiny, tmp_path):
    AutoTokenizer.from_pretrained(tiny.folder.path, local_files_only=True).save_pretrained(tmp_path / "saved")
    saved = json.loads((tmp_path / "saved" / "tokenizer_config.json").read_text())
    assert set(TOKENIZER_LEFTOVERS) <= set(saved), (
        "transformers no longer writes them: drop TOKENIZER_LEFTOVERS"
    )


def test_transformers_keeps_the_attention_s_name_in_the_config(tiny):
    for name in ("eager", "sdpa"):
        model = AutoModelForCausalLM.from_pretrained(tiny.folder.path, attn_implementation=name)
        assert read_attention(model) == name, (
            "config._attn_implementation moved: see helpers/training/_private.py"
        )


def test_trl_s_fused_head_gives_log_probabilities_and_the_likeliest_token(tiny):
    add_fused_lm_head = importlib.import_module("trl.trainer.utils").add_fused_lm_head
    ids = torch.tensor([[5, 6, 7, 8]])
    with torch.no_grad():
        logits = tiny.model(ids).logits[0, :-1]
        likeliest = logits.argmax(-1)
        labels = torch.tensor([[-100, -100, likeliest[1], (likeliest[2] + 1) % 260]])
        add_fused_lm_head(tiny.model, outputs=("log_probs", "is_top1"))
        found, right = judge_padded(tiny.model, {"input_ids": ids, "labels": labels})
    wanted = logits.log_softmax(-1)
    assert right.tolist() == [[True, True, False]], "see judge_padded in helpers/training/_private.py"
    assert found[0].tolist() == pytest.approx(
        [0, wanted[1, labels[0, 2]].item(), wanted[2, labels[0, 3]].item()], abs=1e-5
    )


@pytest.mark.long
def test_gptqmodel_sets_its_log_up_where_the_kit_limits_it():
    pytest.importorskip("gptqmodel", reason="the extra gptq is not installed")
    code = (
        "import logging; from helpers.weights._private import import_gptqmodel; import_gptqmodel();"
        "from gptqmodel.utils.logger import setup_logger; print(logging.getLogger().level)"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=PROJECT, capture_output=True, text=True)
    assert done.returncode == 0, f"gptqmodel.utils.logger.setup_logger moved: {done.stderr}"
    assert done.stdout.split() == [str(logging.WARNING)], "the import changed the level of the root logger"


def test_gptqmodel_s_layers_have_the_method_that_the_kit_brings_back():
    pytest.importorskip("gptqmodel", reason="the extra gptq is not installed")
    linear = importlib.import_module("gptqmodel.nn_modules.qlinear")
    assert hasattr(linear.PackableQuantLinear, "dequantize_weight"), "see helpers/loading/_private.py"


def test_bitsandbytes_unpacks_its_weights_for_state_dict():
    bitsandbytes = pytest.importorskip("bitsandbytes", reason="the extra gpu is not installed")
    source = inspect.getsource(bitsandbytes.nn.Linear4bit)
    moved = "Linear4bit no longer unpacks in _save_to_state_dict: see helpers/training/_private.py"
    assert "_save_to_state_dict" in source and "enable_optimized_cpu" in source, moved


def test_datasets_matches_files_to_splits_as_the_hub_does(tmp_path):
    (tmp_path / "train.csv").touch()
    (tmp_path / "test.csv").touch()
    kind, found = match_files(tmp_path, None)
    moved = "datasets finds files in another way: see helpers/tasks/_private.py"
    assert (kind, sorted(found)) == ("csv", ["test", "train"]), moved


def test_jupytext_combines_a_text_pair_with_its_notebook():
    combine = importlib.import_module("jupytext.combine").combine_inputs_with_outputs
    assert list(inspect.signature(combine).parameters)[:3] == ["nb_source", "nb_outputs", "fmt"]


@pytest.mark.skipif(
    not importlib.util.find_spec("gptqmodel"), reason="gptqmodel is for Linux: pip install -e '.[gptq]'"
)
@pytest.mark.parametrize(
    ("module", "part"),
    [
        (
            "triton_utils.dequant",
            "def dequant(dtype, qweight, scales, qzeros, g_idx, bits, pack_bits, maxq):",
        ),
        ("qlinear.tritonv2", "class TritonV2Linear("),
        ("qlinear.torch", "self.maxq"),
    ],
)
def test_gptqmodel_has_what_the_kit_s_training_unpacks_with(module, part):
    """Read as text: importing it needs Triton, which a CPU build of torch lacks."""
    package = importlib.util.find_spec("gptqmodel")
    path = Path(package.submodule_search_locations[0], "nn_modules", *module.split(".")).with_suffix(".py")
    assert part in path.read_text(), f"{part} moved: see helpers/loading/gptq_training.py"
