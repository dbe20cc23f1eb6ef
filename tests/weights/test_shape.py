"""The shape that a config.json describes, against the models that transformers builds from it."""

import pytest
import torch
from transformers import AutoConfig, AutoModelForCausalLM
from transformers.pytorch_utils import Conv1D

from helpers import weights
from helpers.common.errors import DamagedError
from helpers.weights.memory import estimate_weights
from helpers.weights.shape import read_number
from helpers.weights.step_memory import choose_targets

LLAMA = {"num_hidden_layers": 2, "hidden_size": 32, "num_attention_heads": 4}
GPT2 = {"n_layer": 2, "n_embd": 32, "n_head": 4}
GATED = {**LLAMA, "intermediate_size": 96}
GROUPED = {**GATED, "num_key_value_heads": 2}
CONFIGS = {
    "llama": GROUPED,
    "mistral": {**GROUPED, "head_dim": None},
    "qwen3": {**GROUPED, "head_dim": 16},
    "phi3": {**GROUPED, "pad_token_id": 0},
    "starcoder2": GROUPED,
    "phi": GATED,
    "gpt_neox": GATED,
    "gpt2": GPT2,
    "gptj": {**GPT2, "rotary_dim": 4},
    "gpt_bigcode": GPT2,
    "bloom": {"n_layer": 2, "hidden_size": 32, "n_head": 4},
    "falcon": LLAMA,
    "opt": {**LLAMA, "ffn_dim": 96, "word_embed_proj_dim": 32},
}


def list_modules(config):
    """(inputs, outputs) of each linear layer in the first block of a model without weights."""
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(config)
    found = {}
    for name, module in model.named_modules():
        if ".0." in name and isinstance(module, torch.nn.Linear | Conv1D):
            sizes = tuple(module.weight.shape)
            found[name] = sizes if isinstance(module, Conv1D) else sizes[::-1]
    return found


@pytest.mark.parametrize("model_type", CONFIGS)
def test_linear_layers_are_those_that_transformers_builds(model_type):
    config = AutoConfig.for_model(model_type, vocab_size=100, **CONFIGS[model_type])
    shape = weights.read_shape(config.to_dict())
    modules, layers = list_modules(config), shape.list_linears()
    assert shape.layers == 2 and len(modules) == len(layers)
    for module, sizes in modules.items():
        [layer] = [name for name in layers if module.endswith(f".{name}")]
        assert layers[layer] == sizes, module


def test_saved_config_of_gpt_2_has_the_same_shape(tmp_path):
    config = AutoConfig.for_model("gpt2", **GPT2)
    assert weights.read_shape(config.to_dict()) == weights.read_shape({"model_type": "gpt2", **GPT2})


def test_part_for_text_of_a_larger_config_is_read():
    text = {**GROUPED, "model_type": "llama", "dtype": "bfloat16"}
    config = {"model_type": "llava", "hidden_size": 7, "text_config": text}
    assert weights.read_shape(config) == weights.read_shape(text)
    assert estimate_weights(config, 2_000_000, "bfloat16").bytes == 2_000_000


@pytest.mark.parametrize("stored", [{"dtype": "float32"}, {"torch_dtype": "torch.float32"}], ids=str)
def test_dtype_is_read_under_its_old_name_and_torch_s(stored):
    assert estimate_weights(stored, 4_000_000, "float16").bytes == 2_000_000


@pytest.mark.parametrize("missing", ["hidden_size", "num_hidden_layers", "intermediate_size"])
def test_config_without_a_number_is_not_taken_for_a_decoder(missing):
    with pytest.raises(KeyError, match=missing):
        weights.read_shape({key: value for key, value in GATED.items() if key != missing})


@pytest.mark.parametrize("value", ["32", 32.0, -1, True])
def test_number_that_is_none_is_damage(value):
    with pytest.raises(DamagedError, match="hidden_size"):
        weights.read_shape({**GATED, "hidden_size": value})


def test_targets_are_found_under_the_name_that_two_layers_share():
    shape = weights.read_shape({"model_type": "gpt2", **GPT2})
    assert choose_targets(shape, "c_attn, c_proj") == ["c_attn", "attn.c_proj", "mlp.c_proj"]


@pytest.mark.parametrize("name", ["num_hidden_layers", "n_layer", "num_experts", "n_routed_experts"])
def test_number_of_what_is_made_one_by_one_has_a_limit(name):
    canonical = {"n_layer": "num_hidden_layers", "n_routed_experts": "num_experts"}.get(name, name)
    assert read_number({name: 126}, canonical) == 126
    with pytest.raises(DamagedError, match=name):
        read_number({name: 10**9}, canonical)
