"""The estimates of memory against known numbers, and against what the embedded model really takes."""

import subprocess
import sys

import pytest
import torch

from helpers import weights
from helpers.common.errors import KitError, UnsupportedError, UsageError
from helpers.weights.sizes import read_local
from helpers.weights.step_memory import OPTIMIZER_BYTES
from helpers.weights.terms import DTYPE_BYTES

LLAMA_7B = {
    "num_hidden_layers": 32,
    "hidden_size": 4096,
    "intermediate_size": 11008,
    "num_attention_heads": 32,
    "torch_dtype": "float16",
}
LLAMA_7B_BYTES = 13_476_839_424
LAYER = 10 * 4096 + 5 * 11008  # numbers that a layer of Llama 7B keeps for a token


def find(terms, name):
    """The bytes of one term of an estimate."""
    return next(term.bytes for term in terms if term.name == name)


def add_up(terms):
    """The bytes of the whole estimate."""
    return sum(term.bytes for term in terms)


def test_llama_7b_takes_half_a_mebibyte_of_cache_for_each_token():
    terms = weights.estimate_running(LLAMA_7B, LLAMA_7B_BYTES, "float16", "cuda", context=4096)
    assert find(terms, "weights") == LLAMA_7B_BYTES
    assert find(terms, "KV cache") == 4096 * 2**19


def test_gpu_has_slots_beside_the_prompts_which_are_read_in_chunks():
    given = {"context": 2000, "batch": 16}
    engine, plain = (
        weights.estimate_running(LLAMA_7B, LLAMA_7B_BYTES, "float16", "cuda", slots=slots, **given)
        for slots in (None, False)
    )
    assert find(engine, "slots") == 16 * 2048 * 2**19
    assert find(engine, "KV cache") == 16 * 1024 * 2**19  # prompts of a chunk are read side by side
    assert find(plain, "KV cache") == 16 * 2000 * 2**19
    assert "slots" not in [term.name for term in plain]


def test_keys_are_laid_out_for_each_query_head_where_the_fast_kernel_does_not_share_them():
    def estimate(dtype, **config):
        terms = weights.estimate_training({**LLAMA_7B, **config}, 1, dtype, "cuda", batch=1, length=100)
        return find(terms, "sequences laid out")

    assert estimate("bfloat16", num_key_value_heads=8) < estimate("float16", num_key_value_heads=8)
    assert estimate("float16", num_key_value_heads=8) == estimate("bfloat16")


def test_lora_has_as_many_parameters_as_its_paper_counts():
    # rank 8 on two matrices of 4096 x 4096 in each of 32 layers, trained in float32
    terms = weights.estimate_training(
        LLAMA_7B, LLAMA_7B_BYTES, "float16", "cuda", r=8, targets="q_proj,v_proj"
    )
    assert find(terms, "LoRA") == 4 * 4_194_304


def test_grouped_keys_save_cache():
    grouped = weights.estimate_running({**LLAMA_7B, "num_key_value_heads": 8}, 10**9, "float16")
    full = weights.estimate_running(LLAMA_7B, 10**9, "float16")
    assert 4 * find(grouped, "KV cache") == find(full, "KV cache")


def test_shared_tokens_save_activations():
    alone, shared = (
        weights.estimate_training(LLAMA_7B, 1, "float16", batch=4, length=100, shared=count)
        for count in (0, 60)
    )
    ratio = find(shared, "activations") / find(alone, "activations")
    assert ratio == pytest.approx((60 + 4 * 40) / 400)


@pytest.mark.parametrize(
    ("device", "checkpointing", "kept", "attention"),
    [
        ("cuda", None, 32 * 4096 + LAYER, 4 * 4096 * 2),  # the input of each layer, and one layer in full
        ("cuda", False, 32 * LAYER, 32 * 4 * 4096 * 2),
        ("cpu", None, 32 * LAYER, 1000 * 3),
        ("cpu", True, 32 * 4096 + LAYER, 1000 * 3),
    ],
)
def test_checkpointing_keeps_the_input_of_each_layer_and_one_layer_in_full(
    device, checkpointing, kept, attention
):
    terms = weights.estimate_training(
        LLAMA_7B, 1, "float16", device, batch=1, length=1000, checkpointing=checkpointing
    )
    assert find(terms, "activations") == 1000 * kept * 2
    name = "attention mask" if device == "cpu" else "sequences laid out"
    assert find(terms, name) == 1000 * attention


def test_only_a_cpu_in_16_bits_keeps_attention_weights():
    def estimate(dtype, device):
        terms = weights.estimate_training(LLAMA_7B, 1, dtype, device, batch=1, length=100)
        return find(terms, "attention weights")

    assert estimate("bfloat16", "cpu") == 32 * 32 * 100 * 100 * 2
    assert estimate("float32", "cpu") == estimate("bfloat16", "cuda") == 0


def test_optimizer_keeps_two_averages_unless_it_is_plain_descent():
    def estimate(optimizer):
        return weights.estimate_training(LLAMA_7B, 1, "float16", optimizer=optimizer)

    adamw = estimate("adamw_torch")
    assert find(adamw, "optimizer") == 2 * find(adamw, "LoRA")
    assert find(estimate("sgd"), "optimizer") == 0


def test_quantised_weights_stay_packed():
    facts = {"quant_method": "gptq", "bits": 4, "group_size": 128, "desc_act": False}
    quantised = {**LLAMA_7B, "quantization_config": facts}
    terms = weights.estimate_running(quantised, 3_900_000_000, "float16")
    assert find(terms, "weights") == 3_900_000_000
    found = weights.read_quantization(quantised)
    assert (found.bits, found.group_size, found.act_order) == (4, 128, False)


def test_weights_are_counted_in_the_dtype_that_they_are_converted_to():
    terms = weights.estimate_running(LLAMA_7B, 10**9, "float32")
    assert find(terms, "weights") == 2 * 10**9


def test_file_counts_while_a_cpu_converts_it_if_it_is_more_than_the_cache():
    few = weights.estimate_running(LLAMA_7B, 10**9, "float32", "cpu", context=16)
    many = weights.estimate_running(LLAMA_7B, 10**9, "float32", "cpu", context=4096)
    gpu = weights.estimate_running(LLAMA_7B, 10**9, "float32", "cuda", context=16, slots=False)
    assert find(few, "the file while it is converted") == 10**9
    assert [term.name for term in many] == [term.name for term in gpu]
    assert find(many, "KV cache") > 10**9


# Both print numbers; the first is the peak memory of their own process in MB.
RUN = """
import sys, torch
from helpers import common, loading
name, dtype, context, batch = sys.argv[1:]
loaded = loading.load_model(name, dtype=dtype)
ids = torch.randint(10, 40000, (int(batch), int(context) - 8))
with torch.inference_mode():
    loaded.model.generate(
        input_ids=ids,
        attention_mask=torch.ones_like(ids),
        max_new_tokens=8,
        min_new_tokens=8,
        do_sample=False,
    )
print(common.measure_peak_mb())
"""

TRAIN = """
import sys
from pathlib import Path
from helpers import loading, tasks, training
name, dtype, batch, home, words, targets = sys.argv[1:]
output = Path(home) / "loras" / f"memory-{dtype}-{batch}-{words}-{targets}"  # each test has another name
template = tasks.load_template("templates/college_preferences.yaml")
rows = tasks.load_rows("data/college_preferences/dataset.csv", template)
if words := int(words):  # a few rows with comments of so many words
    rows = [{**row, "text": " ".join((row["text"].split() * words)[:words])} for row in rows[:4]]
changed = {"batch_size": int(batch), "max_rows": 16, "targets": targets}
chosen = training.pick_settings("tiny").replace(changed)
loaded = loading.load_model(name, dtype=dtype)
examples = training.build_dataset(rows, template, chosen, loaded.tokenizer)
lengths = [len(ids) for ids in examples["input_ids"]]
data = tasks.TaskData(template, rows)
record = training.train_lora(loaded, data, chosen, output, progress=False)
print(record["peak_mb"], max(lengths))
"""


def run_alone(code, *arguments):
    """The numbers in the last line that a fresh process prints."""
    command = [sys.executable, "-c", code, *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-3000:]
    return [int(word) for word in done.stdout.splitlines()[-1].split()]


@pytest.mark.real
@pytest.mark.parametrize(("dtype", "context", "batch"), [("float32", 256, 1), ("bfloat16", 1024, 4)])
def test_estimate_of_running_is_within_a_fifth_of_the_measured_peak(real_model_name, dtype, context, batch):
    facts = read_local(real_model_name)
    terms = weights.estimate_running(facts.config, facts.weight_bytes, dtype, "cpu", context, batch)
    [peak_mb] = run_alone(RUN, real_model_name, dtype, context, batch)
    assert add_up(terms) / 1e6 == pytest.approx(peak_mb, rel=0.2)


@pytest.mark.real
@pytest.mark.parametrize(
    ("dtype", "batch", "words", "targets"),
    [
        ("float32", 4, 0, "all-linear"),
        ("bfloat16", 16, 0, "all-linear"),
        ("bfloat16", 16, 0, "upper-linear"),
        ("bfloat16", 1, 1100, "upper-linear"),
    ],
)
def test_estimate_of_training_is_within_a_fifth_of_the_measured_peak(
    real_model_name, tmp_path, dtype, batch, words, targets
):
    facts = read_local(real_model_name)
    peak_mb, longest = run_alone(TRAIN, real_model_name, dtype, batch, tmp_path, words, targets)
    terms = weights.estimate_training(
        facts.config,
        facts.weight_bytes,
        dtype,
        "cpu",
        batch=batch,
        length=longest,
        shared=66,
        targets=targets,
    )
    assert add_up(terms) / 1e6 == pytest.approx(peak_mb, rel=0.2)


@pytest.mark.parametrize("wrong", [{"context": -5}, {"batch": 0}, {"length": 0}, {"r": -1}])
def test_number_below_one_is_not_a_size(wrong):
    with pytest.raises(KitError) as caught:
        weights.measure_size("any", **wrong)
    [(name, value)] = wrong.items()
    assert name in caught.value.problem and str(value) in caught.value.problem


def test_unknown_layer_is_refused_and_the_known_ones_are_listed():
    with pytest.raises(UsageError) as caught:
        weights.estimate_training(LLAMA_7B, 1, "float16", targets="q_proj,w_proj")
    assert "'w_proj'" in caught.value.problem and "q_proj" in caught.value.remedy


def test_unknown_optimizer_is_refused_and_the_known_ones_are_listed():
    with pytest.raises(UsageError) as caught:
        weights.estimate_training(LLAMA_7B, 1, "float16", optimizer="lion")
    assert "'lion'" in caught.value.problem
    assert all(name in caught.value.remedy for name in OPTIMIZER_BYTES)


def test_dtype_of_unknown_size_is_refused():
    with pytest.raises(UnsupportedError) as caught:
        weights.estimate_running({**LLAMA_7B, "torch_dtype": "float8_e4m3fn"}, 1, "float16")
    assert "float8_e4m3fn" in caught.value.problem


def test_sizes_of_dtypes_are_those_of_torch():
    sizes = {name: torch.empty(1, dtype=getattr(torch, name)).element_size() for name in DTYPE_BYTES}
    assert sizes == DTYPE_BYTES
