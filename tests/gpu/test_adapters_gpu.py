"""LoRAs on a GPU, attached, switched, proved, merged: random Llamas, full precision and GPTQ. Needs CUDA."""

import importlib.util

import pytest
import torch
from support.tiny import make_tiny_model

from helpers import adapters, loading, tasks, training, weights
from helpers.adapters.fingerprint import compute_logits
from helpers.common.errors import UnsupportedError
from helpers.common.presets import pick_settings

needs_gptqmodel = pytest.mark.skipif(
    not importlib.util.find_spec("gptqmodel"), reason="gptqmodel is not installed"
)
pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device on this machine"),
]
PROMPT = [{"role": "user", "content": "Where to?"}]


@pytest.fixture(params=["full", pytest.param("gptq", marks=needs_gptqmodel)])
def base(request, home, rows, template):
    """Name of a random Llama's folder, on which the LoRAs one and two were trained."""
    make_tiny_model(home / "models" / "tiny", hidden=128)
    name = "tiny" if request.param == "full" else weights.quantize("tiny", group_size=32).name
    data = tasks.TaskData(template, rows)
    for seed, lora in enumerate(("one", "two")):
        changes = {"max_rows": 0, "epochs": 4, "learning_rate": 0.01, "seed": seed}
        settings = pick_settings("tiny").replace(changes)
        loaded = loading.load_model(name, purpose="training")
        training.train_lora(loaded, data, settings, home / "loras" / lora, progress=False)
    return name


def list_places(model):
    """Where the base's numbers are in memory: the same places mean that nothing was loaded again."""
    tensors = [*model.named_parameters(), *model.named_buffers()]
    return {tensor.data_ptr() for name, tensor in tensors if "lora_" not in name}


def test_loras_are_attached_and_proved(base, template):
    loaded = loading.load_model(base)
    for lora in ("one", "two"):
        adapters.attach_adapter(loaded, lora)
        assert [finding.passed for finding in adapters.prove(loaded, lora, template)] == [True] * 7


def test_loras_are_switched_and_detached_without_loading_the_base_again(base):
    loaded = loading.load_model(base)
    plain = compute_logits(loaded, PROMPT)  # first: some kernels repack their weights in the first pass
    places = list_places(loaded.model)
    for lora in ("one", "two"):
        adapters.attach_adapter(loaded, lora)
    second = compute_logits(loaded, PROMPT)
    adapters.switch_adapter(loaded, "one")
    assert not torch.allclose(compute_logits(loaded, PROMPT), second)
    assert list_places(loaded.model) == places
    adapters.detach_adapter(loaded)
    assert torch.equal(compute_logits(loaded, PROMPT), plain)
    assert list_places(loaded.model) == places


def test_merged_model_has_the_adapted_logits_and_quantised_bases_refuse(base):
    if base.endswith("-GPTQ"):
        with pytest.raises(UnsupportedError, match="--base"):
            adapters.merge_adapter("one", "merged")
        return
    adapted = adapters.attach_adapter(loading.load_model(base, dtype="float32"), "one")
    wanted = compute_logits(adapted, PROMPT)
    merged = loading.load_model(adapters.merge_adapter("one", "merged").name, dtype="float32")
    assert (compute_logits(merged, PROMPT) - wanted).abs().max() < 1e-3 * wanted.abs().max()
