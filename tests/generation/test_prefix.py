"""What prompts begin with is computed once, and the answers stay the same."""

import pytest
import torch
from support.tiny import make_tiny_adapter, make_tiny_model
from transformers import AutoModelForCausalLM, DynamicCache

from helpers.generation.passes import pad_rows, run_pass
from helpers.generation.prefix import LEAST, MOST, Prefix
from helpers.generation.prompts import count_shared
from helpers.generation.request import GenerationRequest
from helpers.server.service import ModelChoice, Service

TEMPLATE = "Answer the question in one word, please. "


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    """A tiny model with two LoRAs."""
    home = tmp_path_factory.mktemp("home")
    folder = make_tiny_model(home / "models" / "tiny")
    for seed, name in enumerate(("shift", "twist"), 1):
        make_tiny_adapter(home / "loras" / name, folder, seed)
    return home


@pytest.fixture(scope="module")
def model(home):
    """The model alone, in float32."""
    return AutoModelForCausalLM.from_pretrained(home / "models" / "tiny", dtype=torch.float32)


def count_computed(model):
    """A list that the number of columns of each pass is added to."""
    columns = []
    model.register_forward_pre_hook(
        lambda _, args, kwargs: columns.append(kwargs["input_ids"].shape[1]), with_kwargs=True
    )
    return columns


@torch.inference_mode()
def compute(model, prompts, cache):
    """The logits after prompts that go on from the cache."""
    rows = [row[cache.get_seq_length() :] for row in pad_rows(prompts)]
    return run_pass(model, rows, list(map(len, prompts)), cache)[:, -1]


def make_prompt(*endings):
    """Ids of prompts that begin with the same 40 tokens."""
    return [[*range(1, 41), *ending] for ending in endings]


@pytest.mark.parametrize(
    "prompts",
    [
        make_prompt([50, 51]),
        make_prompt([50, 51], [60], [70, 71, 72, 73]),
        make_prompt([50], range(50, 90)),  # the first row is padding where the second one has the prefix
        [[5, 6, 7], *make_prompt([50])],  # one that shares nothing, and is short
    ],
)
def test_logits_are_those_of_whole_prompts(model, prompts):
    prefix, first = Prefix(), DynamicCache()
    compute(model, make_prompt([99]), first)
    prefix.keep(make_prompt([99])[0], first)
    begun = prefix.begin(prompts)
    assert begun.get_seq_length() >= LEAST
    plain = compute(model, prompts, DynamicCache())
    assert torch.allclose(compute(model, prompts, begun), plain, atol=1e-5)


def test_prompts_that_share_little_begin_with_nothing(model):
    prefix, first = Prefix(), DynamicCache()
    compute(model, make_prompt([99]), first)
    prefix.keep(make_prompt([99])[0], first)
    assert prefix.begin([[*range(1, LEAST), 99, 98]]).get_seq_length() == 0
    assert prefix.begin([[99] * 60]).get_seq_length() == 0


def test_prefix_of_a_padded_row_has_no_padding(model):
    prompts, cache, prefix = make_prompt([50], range(50, 90)), DynamicCache(), Prefix()
    compute(model, prompts, cache)
    prefix.keep(prompts[0], cache)
    following = make_prompt([77, 78])
    plain = compute(model, following, DynamicCache())
    assert torch.allclose(compute(model, following, prefix.begin(following)), plain, atol=1e-5)


def test_long_prompts_are_kept_in_part(model):
    prompt, cache, prefix = [7] * (MOST + 50), DynamicCache(), Prefix()
    compute(model, [prompt], cache)
    prefix.keep(prompt, cache)
    assert prefix.begin([prompt]).get_seq_length() == MOST


def test_shared_tokens_are_counted():
    assert [count_shared([1, 2, 3], other) for other in ([], [1], [1, 2, 4], [1, 2, 3, 4])] == [0, 1, 2, 3]


def test_second_question_computes_only_what_is_new(home):
    service = Service(home / "models", home / "loras")
    engine = service.load(ModelChoice("tiny", dtype="float32"))
    try:
        columns = count_computed(engine.loaded.model)
        ask(engine, None, "one")
        ask(engine, None, "two")
    finally:
        service.unload()
    firsts = [count for count in columns if count > 1]  # the others are single tokens of answers
    assert firsts[0] > len(TEMPLATE) and firsts[1] <= len("two")


def ask(engine, adapter, question):
    """The answer to a question of the template."""
    request = GenerationRequest(prompt=TEMPLATE + question, max_new_tokens=8, adapter=adapter)
    return engine.generate(request).text


def test_no_lora_takes_what_another_one_has_computed(home):
    service = Service(home / "models", home / "loras")
    engine = service.load(ModelChoice("tiny", ("shift", "twist"), dtype="float32"))
    try:
        mixed = [ask(engine, adapter, "why?") for adapter in ("shift", "twist", None, "shift", None, "twist")]
    finally:
        service.unload()
    alone = {}
    for adapter in ("shift", "twist", None):
        engine = service.load(ModelChoice("tiny", ("shift", "twist"), dtype="float32"))
        alone[adapter] = ask(engine, adapter, "why?")
        service.unload()
    assert len(set(alone.values())) == 3
    assert mixed == [alone[adapter] for adapter in ("shift", "twist", None, "shift", None, "twist")]
