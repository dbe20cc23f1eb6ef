"""What a pass computes, and what it need not."""

from types import SimpleNamespace

import pytest
import torch
from support.tiny import make_tiny_model
from torch.profiler import ProfilerActivity, profile
from transformers import AutoModelForCausalLM, DynamicCache

from helpers.generation.batching import ALIKE, group_alike
from helpers.generation.passes import pad_rows, run_pass


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    folder = make_tiny_model(tmp_path_factory.mktemp("home") / "models" / "tiny")
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.bfloat16)
    return model.requires_grad_(False)  # as a loaded model: torch multiplies in another way for a gradient


@torch.inference_mode()
def run(model, prompts, kept=1):
    return run_pass(model, pad_rows(prompts), list(map(len, prompts)), DynamicCache(), kept)


@pytest.mark.parametrize("prompts", [[[5] * 30], [[5] * 30, [7] * 20]])
def test_weights_of_the_head_are_not_copied(model, prompts):
    with profile(activities=[ProfilerActivity.CPU], record_shapes=True) as profiler:
        run(model, prompts)
    shapes = [
        shape for event in profiler.events() if event.name == "aten::copy_" for shape in event.input_shapes
    ]
    assert shapes and not [shape for shape in shapes if model.config.vocab_size in shape]


def test_last_columns_are_those_of_all_columns(model):
    prompts = [[5, 6, 7, 8], [9, 10]]
    assert torch.equal(run(model, prompts, kept=2), run(model, prompts, kept=4)[:, -2:])


def test_prompts_of_a_pass_have_about_the_same_length():
    lengths = [10, 100, 14, 11, 120, 40]
    groups = group_alike([SimpleNamespace(prompt=[1] * length) for length in lengths])
    found = [[len(answer.prompt) for answer in group] for group in groups]
    assert found == [[10, 11, 14], [40], [100, 120]]
    assert all(max(group) <= ALIKE * min(group) for group in found)
    assert group_alike([]) == []
