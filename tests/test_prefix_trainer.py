import peft
import pytest
import torch
from fixtures_tiny import make_tiny_model
from transformers import AutoModelForCausalLM, MistralConfig, OlmoConfig, Qwen2Config, Qwen3Config
from trl import SFTTrainer

from helpers import loading, training
from helpers.prefix_trainer import EpochSampler, LeanLoraLinear, SharedPrefixTrainer, pack_batch
from helpers.settings import TrainingSettings

SETTINGS = TrainingSettings().replace({"lora_r": 4, "lora_dropout": 0.0, "batch_size": 4})
SHAPE = {"vocab_size": 260, "hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4, "num_key_value_heads": 2}
CONFIGS = {
    "mistral": MistralConfig(**SHAPE, sliding_window=None),
    "qwen2": Qwen2Config(**SHAPE),
    "qwen3": Qwen3Config(**SHAPE, head_dim=8),
}


def make_trainer(kind, loaded, rows, template, folder):
    """A trainer in float32 with B set away from zero, so that A gets a gradient too."""
    torch.manual_seed(0)
    trainer = kind(
        model=loaded.model,
        args=training.make_sft_config(loaded.model, SETTINGS, folder, progress=False),
        train_dataset=training.build_dataset(rows, template, SETTINGS),
        processing_class=loaded.tokenizer,
        peft_config=training.make_lora_config(loaded.model, SETTINGS),
    )
    generator = torch.Generator().manual_seed(1)
    for parameter in trainer.model.parameters():
        if parameter.requires_grad:
            parameter.data = (torch.randn(parameter.shape, generator=generator) * 0.02).to(parameter.dtype)
    trainer.model.train()
    return trainer


def compute_gradients(kind, loaded, rows, template, folder, accumulation=1):
    """Losses of the first batches and the gradient of every LoRA weight."""
    trainer = make_trainer(kind, loaded, rows, template, folder)
    examples = list(trainer.train_dataset)  # in their own order, so that rows of unequal length meet and are padded
    batches = [trainer.data_collator(examples[4 * i : 4 * i + 4]) for i in range(accumulation)]
    assert any((batch["attention_mask"] == 0).any() for batch in batches)
    tokens = sum((batch["labels"][:, 1:] != -100).sum() for batch in batches)
    losses = []
    for batch in batches:
        loss = trainer.compute_loss(trainer.model, dict(batch), num_items_in_batch=tokens)
        loss.backward()
        losses.append(loss.item())
    return losses, {name: p.grad for name, p in trainer.model.named_parameters() if p.requires_grad}


def assert_same(name, rows, template, folder, accumulation=1):
    """Losses of both trainers within a relative 1e-5, and the gradient, as one vector and each weight's own, too."""
    ours, stock = (
        compute_gradients(kind, loading.load_model(name, dtype="float32"), rows, template, folder, accumulation)
        for kind in (SharedPrefixTrainer, SFTTrainer)
    )
    assert ours[0] == pytest.approx(stock[0], rel=1e-5)
    first, second = (torch.cat([gradients[name].flatten() for name in stock[1]]) for _, gradients in (ours, stock))
    assert (first - second).norm() / second.norm() < 1e-5
    for name, gradient in ours[1].items():
        assert (gradient - stock[1][name]).norm() / stock[1][name].norm() < 1e-5, name


@pytest.mark.parametrize("accumulation", [1, 3])
def test_loss_and_gradients_are_those_of_the_stock_trainer(tiny, rows, template, tmp_path, accumulation):
    assert_same("tiny", rows, template, tmp_path, accumulation)


@pytest.mark.parametrize("architecture", CONFIGS)
def test_other_architectures_get_the_same_gradients(home, rows, template, tmp_path, architecture):
    folder = make_tiny_model(home / "models" / architecture)
    torch.manual_seed(0)
    AutoModelForCausalLM.from_config(CONFIGS[architecture]).save_pretrained(folder)
    assert_same(architecture, rows, template, tmp_path)


@pytest.mark.real
def test_loss_and_gradients_are_those_of_the_stock_trainer_on_the_real_model(real_model_name, rows, template, tmp_path):
    assert_same(real_model_name, rows, template, tmp_path)


def test_what_is_not_known_is_trained_as_the_stock_trainer_does_and_said(home, rows, template, tmp_path):
    folder = make_tiny_model(home / "models" / "olmo")
    config = OlmoConfig(**SHAPE)
    AutoModelForCausalLM.from_config(config).save_pretrained(folder)
    with pytest.warns(UserWarning, match="not tested on the architecture 'olmo'"):
        assert_same("olmo", rows, template, tmp_path)


def test_lora_layers_are_lean_in_training_and_peft_s_own_otherwise(tiny, rows, template, tmp_path):
    trainer = make_trainer(SharedPrefixTrainer, tiny, rows, template, tmp_path)
    layer = trainer.model.base_model.model.model.layers[0].mlp.up_proj
    assert isinstance(layer, LeanLoraLinear)
    x = torch.randn(3, layer.in_features)
    lean, theirs = layer(x), peft.tuners.lora.Linear.forward(layer, x)
    assert torch.allclose(lean, theirs, atol=1e-6) and not torch.allclose(lean, layer.base_layer(x), atol=1e-3)
    layer.eval()
    assert torch.equal(layer(x), theirs)
    trainer.model.save_pretrained(tmp_path / "saved")
    assert "custom" not in (tmp_path / "saved" / "adapter_config.json").read_text()


def test_packed_batch_holds_the_shared_tokens_once_and_no_padding():
    ids = torch.tensor([[1, 2, 3, 4, 5, 6], [1, 2, 7, 8, 0, 0]])
    mask = torch.tensor([[1, 1, 1, 1, 1, 1], [1, 1, 1, 1, 0, 0]])
    labels = torch.tensor([[-100, -100, -100, -100, 5, 6], [-100, -100, -100, 8, -100, -100]])
    packed, places, targets = pack_batch(ids, mask, labels)
    assert packed.input_ids.tolist() == [1, 2, 3, 4, 5, 6, 7, 8] and packed.positions.tolist() == [0, 1, 2, 3, 4, 5, 2, 3]
    assert places == [3, 4, 6] and targets == [5, 6, 8]


def test_shared_tokens_end_before_the_first_label_and_may_be_none():
    ids = torch.tensor([[1, 2, 3, 4], [1, 2, 3, 9]])
    labels = torch.full_like(ids, -100)
    labels[0, 2] = 3
    packed, places, targets = pack_batch(ids, torch.ones_like(ids), labels)
    assert packed.input_ids.tolist() == [1, 2, 3, 4, 2, 3, 9] and (places, targets) == ([1], [3])
    packed, _, _ = pack_batch(ids, torch.tensor([[0, 1, 1, 1], [1, 1, 1, 1]]), labels)
    assert packed.input_ids.tolist() == [2, 3, 4, 1, 2, 3, 9] and packed.positions.tolist() == [0, 1, 2, 0, 1, 2, 3]


def test_order_of_an_epoch_follows_from_seed_and_epoch():
    def draw(epoch, seed=0):
        sampler = EpochSampler(2, [{"input_ids": [0] * (i % 5 + 1)} for i in range(20)], seed)
        sampler.set_epoch(epoch)
        return list(sampler)

    assert draw(1) == draw(1) and draw(1) != draw(2) and draw(1) != draw(1, seed=5) and sorted(draw(1)) == list(range(20))
