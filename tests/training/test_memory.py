"""Whether a step's activations fit: facts of a card are given, so that no card is needed."""

import pytest
import torch
from datasets import Dataset
from transformers import AutoModelForCausalLM, LlamaConfig

from helpers.common.presets import pick_settings
from helpers.training.memory import count_step_tokens, pick_checkpointing, settle_batch
from helpers.weights.batches import estimate_batch, estimate_checkpointing, leave_room
from helpers.weights.cards import CARDS, GPTQ_CONFIG
from helpers.weights.memory import estimate_training

LLAMA_7B = LlamaConfig()  # transformers' default shape
SETTINGS = pick_settings("t4").replace({"batch_size": 4})


@pytest.fixture(scope="module")
def large():
    """A Llama of 7 billion parameters without memory for them."""
    with torch.device("meta"):
        return AutoModelForCausalLM.from_config(LLAMA_7B, dtype=torch.bfloat16)


@pytest.mark.parametrize(("free_gb", "checkpointing"), [(5, True), (80, False)])
def test_gradients_are_checkpointed_only_where_memory_asks_for_it(large, free_gb, checkpointing):
    examples = Dataset.from_dict({"input_ids": [[row] * 250 for row in range(4)]})
    choice = pick_checkpointing(large, SETTINGS, examples, shares=True, free=free_gb * 10**9, device="cuda")
    assert choice.value == checkpointing
    assert "1,000 tokens" in choice.reason and f"{free_gb}.0 GB are free" in choice.reason


def test_cpu_never_checkpoints(tiny):
    examples = Dataset.from_dict({"input_ids": [[1, 2, 3]]})
    assert not pick_checkpointing(tiny.model, SETTINGS, examples, shares=True, free=0).value


def test_tokens_of_a_step_are_those_of_its_longest_rows_with_what_they_share_once():
    rows = [[1, 2, 3], [1, 2, 4, 5], [1, 2, 6, 7], [1], [1, 2]]
    examples = Dataset.from_dict({"input_ids": rows})
    settings = SETTINGS.replace({"batch_size": 3})
    assert count_step_tokens(examples, settings, shares=True) == (2 + 1 + 2 + 2, 4)
    assert count_step_tokens(examples, settings, shares=False) == (3 * 4, 4)
    short = SETTINGS.replace({"batch_size": 3, "max_length": 3})
    assert count_step_tokens(examples, short, shares=True) == (2 + 1 + 1 + 1, 3)


# Rows for batch_size `auto`

AUTO = SETTINGS.replace({"batch_size": "auto"})


def make_rows(count):
    """Rows of 250 tokens of which nothing is shared."""
    return Dataset.from_dict({"input_ids": [[row] * 250 for row in range(count)]})


@pytest.mark.parametrize(("free_gb", "rows"), [(5, 4), (40, 8), (80, 16), (400, 32)])
def test_number_of_rows_follows_from_the_memory_of_the_card(large, free_gb, rows):
    taken = settle_batch(large, AUTO, make_rows(3000), device="cuda", free=free_gb * 10**9)
    assert taken.value.batch_size == rows
    assert taken.value.learning_rate == pytest.approx(SETTINGS.learning_rate * (rows / 4) ** 0.5)
    assert taken.value.batch == "fixed"
    assert taken.reason


def test_batch_that_is_taken_needs_no_checkpointing_if_weights_are_not_quantised(large):
    free = 60 * 10**9
    taken = settle_batch(large, AUTO, make_rows(2000), device="cuda", free=free).value
    assert taken.batch_size > SETTINGS.batch_size
    assert not pick_checkpointing(large, taken, make_rows(2000), shares=True, free=free, device="cuda").value


def test_number_in_the_settings_stays(large):
    assert settle_batch(large, SETTINGS, make_rows(10), free=0).value == SETTINGS


def test_cpu_takes_the_rows_that_the_learning_rate_was_chosen_for(tiny):
    taken = settle_batch(tiny.model, AUTO, make_rows(2000))
    assert (taken.value.batch_size, taken.value.learning_rate) == (4, SETTINGS.learning_rate)


def test_each_of_several_processes_takes_the_number_in_the_settings(large, monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", "2")
    taken = settle_batch(large, AUTO, make_rows(2000), device="cuda", free=400 * 10**9)
    assert taken.value.batch_size == 4 and "processes" in taken.reason


# The same rule in `size` and in a training


def describe_7b(quantised):
    """(config, bytes of the weights) of Llama 7B in 16 bits or in 4."""
    config = {**LLAMA_7B.to_dict(), "torch_dtype": "bfloat16"}
    if not quantised:
        return config, 13_476_839_424
    return {**config, "quantization_config": GPTQ_CONFIG}, 3_900_000_000


@pytest.mark.parametrize("card", CARDS, ids=lambda card: card.name)
@pytest.mark.parametrize("quantised", [False, True])
@pytest.mark.parametrize("shared", [0, 60])
def test_size_and_training_take_the_same_batch_and_checkpointing_on_a_card(
    large, card, quantised, shared, monkeypatch
):
    config, file_bytes = describe_7b(quantised)
    monkeypatch.setattr(
        large.config, "quantization_config", GPTQ_CONFIG if quantised else None, raising=False
    )
    card_bytes = card.gigabytes * 10**9
    beside = leave_room(config, file_bytes, "bfloat16", "cuda", card_bytes)
    rows = [[0] * shared + [row + 1] * (250 - shared) for row in range(3000)]
    examples = Dataset.from_dict({"input_ids": rows})
    taken = settle_batch(large, AUTO, examples, device="cuda", free=beside)
    step = {"r": AUTO.lora_r, "targets": AUTO.targets, "length": 250, "shared": shared}
    given = (config, file_bytes, "bfloat16", "cuda", card_bytes)
    said = estimate_batch(*given, AUTO.batch_size, rows=3000, **step)
    assert (said.value, said.reason) == (taken.value.batch_size, taken.reason)
    computed = pick_checkpointing(large, taken.value, examples, shares=True, free=beside, device="cuda")
    assert computed == estimate_checkpointing(*given, **step, batch=said.value)


def test_recorded_steps_take_as_much_again_unless_gradients_are_checkpointed():
    def find(device, **step):
        terms = {
            term.name: term.bytes
            for term in estimate_training(*describe_7b(False), "bfloat16", device, **step)
        }
        return terms.get("recorded steps", 0), terms.get("activations", 0) + terms.get(
            "sequences laid out", 0
        )

    again, once = find("cuda", checkpointing=False)
    assert again == once > 0
    assert find("cuda", checkpointing=True)[0] == find("cpu", checkpointing=False)[0] == 0
    assert find("cuda", checkpointing=False, recorded=False)[0] == 0  # such as SFTTrainer's steps


@pytest.mark.parametrize("shares", [True, False])
def test_steps_that_are_not_packed_are_not_recorded_and_leave_room(large, shares):
    settings, rows = SETTINGS.replace({"batch_size": 8}), make_rows(8)
    choice = pick_checkpointing(large, settings, rows, shares, free=30 * 10**9, device="cuda")
    assert choice.value == shares
