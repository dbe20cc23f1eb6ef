"""The kit's trainer and TRL's on the same batches: loss and gradients of both."""

import pytest
import torch
from trl import SFTTrainer

from helpers import loading, training
from helpers.training.prefix_trainer import SharedPrefixTrainer
from helpers.training.settings import TrainingSettings

SETTINGS = TrainingSettings().replace({"lora_r": 4, "lora_dropout": 0.0, "batch_size": 4})


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
            parameter.data = (torch.randn(parameter.shape, generator=generator) * 0.02).to(parameter)
    trainer.model.train()
    return trainer


def compute_gradients(kind, loaded, rows, template, folder, accumulation=1):
    """Losses of the first batches and the gradient of every LoRA weight."""
    trainer = make_trainer(kind, loaded, rows, template, folder)
    examples = list(
        trainer.train_dataset
    )  # in their own order, so that rows of unequal length meet and are padded
    batches = [trainer.data_collator(examples[4 * i : 4 * i + 4]) for i in range(accumulation)]
    assert any((batch["attention_mask"] == 0).any() for batch in batches)
    tokens = sum((batch["labels"][:, 1:] != -100).sum() for batch in batches)
    losses = []
    for batch in batches:
        loss = trainer.compute_loss(
            trainer.model, trainer._prepare_inputs(dict(batch)), num_items_in_batch=tokens
        )
        loss.backward()
        losses.append(loss.item())
    return losses, {name: p.grad for name, p in trainer.model.named_parameters() if p.requires_grad}


def assert_same(name, rows, template, folder, accumulation=1):
    """Losses of both trainers within a relative 1e-5, and the gradient as one vector and of each weight too."""
    ours, stock = (
        compute_gradients(
            kind,
            loading.load_model(name, dtype="float32", purpose="training"),
            rows,
            template,
            folder,
            accumulation,
        )
        for kind in (SharedPrefixTrainer, SFTTrainer)
    )
    assert ours[0] == pytest.approx(stock[0], rel=1e-5)
    first, second = (
        torch.cat([gradients[name].flatten() for name in stock[1]]) for _, gradients in (ours, stock)
    )
    assert (first - second).norm() / second.norm() < 1e-5
    for name, gradient in ours[1].items():
        assert (gradient - stock[1][name]).norm() / stock[1][name].norm() < 1e-5, name
