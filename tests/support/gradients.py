"""The kit's trainer and TRL's on the same batches: loss and gradients of both."""

import dataclasses

import pytest
import torch
from trl import SFTTrainer

from helpers import loading, training
from helpers.common.training_settings import TrainingSettings
from helpers.training.prefix_trainer import SharedPrefixTrainer

SETTINGS = TrainingSettings().replace({"lora_r": 4, "lora_dropout": 0.0, "batch_size": 4})

# Of the real model's 420 matrices, a few have so small a gradient that rounding changes it by more than 1e-5
# of its length: 1.1e-5 was measured, where the whole gradient differs by 2.5e-6.
SMALL_GRADIENTS = 2e-5


def make_trainer(trainer_class, loaded, rows, template, folder, eval_dataset=None, **arguments):
    """A trainer whose LoRA matrices are both away from zero, so that A gets a gradient too.

    `arguments` are those of SFTConfig that differ from the kit's.
    """
    torch.manual_seed(0)
    config = training.make_sft_config(loaded.model, SETTINGS, folder, progress=False)
    trainer = trainer_class(
        model=loaded.model,
        args=dataclasses.replace(config, **arguments),
        train_dataset=training.build_dataset(rows, template, SETTINGS, loaded.tokenizer),
        eval_dataset=eval_dataset,
        processing_class=loaded.tokenizer,
        peft_config=training.make_lora_config(loaded.model, SETTINGS),
    )
    trainer.accelerator.scaler = None  # float16 gradients as they are
    generator = torch.Generator().manual_seed(1)
    for parameter in trainer.model.parameters():
        if parameter.requires_grad:
            parameter.data = (torch.randn(parameter.shape, generator=generator) * 0.02).to(parameter)
    return trainer


def compute_gradients(
    trainer_class, loaded, rows, template, folder, accumulation=1, checkpointing=False, collator=None
):
    """Losses of the first batches, and the gradient of every LoRA weight after them."""
    trainer = make_trainer(trainer_class, loaded, rows, template, folder)
    if collator and trainer_class is SharedPrefixTrainer:
        trainer.data_collator = collator
    if checkpointing:
        trainer.model.gradient_checkpointing_enable()
    examples = list(trainer.train_dataset)
    batches = [trainer.data_collator(examples[4 * i : 4 * i + 4]) for i in range(accumulation)]
    assert len({len(example["input_ids"]) for example in examples[:4]}) > 1  # so that TRL has to pad
    tokens = sum((batch["labels"][:, 1:] != -100).sum() for batch in batches)
    losses = []
    for batch in batches:
        loss = trainer.training_step(trainer.model, batch, num_items_in_batch=tokens)
        losses.append(loss.item())
    gradients = {}
    for name, parameter in trainer.model.named_parameters():
        if parameter.requires_grad:
            gradients[name] = parameter.grad
    return losses, gradients


def assert_same(name, rows, template, folder, accumulation=1, checkpointing=False, each=1e-5, collator=None):
    """Losses and gradients of both trainers agree to a relative 1e-5, each matrix's gradient to `each`."""
    results = []
    for trainer_class in (SharedPrefixTrainer, SFTTrainer):
        loaded = loading.load_model(name, dtype="float32", purpose="training")
        results.append(
            compute_gradients(
                trainer_class, loaded, rows, template, folder, accumulation, checkpointing, collator
            )
        )
    (our_losses, ours), (stock_losses, stock) = results
    assert our_losses == pytest.approx(stock_losses, rel=1e-5)
    assert ours.keys() == stock.keys()
    our_vector = torch.cat([ours[weight].flatten() for weight in stock])
    stock_vector = torch.cat([stock[weight].flatten() for weight in stock])
    assert measure_difference(our_vector, stock_vector) < 1e-5
    for weight in stock:
        difference = measure_difference(ours[weight], stock[weight])
        assert difference < each, (weight, difference)


def measure_difference(one, other):
    """Length of the difference of two tensors, as a share of the second one's length."""
    return ((one - other).norm() / other.norm()).item()
