"""LoRAs as GGUF: llama.cpp answers with one as PEFT answers with it on the same weights."""

import importlib.util

import numpy as np
import pytest
import torch
from gguf import GGUFReader, GGUFWriter
from peft import LoraConfig, PeftModel, get_peft_model
from safetensors.torch import load_file
from support.gguf import finish, make_tiny_gguf, write_float_gguf
from support.loras import change_config, change_each_weight, change_weights
from support.tiny import make_byte_tokenizer, make_tiny_adapter, make_tiny_model
from transformers import AutoModelForCausalLM

from helpers import adapters, loading, weights
from helpers.adapters.gguf import read_base
from helpers.common.errors import DamagedError, MismatchError, UnsupportedError
from helpers.generation.decoding import read_bytes
from helpers.generation.request import GenerationRequest

needs_llama = pytest.mark.skipif(
    not importlib.util.find_spec("xllamacpp"),
    reason="xllamacpp is not installed: pip install -e '.[llamacpp]'",
)
SUBJECTS = "the sea, bread, a train, winter, a map, chess, iron, a bell, music, an old tree".split(", ")
PROMPTS = ["Hello", "A river", "Why not?", "12 + 30", "Once upon a time"]
ANSWER_TOKENS = 24
EVERY_LAYER = {"target_modules": "all-linear", "init_lora_weights": False, "task_type": "CAUSAL_LM"}
KINDS = {
    "usual": {"r": 4, "lora_alpha": 16},
    "scaled by the root of the rank": {"r": 4, "lora_alpha": 8, "use_rslora": True},
    "ranks and alphas for some layers": {
        "r": 4,
        "lora_alpha": 16,
        "rank_pattern": {"q_proj": 2},
        "alpha_pattern": {"layers.1.mlp.up_proj": 40},
    },
    "alpha of 0": {"r": 4, "lora_alpha": 0},
}


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    """A tiny model's folder as PEFT needs it."""
    return make_tiny_model(tmp_path_factory.mktemp("models") / "tiny")


@pytest.fixture(scope="module")
def base(model):
    """The same model as a GGUF folder, float32."""
    return weights.ModelFolder(make_tiny_gguf(model.with_name("tiny-GGUF"), model))


@pytest.fixture
def adapter(tmp_path, model):
    """A random LoRA for the model."""
    return adapters.AdapterFolder(make_tiny_adapter(tmp_path / "shift", model))


@pytest.fixture
def target(tmp_path):
    """Where a test exports to."""
    return tmp_path / "out.gguf"


def save_adapter(path, model, **settings):
    """A random LoRA on every layer with these settings of LoraConfig."""
    torch.manual_seed(1)
    plain = AutoModelForCausalLM.from_pretrained(model)
    get_peft_model(plain, LoraConfig(**{**EVERY_LAYER, **settings})).save_pretrained(path)
    return adapters.AdapterFolder(path)


def answer_with_peft(model, adapter):
    """The bytes of a greedy answer to each prompt."""
    tokenizer = make_byte_tokenizer()
    adapted = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(model), adapter.path)
    answers = []
    for prompt in PROMPTS:
        ids = tokenizer(prompt, return_tensors="pt", add_special_tokens=False)["input_ids"]
        output = adapted.generate(input_ids=ids, max_new_tokens=ANSWER_TOKENS, do_sample=False)
        answer = output[0, ids.shape[1] :].tolist()
        answers.append(b"".join(read_bytes(tokenizer, token) for token in answer if token < 256))
    return answers


def answer_with_llama(base, adapter):
    """The bytes of a greedy answer to each prompt."""
    from helpers.generation.llama_engine import LlamaEngine

    engine = LlamaEngine(base, [adapter])
    answers = []
    for prompt in PROMPTS:
        request = GenerationRequest(
            prompt=prompt, max_new_tokens=ANSWER_TOKENS, adapter=adapter.name, top_logprobs=0
        )
        answers.append(b"".join(token.data for token in engine.generate(request).tokens))
    engine.close()
    return answers


@needs_llama
@pytest.mark.parametrize("kind", KINDS)
def test_llama_cpp_answers_with_the_lora_as_peft_does(tmp_path, model, base, kind):
    adapter = save_adapter(tmp_path / "mine", model, **KINDS[kind])
    expected = answer_with_peft(model, adapter)
    for whole, found in zip(expected, answer_with_llama(base, adapter), strict=True):
        # llama.cpp holds back the bytes of a character that the last token leaves incomplete.
        assert found
        assert whole.startswith(found)
        assert len(found) > len(whole) - 4


@needs_llama
def test_strong_lora_changes_the_answers(base, adapter, tmp_path, model):
    weak = save_adapter(tmp_path / "weak", model, r=4, lora_alpha=0)
    changed = zip(answer_with_llama(base, adapter), answer_with_llama(base, weak), strict=True)
    assert all(one != other for one, other in changed)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_factors_of_16_bits_become_float32(base, adapter, target, dtype):
    change_each_weight(adapter.path, lambda tensor: tensor.to(dtype))
    name = "base_model.model.model.layers.1.mlp.up_proj.lora_A.weight"
    expected = load_file(adapter.weights)[name].float().numpy()
    reader = GGUFReader(adapters.export_gguf(adapter, read_base(base.gguf), target))
    written = {tensor.name: tensor.data for tensor in reader.tensors}
    assert {data.dtype for data in written.values()} == {np.dtype(np.float32)}
    assert np.array_equal(written["blk.1.ffn_up.weight.lora_a"], expected)


def test_file_is_where_it_was_asked_for_and_says_what_it_is(base, adapter, target):
    before = sorted(adapter.path.iterdir())
    assert adapters.export_gguf(adapter, read_base(base.gguf), target) == target
    fields = {name: field.contents() for name, field in GGUFReader(target).fields.items()}
    assert fields["general.type"] == "adapter"
    assert fields["general.architecture"] == "llama"
    assert fields["adapter.type"] == "lora"
    assert fields["adapter.lora.alpha"] == 16.0
    assert sorted(adapter.path.iterdir()) == before


def test_base_that_was_read_once_serves_several_loras(base, adapter, tmp_path):
    read = read_base(base.gguf)
    first = adapters.export_gguf(adapter, read, tmp_path / "first.gguf")
    second = adapters.export_gguf(adapter, read_base(base.gguf), tmp_path / "second.gguf")
    assert first.read_bytes() == second.read_bytes()


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"use_dora": True}, "DoRA"),
        ({"modules_to_save": ["lm_head"]}, "shift"),
        ({"bias": "all"}, "shift"),
        ({"peft_type": "IA3"}, "IA3"),
    ],
    ids=str,
)
def test_lora_that_is_more_than_two_factors_is_refused(base, adapter, target, change, named):
    change_config(adapter.path, **change)
    with pytest.raises(UnsupportedError, match=named):
        adapters.export_gguf(adapter, read_base(base.gguf), target)
    assert not target.exists()


@pytest.mark.parametrize("layer", ["embed_tokens", "lm_head"])
def test_lora_on_one_end_of_a_model_that_has_one_matrix_for_both_is_refused(
    tmp_path, model, base, target, layer
):
    adapter = save_adapter(tmp_path / "mine", model, target_modules=["q_proj", layer])
    with pytest.raises(UnsupportedError, match=layer):
        adapters.export_gguf(adapter, read_base(base.gguf), target)
    assert not target.exists()


@needs_llama
@pytest.mark.parametrize("layer", ["embed_tokens", "lm_head"])
def test_llama_cpp_answers_with_a_lora_on_either_end_as_peft_does(tmp_path, layer):
    untied = make_tiny_model(tmp_path / "tiny", tied=False)
    gguf = weights.ModelFolder(make_tiny_gguf(tmp_path / "tiny-GGUF", untied))
    adapter = save_adapter(tmp_path / "mine", untied, target_modules=["q_proj", layer], lora_alpha=8)
    plain = save_adapter(tmp_path / "plain", untied, target_modules=["q_proj"], lora_alpha=8)
    expected = answer_with_peft(untied, adapter)
    assert expected != answer_with_peft(untied, plain)
    for whole, found in zip(expected, answer_with_llama(gguf, adapter), strict=True):
        assert found
        assert whole.startswith(found)


def test_tensor_that_is_no_factor_is_refused(base, adapter, target):
    new = {"base_model.model.model.layers.0.mlp.router": torch.ones(4, 32)}
    change_weights(adapter.path, lambda tensors: {**tensors, **new})
    with pytest.raises(UnsupportedError, match="router"):
        adapters.export_gguf(adapter, read_base(base.gguf), target)
    assert not target.exists()


def test_base_of_another_size_is_refused_with_both_shapes(tmp_path, adapter, target):
    wide = make_tiny_gguf(tmp_path / "wide-GGUF", make_tiny_model(tmp_path / "wide", hidden=64))
    shapes = r"tiny.gguf.*layers.0.mlp.down_proj.*\(4, 64\).*\(32, 4\).*\(64, 128\)"
    with pytest.raises(MismatchError, match=shapes):
        adapters.export_gguf(adapter, read_base(wide / "tiny.gguf"), target)


def test_base_of_another_architecture_is_refused(tmp_path, model, adapter, target):
    other = make_tiny_gguf(tmp_path / "other", model, architecture="qwen2")
    with pytest.raises(UnsupportedError, match="qwen2"):
        adapters.export_gguf(adapter, read_base(other / "tiny.gguf"), target)


def write_counts(path, **counts):
    """A GGUF file of one layer with matrices of 32 rows, and these counts."""
    writer = GGUFWriter(path, "llama")
    for key, count in ({"head_count": 4, "head_count_kv": 2, "block_count": 1} | counts).items():
        writer.add_uint64(f"llama.{'attention.' if key != 'block_count' else ''}{key}", count)
    for name in ("attn_q", "attn_k"):
        writer.add_tensor(f"blk.0.{name}.weight", np.zeros((32, 32), dtype=np.float32))
    finish(writer)
    return path


@pytest.mark.parametrize(
    ("key", "count"),
    [
        ("block_count", 2**32 - 1),
        ("block_count", 0),
        ("head_count", 0),
        ("head_count", 32),  # of one row each, which has no halves
        ("head_count_kv", 5),
        ("head_count_kv", 2**32 - 1),
    ],
)
def test_base_with_counts_of_another_model_is_damaged(tmp_path, key, count):
    assert read_base(write_counts(tmp_path / "good.gguf")).heads_kv == 2
    with pytest.raises(DamagedError, match=str(count)):
        read_base(write_counts(tmp_path / "bad.gguf", **{key: count}))


def test_base_that_is_cut_short_is_damaged(tmp_path):
    (tmp_path / "bad.gguf").write_bytes(b"GGUF, and then nothing")
    with pytest.raises(DamagedError, match="bad.gguf"):
        read_base(tmp_path / "bad.gguf")


@pytest.fixture(scope="module")
def real(real_model_name, tmp_path_factory):
    """(the de-quantised real model, llama.cpp with the same weights), both with the same LoRAs.

    The LoRAs are a random one, and a trained one if loras/ has one.
    """
    from helpers.generation.llama_engine import LlamaEngine

    folder = weights.find_model(f"{real_model_name}-GGUF")
    scratch = tmp_path_factory.mktemp("real")
    loaded = loading.load_model(folder.name, loader="transformers", dtype="float32")
    torch.manual_seed(1)
    fresh = get_peft_model(loaded.model, LoraConfig(r=8, lora_alpha=2, **EVERY_LAYER))
    fresh.save_pretrained(scratch / "random")
    loaded.model = fresh.unload()
    change_config(scratch / "random", base_model_name_or_path=folder.name)
    loras = [adapters.AdapterFolder(scratch / "random"), *find_trained(real_model_name)]
    for lora in loras:
        adapters.attach_adapter(loaded, lora.name, lora.path.parent)
    dequantised = weights.ModelFolder(write_float_gguf(folder.gguf, scratch / "float"))
    engine = LlamaEngine(dequantised, loras)
    yield loaded, engine
    engine.close()


def find_trained(base):
    """A LoRA in loras/ that was trained on the model `base`; none if there is none."""
    for name in adapters.list_adapters():
        facts = adapters.describe_adapter(name)
        if facts.base == base and facts.problem is None:
            return [adapters.find_adapter(name)]
    return []


@needs_llama
@pytest.mark.real
@pytest.mark.parametrize("place", [0, 1], ids=["random", "trained"])
def test_real_model_answers_with_a_lora_as_peft_does_on_the_same_weights(real, place):
    loaded, engine = real
    if place >= len(engine.adapters):
        pytest.skip("loras/ has no LoRA of the embedded model: run notebook 04")
    name = engine.adapters[place]
    adapters.switch_adapter(loaded, name)
    same = 0
    changed = 0
    for number, subject in enumerate(SUBJECTS):
        messages = [{"role": "user", "content": f"Write one sentence about {subject}."}]
        expected = loading.chat(loaded, messages, max_new_tokens=ANSWER_TOKENS)
        request = GenerationRequest(messages, max_new_tokens=ANSWER_TOKENS, adapter=name)
        same += engine.generate(request).text.strip() == expected
        if number < 3:
            base = engine.generate(GenerationRequest(messages, max_new_tokens=ANSWER_TOKENS))
            changed += base.text.strip() != expected
    assert same >= 9
    assert changed == 3
