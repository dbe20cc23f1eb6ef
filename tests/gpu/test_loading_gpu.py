"""Loading on a GPU: random Llamas made on the spot; nothing is fetched. Skipped without CUDA."""

import importlib.util
import os

import pytest
import torch
from peft import LoraConfig, get_peft_model
from support.tiny import make_tiny_model

from helpers import common, loading, tasks, training, weights
from helpers.common.machine import name_dtype
from helpers.common.presets import pick_settings
from helpers.weights.sizes import read_local

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device on this machine"),
]
needs_gptqmodel = pytest.mark.skipif(
    not importlib.util.find_spec("gptqmodel"), reason="gptqmodel is not installed"
)
needs_bitsandbytes = pytest.mark.skipif(
    not importlib.util.find_spec("bitsandbytes"),
    reason="bitsandbytes is not installed: pip install -e '.[gpu]'",
)


def compute_logits(loaded):
    """The logits of forty tokens, in float32 on the CPU."""
    with torch.inference_mode():
        return loaded.model(torch.arange(40, device=loaded.model.device)[None]).logits.float().cpu()


def measure_agreement(one, other):
    """Cosine similarity of the logits of two models."""
    vectors = [compute_logits(loaded).flatten() for loaded in (one, other)]
    return torch.nn.functional.cosine_similarity(*vectors, dim=0)


def add_up(terms):
    """The bytes of an estimate without the CUDA context, which torch does not count."""
    return sum(term.bytes for term in terms if term.name != "overhead")


def test_dtype_follows_the_compute_capability():
    newer = torch.cuda.get_device_capability() >= (8, 0)
    assert common.pick_dtype().value == (torch.bfloat16 if newer else torch.float16)


@pytest.mark.parametrize(("dtype", "tolerance"), [("float32", 2e-3), ("float16", 5e-2)])
def test_full_precision_gives_the_same_on_both_devices(home, dtype, tolerance):
    make_tiny_model(home / "models" / "tiny")
    on_gpu = loading.load_model("tiny", dtype=dtype)
    on_cpu = loading.load_model("tiny", dtype="float32", device_map="cpu")
    assert on_gpu.device.value == "cuda"
    assert on_gpu.model.device.type == "cuda"
    assert torch.allclose(compute_logits(on_gpu), compute_logits(on_cpu), atol=tolerance)


@needs_bitsandbytes
@pytest.mark.parametrize(("bits", "agreement"), [(8, 0.98), (4, 0.7)])
def test_fewer_bits_make_a_model_smaller_and_keep_what_it_says(home, bits, agreement):
    make_tiny_model(home / "models" / "tiny", hidden=256)
    small = loading.load_model("tiny", bits=bits)
    full = loading.load_model("tiny", dtype="float16")
    assert small.bytes < full.bytes
    assert measure_agreement(small, full) > agreement


@needs_gptqmodel
@pytest.mark.parametrize("act_order", [False, True])
def test_gptq_says_what_full_precision_says(home, act_order):
    make_tiny_model(home / "models" / "tiny", hidden=128)
    quantised = loading.load_model(weights.quantize("tiny", act_order=act_order).name, dtype="float16")
    full = loading.load_model("tiny", dtype="float16")
    assert measure_agreement(quantised, full) > 0.7  # 0.8 on a CPU


@needs_gptqmodel
@pytest.mark.parametrize("act_order", [False, True])
def test_gptq_lets_gradients_through(home, act_order):
    make_tiny_model(home / "models" / "tiny", hidden=128)
    name = weights.quantize("tiny", act_order=act_order).name
    base = loading.load_model(name, purpose="training").model
    model = get_peft_model(base, LoraConfig(r=2, target_modules=["q_proj"]))
    ids = torch.arange(40, device="cuda")[None]
    model(input_ids=ids, labels=ids).loss.backward()
    gradients = [parameter.grad for name, parameter in model.named_parameters() if "lora_B" in name]
    assert gradients
    assert all(gradient.abs().sum() > 0 for gradient in gradients)


def test_estimate_of_running_is_within_a_fifth_of_what_torch_counts(home):
    make_tiny_model(home / "models" / "wide", hidden=2048)
    torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_allocated()
    loaded = loading.load_model("wide", dtype="float16")
    ids = torch.randint(0, 256, (8, 2000), device="cuda")
    mask = torch.ones_like(ids)
    with torch.inference_mode():
        loaded.model.generate(ids, attention_mask=mask, max_new_tokens=8, min_new_tokens=8, do_sample=False)
    counted = torch.cuda.max_memory_allocated() - before
    facts = read_local("wide")
    shape = {"context": 2008, "batch": 8}
    terms = weights.estimate_running(
        facts.config, facts.weight_bytes, "float16", "cuda", **shape, slots=False
    )
    assert add_up(terms) == pytest.approx(counted, rel=0.2)


def test_estimate_of_training_is_within_a_fifth_of_what_torch_counts(home, rows, template):
    make_tiny_model(home / "models" / "wide", hidden=2048)
    # All texts are as long as each other.
    rows = [{**row, "text": f"{number:02} {'long ' * 60}"} for number, row in enumerate(rows)]
    torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_allocated()
    loaded = loading.load_model("wide", purpose="training")
    data = tasks.TaskData(template, rows)
    settings = pick_settings("tiny").replace({"batch_size": 6})
    trainer = training.make_trainer(loaded, data, settings, home / "runs", progress=False)
    trainer.train()
    counted = torch.cuda.max_memory_allocated() - before
    ids = [list(row) for row in trainer.train_dataset["input_ids"]]
    step = {"batch": 6, "length": max(map(len, ids)), "shared": len(os.path.commonprefix(ids))}
    step |= {"r": settings.lora_r, "targets": settings.targets}
    dtype = name_dtype(common.pick_dtype("cuda").value)
    facts = read_local("wide")
    terms = weights.estimate_training(facts.config, facts.weight_bytes, dtype, "cuda", **step)
    assert add_up(terms) == pytest.approx(counted, rel=0.2)


def test_what_the_gpu_may_not_hold_goes_to_the_cpu_and_says_the_same(home):
    make_tiny_model(home / "models" / "tiny", hidden=256)  # 5 MB
    limits = {0: "4MB", "cpu": "1GiB"}
    split = loading.load_model("tiny", dtype="float32", max_memory=limits)
    whole = loading.load_model("tiny", dtype="float32")
    assert split.device.value == "cuda"
    assert {str(place) for place in split.model.hf_device_map.values()} == {"0", "cpu"}
    assert torch.allclose(compute_logits(split), compute_logits(whole), atol=2e-3)


def test_dtype_on_the_cpu_is_the_cpu_s(home):
    make_tiny_model(home / "models" / "tiny")
    assert loading.load_model("tiny", device_map="cpu").dtype == common.pick_dtype("cpu")
