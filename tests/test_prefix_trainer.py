import pytest
import torch
from trl import SFTTrainer

from helpers import loading, training
from helpers.prefix_trainer import SharedPrefixTrainer, count_shared
from helpers.settings import TrainingSettings

SETTINGS = TrainingSettings().replace({"lora_r": 4, "lora_dropout": 0.0, "batch_size": 4})


def compute_gradients(kind, name, rows, template, folder, accumulation=1):
    """Loss of the first batches and the gradient of every LoRA weight, with B set away from zero so that A gets one too."""
    loaded = loading.load_model(name, dtype="float32")
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
    batches = list(trainer.get_train_dataloader())[:accumulation]
    tokens = sum((batch["labels"][:, 1:] != -100).sum() for batch in batches)
    losses = []
    for batch in batches:
        loss = trainer.compute_loss(trainer.model, dict(batch), num_items_in_batch=tokens)
        loss.backward()
        losses.append(loss.item())
    return losses, {name: p.grad for name, p in trainer.model.named_parameters() if p.requires_grad}


def assert_same(first, second, tolerance):
    """Losses within a relative 1e-5; the gradient as one vector, and each weight's own, within `tolerance`."""
    assert first[0] == pytest.approx(second[0], rel=1e-5)
    ours, stock = (torch.cat([gradients[name].flatten() for name in first[1]]) for _, gradients in (first, second))
    assert (ours - stock).norm() / stock.norm() < tolerance
    for name, gradient in first[1].items():
        assert (gradient - second[1][name]).norm() / second[1][name].norm() < tolerance, name


@pytest.mark.parametrize("accumulation", [1, 3])
def test_loss_and_gradients_are_those_of_the_stock_trainer(tiny, rows, template, tmp_path, accumulation):
    ours = compute_gradients(SharedPrefixTrainer, "tiny", rows, template, tmp_path, accumulation)
    assert_same(ours, compute_gradients(SFTTrainer, "tiny", rows, template, tmp_path, accumulation), 1e-5)


@pytest.mark.real
def test_loss_and_gradients_are_close_to_the_stock_trainers_on_the_real_model(real_model_name, rows, template, tmp_path):
    ours = compute_gradients(SharedPrefixTrainer, real_model_name, rows, template, tmp_path)
    assert_same(ours, compute_gradients(SFTTrainer, real_model_name, rows, template, tmp_path), 1e-4)  # 30 layers: about 2e-5


def test_shared_prefix_ends_where_rows_differ_and_before_the_first_label():
    ids = torch.tensor([[1, 2, 3, 4, 5], [1, 2, 3, 9, 5]])
    mask = torch.ones_like(ids)
    labels = torch.full_like(ids, -100)
    assert count_shared(ids, mask, labels) == 3
    labels[0, 2] = 3
    assert count_shared(ids, mask, labels) == 1
    mask[1, 0] = 0
    assert count_shared(ids, mask, labels) == 0
