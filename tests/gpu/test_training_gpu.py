"""Training on a GPU, with both trainers: random Llamas, full precision and GPTQ. Skipped without CUDA."""

import importlib.util

import pytest
import torch
from support.gradients import compute_gradients, make_trainer
from support.tiny import make_tiny_model
from trl import SFTTrainer

from helpers import loading, tasks, training, weights
from helpers.common.presets import pick_settings
from helpers.training.prefix_trainer import SharedPrefixTrainer

needs_gptqmodel = pytest.mark.skipif(
    not importlib.util.find_spec("gptqmodel"), reason="gptqmodel is not installed"
)
pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device on this machine"),
]
KINDS = ["float32", "float16", "bfloat16", pytest.param("gptq", marks=needs_gptqmodel)]


def load(home, kind):
    """A random Llama on the GPU, ready to train: in this dtype, or as 4-bit GPTQ."""
    if kind == "bfloat16" and torch.cuda.get_device_capability() < (8, 0):
        pytest.skip("this GPU has no bfloat16")
    name = "tiny"
    if not (home / "models" / "tiny").exists():
        make_tiny_model(home / "models" / "tiny", hidden=128)
    if kind == "gptq":
        name = weights.quantize("tiny", group_size=32).name
    return loading.load_model(name, dtype=None if kind == "gptq" else kind, purpose="training")


@pytest.mark.parametrize("kind", KINDS)
def test_both_trainers_have_the_same_gradient(home, rows, template, tmp_path, kind):
    results = []
    for trainer_class in (SharedPrefixTrainer, SFTTrainer):
        loaded = load(home, kind)
        # With checkpoints, as training on a GPU has them.
        results.append(compute_gradients(trainer_class, loaded, rows, template, tmp_path, checkpointing=True))
    (our_losses, ours), (stock_losses, stock) = results
    exact = kind == "float32"
    assert our_losses == pytest.approx(stock_losses, rel=1e-4 if exact else 2e-2)
    our_vector = torch.cat([ours[weight].float().flatten() for weight in stock])
    stock_vector = torch.cat([stock[weight].float().flatten() for weight in stock])
    similarity = torch.nn.functional.cosine_similarity(our_vector, stock_vector, dim=0)
    assert similarity > (0.99999 if exact else 0.99)


def collect_gradients(trainer):
    """A copy of all gradients, in one vector."""
    weights = [weight for weight in trainer.model.parameters() if weight.requires_grad]
    return torch.cat([weight.grad.float().flatten() for weight in weights])


@pytest.mark.parametrize("kind", KINDS)
def test_recorded_steps_have_the_gradients_of_computed_ones(home, rows, template, tmp_path, kind):
    trainer = make_trainer(
        SharedPrefixTrainer, load(home, kind), rows, template, tmp_path, gradient_checkpointing=False
    )
    examples = list(trainer.train_dataset)
    results = []
    for start in (0, 4, 0, 4, 0):  # two batches, whose shapes are the same after padding
        batch = trainer.data_collator(examples[start : start + 4])
        items = (batch["labels"][:, 1:] != -100).sum()
        batch = {key: value.cuda() for key, value in batch.items()}
        trainer.model.zero_grad()
        loss = trainer.training_step(trainer.model, batch, items).item()
        results.append((loss, collect_gradients(trainer)))
    assert len(trainer.graphs.graphs) in (1, 2)
    (computed_loss, computed), (recorded_loss, recorded) = results[0], results[4]
    exact = kind == "float32"
    assert recorded_loss == pytest.approx(computed_loss, rel=1e-5 if exact else 1e-2)
    similarity = torch.nn.functional.cosine_similarity(computed, recorded, dim=0)
    assert similarity > (0.99999 if exact else 0.99)


def test_gradients_of_recorded_steps_add_up(home, rows, template, tmp_path):
    trainer = make_trainer(
        SharedPrefixTrainer, load(home, "float32"), rows, template, tmp_path, gradient_checkpointing=False
    )
    batch = trainer.data_collator(list(trainer.train_dataset)[:4])
    items = (batch["labels"][:, 1:] != -100).sum()
    batch = {key: value.cuda() for key, value in batch.items()}
    trainer.training_step(trainer.model, batch, items)  # computed
    once = collect_gradients(trainer)
    trainer.training_step(trainer.model, batch, items)  # recorded and replayed
    trainer.training_step(trainer.model, batch, items)  # replayed
    assert torch.allclose(collect_gradients(trainer), 3 * once, rtol=1e-3, atol=1e-6)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("sharing", ["on", "off"])
def test_lora_learns(home, rows, template, kind, sharing):
    settings = pick_settings("tiny").replace({"max_rows": 0, "epochs": 10, "learning_rate": 0.01})
    data = tasks.TaskData(template, rows)
    output = home / "loras" / "mine"
    run = training.train_lora(
        load(home, kind), data, settings, output, progress=False, prefix_sharing=sharing
    )
    assert sum(run["loss"][-3:]) < sum(run["loss"][:3]) / 2
