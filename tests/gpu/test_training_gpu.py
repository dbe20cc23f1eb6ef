"""Training on a GPU: random Llamas made on the spot, full precision and GPTQ, with both trainers. Skips itself without CUDA."""

import importlib.util

import pytest
import torch
from support.gradients import compute_gradients
from support.tiny import make_tiny_model
from trl import SFTTrainer

from helpers import loading, tasks, training, weights
from helpers.training.prefix_trainer import SharedPrefixTrainer
from helpers.training.settings import pick_settings

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
    ours, stock = (
        compute_gradients(trainer, load(home, kind), rows, template, tmp_path)
        for trainer in (SharedPrefixTrainer, SFTTrainer)
    )
    assert ours[0] == pytest.approx(stock[0], rel=1e-4 if kind == "float32" else 2e-2)
    first, second = (
        torch.cat([gradients[name].float().flatten() for name in stock[1]]) for _, gradients in (ours, stock)
    )
    assert torch.nn.functional.cosine_similarity(first, second, dim=0) > (
        0.99999 if kind == "float32" else 0.99
    )


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
