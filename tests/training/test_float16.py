"""Training in float16 with a loss scaler, as a T4 needs it, with torch's scaler for a CPU."""

import pytest
import torch
from support.gradients import make_trainer
from support.tiny import make_tiny_model

from helpers import loading, training
from helpers.common.machine import pick_dtype
from helpers.training.prefix_trainer import SharedPrefixTrainer

SCALE = 2.0**16  # with which torch's scaler begins


@pytest.fixture
def compute(home, rows, template, tmp_path):
    """A function that computes the first step in a dtype; returns the trainer."""
    make_tiny_model(home / "models" / "tiny")

    def compute(dtype, scale=None):
        loaded = loading.load_model("tiny", dtype=dtype, device_map="cpu", purpose="training")
        trainer = make_trainer(
            SharedPrefixTrainer, loaded, rows, template, tmp_path, fp16=False, use_cpu=True
        )
        if scale:
            trainer.accelerator.scaler = torch.amp.GradScaler("cpu", init_scale=scale)
        batch = trainer.data_collator(list(trainer.train_dataset)[:4])
        trainer.training_step(trainer.model, batch, (batch["labels"][:, 1:] != -100).sum())
        return trainer

    return compute


def list_trained(trainer):
    return [weight for weight in trainer.model.parameters() if weight.requires_grad]


def join_gradients(trainer):
    return torch.cat([weight.grad.flatten() for weight in list_trained(trainer)])


def test_scaled_gradients_are_those_of_float32_after_unscaling(compute):
    exact = join_gradients(compute("float32"))
    trainer = compute("float16", SCALE)
    scaled = join_gradients(trainer)
    trainer.accelerator.scaler.unscale_(trainer.create_optimizer())
    found = join_gradients(trainer)
    assert torch.isfinite(scaled).all()
    assert torch.allclose(found * SCALE, scaled)
    assert torch.nn.functional.cosine_similarity(found, exact, dim=0) > 0.99


def test_step_whose_gradients_overflow_changes_nothing_and_lowers_the_scale(compute):
    trainer = compute("float16", 2.0**60)
    scaler, optimizer = trainer.accelerator.scaler, trainer.create_optimizer()
    before = [weight.detach().clone() for weight in list_trained(trainer)]
    scaler.step(optimizer)
    scaler.update()
    assert scaler.get_scale() < 2.0**60
    assert all(torch.equal(*pair) for pair in zip(before, list_trained(trainer), strict=True))


def test_lora_of_a_float16_model_is_trained_in_float32(compute):
    """torch's scaler refuses gradients in float16."""
    trainer = compute("float16", SCALE)
    assert {weight.dtype for weight in list_trained(trainer)} == {torch.float32}


@pytest.mark.parametrize(("capability", "name"), [((7, 5), "fp16"), ((8, 0), "bf16"), ((9, 0), "bf16")])
def test_arguments_of_a_training_follow_the_compute_capability(home, capability, name):
    make_tiny_model(home / "models" / "tiny")
    dtype = pick_dtype("cuda", capability).value
    loaded = loading.load_model("tiny", dtype=dtype, device_map="cpu")
    arguments = training.describe_hardware(loaded.model)
    assert [key for key in ("bf16", "fp16") if arguments[key]] == [name]
