import importlib.util

import peft
import pytest
import torch
from support.gradients import assert_same, make_trainer
from support.tiny import make_tiny_model
from transformers import AutoModelForCausalLM, MistralConfig, OlmoConfig, Qwen2Config, Qwen3Config

from helpers import weights
from helpers.adapters.layers import LeanLoraLinear
from helpers.training.prefix_trainer import SharedPrefixTrainer, pack_batch

SHAPE = {
    "vocab_size": 260,
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
}
CONFIGS = {
    "mistral": MistralConfig(**SHAPE, sliding_window=None),
    "qwen2": Qwen2Config(**SHAPE),
    "qwen3": Qwen3Config(**SHAPE, head_dim=8),
}


@pytest.fixture(autouse=True)
def many_branches(monkeypatch):
    monkeypatch.setattr("helpers.training.packing.BRANCH_TOKENS", 40)  # so that four rows have more than one


@pytest.mark.parametrize("accumulation", [1, 3])
def test_loss_and_gradients_are_those_of_the_stock_trainer(tiny, rows, template, tmp_path, accumulation):
    assert_same("tiny", rows, template, tmp_path, accumulation)


@pytest.mark.parametrize("architecture", CONFIGS)
def test_other_architectures_get_the_same_gradients(home, rows, template, tmp_path, architecture):
    folder = make_tiny_model(home / "models" / architecture)
    torch.manual_seed(0)
    AutoModelForCausalLM.from_config(CONFIGS[architecture]).save_pretrained(folder)
    assert_same(architecture, rows, template, tmp_path)


@pytest.mark.skipif(
    not importlib.util.find_spec("gptqmodel"), reason="gptqmodel is for Linux: pip install -e '.[gptq]'"
)
@pytest.mark.long
def test_a_quantised_base_gets_the_same_gradients(home, rows, template, tmp_path):
    make_tiny_model(home / "models" / "tiny", hidden=128)
    assert_same(weights.quantize("tiny", group_size=32).name, rows, template, tmp_path)


@pytest.mark.real
def test_loss_and_gradients_are_those_of_the_stock_trainer_on_the_real_model(
    real_model_name, rows, template, tmp_path
):
    assert_same(real_model_name, rows, template, tmp_path)


def test_what_is_not_known_is_trained_as_the_stock_trainer_does_and_said(home, rows, template, tmp_path):
    folder = make_tiny_model(home / "models" / "olmo")
    config = OlmoConfig(**SHAPE)
    AutoModelForCausalLM.from_config(config).save_pretrained(folder)
    with pytest.warns(UserWarning, match="not tested on the architecture 'olmo'"):
        assert_same("olmo", rows, template, tmp_path)


def test_lora_layers_are_lean_and_give_what_peft_s_own_give(tiny, rows, template, tmp_path):
    trainer = make_trainer(SharedPrefixTrainer, tiny, rows, template, tmp_path)
    layer = trainer.model.base_model.model.model.layers[0].mlp.up_proj
    assert isinstance(layer, LeanLoraLinear)
    x = torch.randn(3, layer.in_features)
    lean, theirs = layer(x), peft.tuners.lora.Linear.forward(layer, x)
    assert torch.allclose(lean, theirs, atol=1e-6) and not torch.allclose(
        lean, layer.base_layer(x), atol=1e-3
    )
    with trainer.model.disable_adapter():
        assert torch.equal(layer(x), layer.base_layer(x))
    trainer.model.save_pretrained(tmp_path / "saved")
    assert "custom" not in (tmp_path / "saved" / "adapter_config.json").read_text()


def test_packed_batch_holds_the_shared_tokens_once_and_no_padding():
    ids = torch.tensor([[1, 2, 3, 4, 5, 6], [1, 2, 7, 8, 0, 0]])
    mask = torch.tensor([[1, 1, 1, 1, 1, 1], [1, 1, 1, 1, 0, 0]])
    labels = torch.tensor([[-100, -100, -100, -100, 5, 6], [-100, -100, -100, 8, -100, -100]])
    packed, places, targets = pack_batch(ids, mask, labels)
    assert packed.input_ids.tolist() == [1, 2, 3, 4, 5, 6, 7, 8] and packed.positions.tolist() == [
        0,
        1,
        2,
        3,
        4,
        5,
        2,
        3,
    ]
    assert places == [3, 4, 6] and targets == [5, 6, 8]


def test_rows_may_share_a_place_that_predicts_and_padding_may_be_on_the_left():
    ids = torch.tensor([[1, 2, 3, 4], [1, 2, 3, 9]])
    labels = torch.full_like(ids, -100)
    labels[0, 2] = 3
    labels[:, 3] = torch.tensor([4, 9])
    packed, places, targets = pack_batch(ids, torch.ones_like(ids), labels)
    assert packed.input_ids.tolist() == [1, 2, 3, 4, 9] and (places, targets) == ([1, 2, 2], [3, 4, 9])
    packed, _, _ = pack_batch(ids, torch.tensor([[0, 1, 1, 1], [1, 1, 1, 1]]), labels)
    assert packed.input_ids.tolist() == [2, 3, 4, 1, 2, 3, 9] and packed.positions.tolist() == [
        0,
        1,
        2,
        0,
        1,
        2,
        3,
    ]
