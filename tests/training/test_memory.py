"""Whether a step's activations fit: facts of a card are given, so that no card is needed."""

import pytest
import torch
from datasets import Dataset
from transformers import AutoModelForCausalLM, LlamaConfig

from helpers.common.presets import pick_settings
from helpers.training.memory import count_step_tokens, pick_checkpointing, settle_batch

LLAMA_7B = LlamaConfig()  # transformers' default shape
SETTINGS = pick_settings("t4").replace({"batch_size": 4})


@pytest.fixture
def large():
    """A Llama of 7 billion parameters without memory for them."""
    with torch.device("meta"):
        return AutoModelForCausalLM.from_config(LLAMA_7B, dtype=torch.bfloat16)


@pytest.mark.parametrize(("free_gb", "checkpointing"), [(5, True), (80, False)])
def test_gradients_are_checkpointed_only_where_memory_asks_for_it(large, free_gb, checkpointing):
    examples = Dataset.from_dict({"input_ids": [[row] * 250 for row in range(4)]})
    choice = pick_checkpointing(large, SETTINGS, examples, shares=True, free=free_gb * 10**9)
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
    assert not pick_checkpointing(large, taken, make_rows(2000), shares=True, free=free).value


def test_number_in_the_settings_stays(large):
    assert settle_batch(large, SETTINGS, make_rows(10), free=0).value == SETTINGS


def test_cpu_takes_the_rows_that_the_learning_rate_was_chosen_for(tiny):
    taken = settle_batch(tiny.model, AUTO, make_rows(2000))
    assert (taken.value.batch_size, taken.value.learning_rate) == (4, SETTINGS.learning_rate)


def test_each_of_several_processes_takes_the_number_in_the_settings(large, monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", "2")
    taken = settle_batch(large, AUTO, make_rows(2000), device="cuda", free=400 * 10**9)
    assert taken.value.batch_size == 4 and "processes" in taken.reason
