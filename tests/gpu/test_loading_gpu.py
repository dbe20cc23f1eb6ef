"""Loading on a GPU: random Llamas made on the spot, nothing fetched. Skips itself without CUDA."""

import importlib.util
import os

import pytest
import torch
from support.tiny import make_tiny_model

from helpers import common, loading, training, weights
from helpers.training.settings import pick_settings
from helpers.weights.sizes import name_dtype, read_local

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
    with torch.inference_mode():
        return loaded.model(torch.arange(40, device=loaded.model.device)[None]).logits.float().cpu()


def test_dtype_follows_the_compute_capability():
    newer = torch.cuda.get_device_capability() >= (8, 0)
    assert common.pick_dtype().value == (torch.bfloat16 if newer else torch.float16)


@pytest.mark.parametrize("dtype", ["float32", "float16"])
def test_full_precision_gives_the_same_on_both_devices(home, dtype):
    make_tiny_model(home / "models" / "tiny")
    on_gpu, on_cpu = (
        loading.load_model("tiny", dtype=dtype),
        loading.load_model("tiny", dtype="float32", device_map="cpu"),
    )
    assert on_gpu.device.value == "cuda" and on_gpu.model.device.type == "cuda"
    assert torch.allclose(
        compute_logits(on_gpu), compute_logits(on_cpu), atol=2e-3 if dtype == "float32" else 5e-2
    )


@needs_bitsandbytes
@pytest.mark.parametrize(("bits", "agreement"), [(8, 0.98), (4, 0.7)])
def test_bits_make_it_smaller_and_keep_what_it_says(home, bits, agreement):
    make_tiny_model(home / "models" / "tiny", hidden=256)
    small, full = loading.load_model("tiny", bits=bits), loading.load_model("tiny", dtype="float16")
    assert small.bytes < full.bytes
    assert (
        torch.nn.functional.cosine_similarity(
            compute_logits(small).flatten(), compute_logits(full).flatten(), dim=0
        )
        > agreement
    )


@needs_gptqmodel
@pytest.mark.parametrize("act_order", [False, True])
def test_gptq_loads_to_generate_and_to_train(home, act_order):
    from peft import LoraConfig, get_peft_model

    make_tiny_model(home / "models" / "tiny", hidden=128)
    folder = weights.quantize("tiny", act_order=act_order)
    loaded, full = (
        loading.load_model(folder.name, dtype="float16"),
        loading.load_model("tiny", dtype="float16"),
    )
    assert (
        torch.nn.functional.cosine_similarity(
            compute_logits(loaded).flatten(), compute_logits(full).flatten(), dim=0
        )
        > 0.7
    )  # 0.8 on a CPU
    model = get_peft_model(
        loading.load_model(folder.name, purpose="training").model, LoraConfig(r=2, target_modules=["q_proj"])
    )
    ids = torch.arange(40, device="cuda")[None]
    model(input_ids=ids, labels=ids).loss.backward()
    assert all(
        parameter.grad.abs().sum() > 0 for name, parameter in model.named_parameters() if "lora_B" in name
    )


def test_estimate_of_running_is_within_a_fifth_of_what_torch_counts(home):
    make_tiny_model(home / "models" / "wide", hidden=2048)
    torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_allocated()
    loaded = loading.load_model("wide", dtype="float16")
    ids = torch.randint(0, 256, (8, 2000), device="cuda")
    with torch.inference_mode():
        loaded.model.generate(
            ids, attention_mask=torch.ones_like(ids), max_new_tokens=8, min_new_tokens=8, do_sample=False
        )
    config, _, file_bytes = read_local("wide")
    terms = weights.estimate_running(config, file_bytes, "float16", "cuda", context=2008, batch=8)
    counted = sum(
        term.bytes for term in terms if term.name != "overhead"
    )  # the CUDA context, which torch does not count
    assert counted == pytest.approx(torch.cuda.max_memory_allocated() - before, rel=0.2)


def test_estimate_of_training_is_within_a_fifth_of_what_torch_counts(home, rows, template):
    make_tiny_model(home / "models" / "wide", hidden=2048)
    rows = [
        {**row, "text": f"{number:02} {'long ' * 60}"} for number, row in enumerate(rows)
    ]  # as long as each other
    torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_allocated()
    loaded = loading.load_model("wide", purpose="training")
    trainer = training.make_trainer(
        loaded,
        rows,
        template,
        pick_settings("tiny").replace({"batch_size": 6}),
        home / "runs",
        progress=False,
    )
    trainer.train()
    counted = torch.cuda.max_memory_allocated() - before
    ids = [list(row) for row in trainer.train_dataset["input_ids"]]
    lengths = {"batch": 6, "length": max(map(len, ids)), "shared": len(os.path.commonprefix(ids))}
    config, _, file_bytes = read_local("wide")
    terms = weights.estimate_training(config, file_bytes, name_dtype("cuda"), "cuda", **lengths)
    assert sum(term.bytes for term in terms if term.name != "overhead") == pytest.approx(counted, rel=0.2)


def test_what_the_gpu_may_not_hold_goes_to_the_cpu_and_says_the_same(home):
    make_tiny_model(home / "models" / "tiny", hidden=256)  # 5 MB
    split, whole = (
        loading.load_model("tiny", dtype="float32", max_memory={0: "4MB", "cpu": "1GiB"}),
        loading.load_model("tiny", dtype="float32"),
    )
    assert split.device.value == "cuda" and {str(place) for place in split.model.hf_device_map.values()} == {
        "0",
        "cpu",
    }
    assert torch.allclose(compute_logits(split), compute_logits(whole), atol=2e-3)
    assert loading.load_model("tiny", device_map="cpu").dtype == common.pick_dtype("cpu")
