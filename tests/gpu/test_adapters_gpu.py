"""LoRAs on a GPU: attached, switched, proved and merged on random Llamas, full precision and GPTQ. Skips itself without CUDA."""

import importlib.util
import time

import pytest
import torch
from support.tiny import make_tiny_model

from helpers import KitError, adapters, loading, training, weights
from helpers.adapters.fingerprint import compute_logits
from helpers.training.settings import pick_settings

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
    for seed, lora in enumerate(("one", "two")):
        settings = pick_settings("tiny").replace(
            {"max_rows": 0, "epochs": 4, "learning_rate": 0.01, "seed": seed}
        )
        training.train_lora(
            loading.load_model(name, purpose="training"),
            rows,
            template,
            settings,
            home / "loras" / lora,
            progress=False,
        )
    return name


def test_loras_attach_switch_and_are_proved(base, template):
    loaded = loading.load_model(base)
    plain = compute_logits(loaded, PROMPT)
    for lora in ("one", "two"):
        adapters.attach_adapter(loaded, lora)
        assert [finding.passed for finding in adapters.prove(loaded, lora, template)] == [True] * 6
    seen = compute_logits(loaded, PROMPT)
    start = time.monotonic()
    adapters.switch_adapter(loaded, "one")
    assert time.monotonic() - start < 1
    assert not torch.allclose(compute_logits(loaded, PROMPT), seen)
    adapters.detach_adapter(loaded)
    assert torch.equal(compute_logits(loaded, PROMPT), plain)


def test_merged_model_has_the_adapted_logits_and_quantised_bases_refuse(base):
    if base.endswith("-GPTQ"):
        with pytest.raises(KitError, match="--base"):
            adapters.merge_adapter("one", "merged")
        return
    adapted = adapters.attach_adapter(loading.load_model(base, dtype="float32"), "one")
    wanted = compute_logits(adapted, PROMPT)
    merged = loading.load_model(adapters.merge_adapter("one", "merged").name, dtype="float32")
    assert (compute_logits(merged, PROMPT) - wanted).abs().max() < 1e-3 * wanted.abs().max()
