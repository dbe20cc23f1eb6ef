"""How many rows a step takes for batch_size `auto`: facts of machine and model are given, not measured."""

import pytest

from helpers.weights.batches import LEAST_STEPS, MOST_TIMES, BatchFacts, estimate_batch, pick_batch

GB = 10**9
LLAMA_70B = {
    "num_hidden_layers": 80,
    "hidden_size": 8192,
    "intermediate_size": 28672,
    "num_attention_heads": 64,
    "num_key_value_heads": 8,
    "torch_dtype": "float16",
    "quantization_config": {"quant_method": "gptq", "bits": 4, "group_size": 64, "desc_act": True},
}
LLAMA_70B_BYTES = 38_500_000_000


def pick(gb=80, each=1, quantised=False, device="cuda", meant=4, rows=None, accumulation=1):
    """The choice where a row keeps `each` GB, with gradient checkpointing a tenth of that."""

    def need(batch, checkpointing):
        return round(batch * each * (0.1 if checkpointing else 1) * GB)

    return pick_batch(BatchFacts(need, gb * GB, device, quantised, meant, accumulation, rows))


@pytest.mark.parametrize(("gb", "rows"), [(80, 32), (30, 16), (10, 8), (5, 4)])
def test_batch_is_the_largest_doubling_that_fits(gb, rows):
    choice = pick(gb)
    assert choice.value == rows
    assert f"{gb}.0 GB" in choice.reason


@pytest.mark.parametrize(("gb", "rows"), [(1.2, 4), (0.3, 2), (0.2, 1)])
def test_less_than_what_is_meant_is_taken_only_where_even_checkpointing_does_not_make_room(gb, rows):
    assert pick(gb).value == rows


def test_one_row_that_may_not_fit_is_said():
    choice = pick(0.05)
    assert choice.value == 1 and "even one row" in choice.reason


def test_weights_that_every_step_unpacks_are_worth_checkpointing_for_more_rows():
    assert pick(10, quantised=True).value == 32
    assert pick(10, quantised=False).value == 8


def test_batch_is_never_more_than_so_many_times_what_the_learning_rate_was_chosen_for():
    for meant in (1, 2, 4, 6):
        choice = pick(10_000, meant=meant)
        assert choice.value == MOST_TIMES * meant
        assert f"{meant} rows that the learning rate" in choice.reason


@pytest.mark.parametrize("rows", [10, 127, 128, 600, 1250, 100_000])
@pytest.mark.parametrize("accumulation", [1, 2])
def test_few_rows_are_divided_into_enough_steps_or_as_the_settings_say(rows, accumulation):
    choice = pick(10_000, rows=rows, accumulation=accumulation)
    assert choice.value == 4 or rows // (choice.value * accumulation) >= LEAST_STEPS
    if choice.value < 4 * MOST_TIMES:
        assert rows < 2 * choice.value * accumulation * LEAST_STEPS
        assert f"{LEAST_STEPS} steps" in choice.reason


@pytest.mark.parametrize(("gb", "rows"), [(80, 8), (5, 4)])
def test_cpu_keeps_what_is_meant_if_it_fits(gb, rows):
    choice = pick(gb, device="cpu", meant=8, rows=10_000)
    assert choice.value == rows
    assert ("CPU" in choice.reason) == (rows == 8)


@pytest.mark.parametrize(("free", "rows"), [(79 * GB, 32), (50 * GB, 1)])
def test_model_of_70b_on_an_80_gb_card_takes_32_of_the_lessons_rows(free, rows):
    step = {"r": 64, "length": 133, "shared": 60}
    choice = estimate_batch(LLAMA_70B, LLAMA_70B_BYTES, "float16", "cuda", free, rows=1250, **step)
    assert choice.value == rows
