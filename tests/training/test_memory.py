"""Whether a step's activations fit: facts of a card are given, so that no card is needed."""

import pytest
import torch
from datasets import Dataset
from transformers import AutoModelForCausalLM, LlamaConfig

from helpers.common.training_settings import pick_settings
from helpers.training.memory import count_step_tokens, pick_checkpointing

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
