"""The estimates of memory against known numbers and against what the embedded model really takes."""

import subprocess
import sys

import pytest

from helpers import KitError, weights
from helpers.weights.memory import BYTES
from helpers.weights.sizes import read_local

LLAMA_7B = {
    "num_hidden_layers": 32, "hidden_size": 4096, "intermediate_size": 11008, "num_attention_heads": 32, "vocab_size": 32000,
    "max_position_embeddings": 4096, "torch_dtype": "float16",
}  # fmt: skip


def find(terms, name):
    return next(term.bytes for term in terms if term.name == name)


def test_llama_7b_needs_what_its_papers_say():
    terms = weights.estimate_running(LLAMA_7B, 13_476_839_424, "float16", "cuda", context=4096)
    assert (
        find(terms, "weights") == 13_476_839_424 and find(terms, "KV cache") == 2 * 1024**3
    )  # 0.5 MiB a token
    lora = weights.estimate_training(
        LLAMA_7B, 13_476_839_424, "float16", "cuda", r=8, targets="q_proj,v_proj"
    )
    assert (
        find(lora, "LoRA") == 4 * 4_194_304
    )  # as the paper of LoRA counts for two matrices of 4096 x 4096, 32 layers, r 8


def test_grouped_keys_and_shared_tokens_save_memory():
    grouped = {**LLAMA_7B, "num_key_value_heads": 8}
    small, large = (
        find(weights.estimate_running(config, 10**9, "float16"), "KV cache") for config in (grouped, LLAMA_7B)
    )
    assert 4 * small == large
    alone, shared = (
        find(weights.estimate_training(LLAMA_7B, 1, "float16", batch=4, length=100, shared=n), "activations")
        for n in (0, 60)
    )
    assert shared / alone == pytest.approx((60 + 4 * 40) / 400)


def test_checkpointing_keeps_the_input_of_each_layer_and_one_layer_whole():
    on_gpu, on_cpu = (
        weights.estimate_training(LLAMA_7B, 1, "float16", device, batch=1, length=1000)
        for device in ("cuda", "cpu")
    )
    layer = 10 * 4096 + 5 * 11008
    assert (
        find(on_gpu, "activations") == 1000 * (32 * 4096 + layer) * 2
        and find(on_cpu, "activations") == 1000 * 32 * layer * 2
    )
    unchecked = weights.estimate_training(
        LLAMA_7B, 1, "float16", "cuda", batch=1, length=1000, checkpointing=False
    )
    assert [find(terms, "attention mask") for terms in (on_gpu, on_cpu, unchecked)] == [
        3_000_000,
        3_000_000,
        65_000_000,
    ]
    assert (
        find(
            weights.estimate_training(
                LLAMA_7B, 1, "float16", "cpu", checkpointing=True, batch=1, length=1000
            ),
            "activations",
        )
        == 1000 * (32 * 4096 + layer) * 2
    )


def test_quantised_weights_stay_packed_and_others_are_converted():
    quantized = {
        **LLAMA_7B,
        "quantization_config": {"quant_method": "gptq", "bits": 4, "group_size": 128, "desc_act": False},
    }
    assert find(weights.estimate_running(quantized, 3_900_000_000, "float16"), "weights") == 3_900_000_000
    assert find(weights.estimate_running(LLAMA_7B, 10**9, "float32"), "weights") == 2 * 10**9
    assert weights.read_quantization(quantized) == {"bits": 4, "group_size": 128, "act_order": False}


RUN = """
import sys, torch
from helpers import loading, machine
loaded = loading.load_model(sys.argv[1], dtype=sys.argv[2])
ids = torch.randint(10, 40000, (int(sys.argv[4]), int(sys.argv[3]) - 8))
with torch.inference_mode():
    loaded.model.generate(input_ids=ids, attention_mask=torch.ones_like(ids), max_new_tokens=8, min_new_tokens=8, do_sample=False)
print(machine.measure_peak_mb())
"""

TRAIN = """
import sys
from pathlib import Path
from helpers import dataset, loading, settings, templating, trainers, training
template = templating.load_template("templates/college_preferences.yaml")
rows = dataset.load_rows("data/college_preferences/dataset.csv", template)
if words := int(sys.argv[5]):
    rows = [{**row, "text": " ".join((row["text"].split() * words)[:words])} for row in rows[:4]]
chosen = settings.pick_settings("tiny").replace({"batch_size": int(sys.argv[3]), "max_rows": 16})
loaded = loading.load_model(sys.argv[1], dtype=sys.argv[2])
examples = trainers.build_dataset(rows, template, chosen)
lengths = [len(loading.tokenize_chat(loaded.tokenizer, e["prompt"] + e["completion"])["input_ids"][0]) for e in examples]
record = training.train_lora(loaded, rows, template, chosen, Path(sys.argv[4]) / "loras" / "x", progress=False)
print(record["peak_mb"], max(lengths))
"""


def run_alone(code, *arguments):
    """The last line that a fresh process prints: its peak memory in MB is its own."""
    command = [sys.executable, "-c", code, *map(str, arguments)]
    done = subprocess.run(command, check=True, capture_output=True, text=True, timeout=300)
    return [int(word) for word in done.stdout.splitlines()[-1].split()]


@pytest.mark.real
@pytest.mark.parametrize(("dtype", "context", "batch"), [("float32", 256, 1), ("bfloat16", 1024, 4)])
def test_estimate_of_running_is_within_a_fifth_of_what_the_real_model_takes(
    real_model_name, dtype, context, batch
):
    config, _, file_bytes = read_local(real_model_name)
    estimate = sum(
        term.bytes for term in weights.estimate_running(config, file_bytes, dtype, "cpu", context, batch)
    )
    [peak] = run_alone(RUN, real_model_name, dtype, context, batch)
    assert estimate / 1e6 == pytest.approx(peak, rel=0.2)


@pytest.mark.real
@pytest.mark.parametrize(
    ("dtype", "batch", "words"), [("float32", 4, 0), ("bfloat16", 16, 0), ("bfloat16", 1, 1100)]
)
def test_estimate_of_training_is_within_a_fifth_of_what_the_real_model_takes(
    real_model_name, tmp_path, dtype, batch, words
):
    config, _, file_bytes = read_local(real_model_name)
    peak, longest = run_alone(TRAIN, real_model_name, dtype, batch, tmp_path, words)
    estimate = sum(
        term.bytes
        for term in weights.estimate_training(
            config, file_bytes, dtype, "cpu", batch=batch, length=longest, shared=66
        )
    )
    assert estimate / 1e6 == pytest.approx(peak, rel=0.2)


@pytest.mark.parametrize("wrong", [{"context": -5}, {"batch": 0}, {"length": 0}, {"r": -1}])
def test_sizes_that_are_none_are_refused(wrong):
    with pytest.raises(KitError, match="is no size. Say a whole number"):
        weights.measure_size("any", **wrong)


def test_layer_and_dtype_that_are_not_known_are_named():
    with pytest.raises(KitError, match="'w_proj' is no layer .*q_proj"):
        weights.estimate_training(LLAMA_7B, 1, "float16", targets="q_proj,w_proj")
    with pytest.raises(KitError, match="stored as float8_e4m3fn"):
        weights.estimate_running({**LLAMA_7B, "torch_dtype": "float8_e4m3fn"}, 1, "float16")


def test_dtypes_have_their_bytes():
    import torch

    assert all(
        torch.empty(1, dtype=getattr(torch, name)).element_size() == size for name, size in BYTES.items()
    )
