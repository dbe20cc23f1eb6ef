"""The lean LoRA layer gives what PEFT's own layer gives, and leaves to PEFT what it cannot do."""

import pytest
import torch
from peft import LoraConfig, get_peft_model
from peft.tuners.lora import Linear
from support.loras import change_config

from helpers import adapters
from helpers.adapters._private import LeanLoraLinear, is_plain, use_lean_layers


def find_layer(loaded):
    """The first query projection of a Llama with LoRAs."""
    return loaded.model.get_submodule("base_model.model.model.layers.0.self_attn.q_proj")


@pytest.mark.parametrize("dropout", [0.0, 0.5])
def test_attached_layers_are_lean_and_give_what_peft_s_own_give(made, load_tiny, dropout):
    change_config(made[0], lora_dropout=dropout)
    layer = find_layer(adapters.attach_adapter(load_tiny(), "a"))
    assert isinstance(layer, LeanLoraLinear)
    assert is_plain(layer, "a")
    x = torch.randn(3, layer.in_features)
    lean = layer(x)
    assert torch.allclose(lean, Linear.forward(layer, x), atol=1e-6)
    assert not torch.allclose(lean, layer.base_layer(x), atol=1e-3)


def test_dropout_zeroes_what_peft_s_own_layer_would_zero(made, load_tiny):
    change_config(made[0], lora_dropout=0.5)
    layer = find_layer(adapters.attach_adapter(load_tiny(), "a")).train()
    x = torch.randn(3, layer.in_features)
    assert is_plain(layer, "a")
    assert not torch.equal(layer(x), layer(x))
    torch.manual_seed(0)
    lean = layer(x)
    torch.manual_seed(0)
    assert torch.allclose(lean, Linear.forward(layer, x), atol=1e-6)


def test_layer_without_dropout_is_lean_while_training_too(made, load_tiny):
    change_config(made[0], lora_dropout=0.0)
    layer = find_layer(adapters.attach_adapter(load_tiny(), "a")).train()
    x = torch.randn(3, layer.in_features)
    assert is_plain(layer, "a")
    assert torch.equal(layer(x), layer(x))


def test_layers_other_than_torch_s_plain_ones_are_left_to_peft():
    class Quantised(torch.nn.Linear):
        """As bitsandbytes' layers are: of torch's kind, with something else inside."""

    config = use_lean_layers(LoraConfig(target_modules=["0", "1"], r=2))
    model = get_peft_model(torch.nn.Sequential(torch.nn.Linear(4, 4), Quantised(4, 4)), config)
    plain = model.get_submodule("base_model.model.0")
    quantised = model.get_submodule("base_model.model.1")
    assert type(plain) is LeanLoraLinear
    assert type(quantised) is Linear


def test_config_is_not_changed_and_is_saved_as_before(tmp_path):
    config = LoraConfig(target_modules=["0"], r=2)
    use_lean_layers(config).save_pretrained(tmp_path / "lean")
    config.save_pretrained(tmp_path / "plain")
    saved = [(tmp_path / kind / "adapter_config.json").read_text() for kind in ("lean", "plain")]
    assert saved[0] == saved[1]
    model = get_peft_model(torch.nn.Sequential(torch.nn.Linear(4, 4)), config)
    assert type(model.get_submodule("base_model.model.0")) is Linear
