"""LoRAs as GGUF: llama.cpp with one says what PEFT says with it on the same weights."""

import importlib.util
import json

import numpy as np
import pytest
import torch
from gguf import GGUFReader
from peft import LoraConfig, PeftModel, get_peft_model
from safetensors.torch import load_file, save_file
from support.gguf import make_tiny_gguf, write_float_gguf
from support.tiny import make_byte_tokenizer, make_tiny_adapter, make_tiny_model
from transformers import AutoModelForCausalLM

from helpers import KitError, adapters, find_home, weights
from helpers.adapters.gguf import export_gguf, read_base
from helpers.generation.decoding import read_bytes
from helpers.generation.request import GenerationRequest
from helpers.weights.gguf_header import read_header

needs_llama = pytest.mark.skipif(
    not importlib.util.find_spec("xllamacpp"),
    reason="xllamacpp is not installed: pip install -e '.[llamacpp]'",
)
SUBJECTS = "the sea, bread, a train, winter, a map, chess, iron, a bell, music, an old tree".split(", ")
PROMPTS = ["Hello", "A river", "Why not?", "12 + 30", "Once upon a time"]
EVERY_LAYER = {"target_modules": "all-linear", "init_lora_weights": False, "task_type": "CAUSAL_LM"}
KINDS = {
    "usual": {"r": 4, "lora_alpha": 16},
    "scaled by the root of the rank": {"r": 4, "lora_alpha": 8, "use_rslora": True},
    "ranks and alphas of their own": {
        "r": 4,
        "lora_alpha": 16,
        "rank_pattern": {"q_proj": 2},
        "alpha_pattern": {"layers.1.mlp.up_proj": 40},
    },
    "alpha of 0": {"r": 4, "lora_alpha": 0},
}


@pytest.fixture(scope="module")
def model_folder(tmp_path_factory):
    return make_tiny_model(tmp_path_factory.mktemp("models") / "tiny")


@pytest.fixture(scope="module")
def base(model_folder):
    return make_tiny_gguf(model_folder.with_name("tiny-GGUF"), model_folder)


@pytest.fixture
def adapter(tmp_path, model_folder):
    return make_tiny_adapter(tmp_path / "shift", model_folder)


def save_adapter(folder, model_folder, **settings):
    torch.manual_seed(1)
    get_peft_model(
        AutoModelForCausalLM.from_pretrained(model_folder), LoraConfig(**EVERY_LAYER, **settings)
    ).save_pretrained(folder)
    return folder


def answer_with_peft(model_folder, adapter):
    """The bytes of 24 greedy tokens after each prompt."""
    model, tokenizer = (
        PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(model_folder), adapter),
        make_byte_tokenizer(),
    )
    prompts = [
        tokenizer(prompt, return_tensors="pt", add_special_tokens=False)["input_ids"] for prompt in PROMPTS
    ]
    answers = [
        model.generate(input_ids=ids, max_new_tokens=24, do_sample=False)[0, ids.shape[1] :].tolist()
        for ids in prompts
    ]
    return [b"".join(read_bytes(tokenizer, token) for token in answer if token < 256) for answer in answers]


def answer_with_llama(base, adapter):
    from helpers.generation.llama_engine import LlamaEngine

    engine = LlamaEngine(base, [adapter])
    requests = [
        GenerationRequest(prompt=prompt, max_new_tokens=24, adapter=adapter.name, top_logprobs=0)
        for prompt in PROMPTS
    ]
    answers = [b"".join(token.data for token in engine.generate(request).tokens) for request in requests]
    engine.close()
    return answers


@needs_llama
@pytest.mark.parametrize("kind", KINDS)
def test_llama_cpp_says_with_the_lora_what_peft_says(tmp_path, model_folder, base, kind):
    adapter = save_adapter(tmp_path / "mine", model_folder, **KINDS[kind])
    expected, got = answer_with_peft(model_folder, adapter), answer_with_llama(base, adapter)
    # Half a character at the very end stays untold.
    assert all(
        bytes_ and whole.startswith(bytes_) and len(bytes_) > len(whole) - 4
        for whole, bytes_ in zip(expected, got, strict=True)
    )


@needs_llama
def test_strong_lora_changes_the_answers(base, adapter, tmp_path, model_folder):
    nothing = save_adapter(tmp_path / "nothing", model_folder, r=4, lora_alpha=0)
    assert all(
        one != other
        for one, other in zip(answer_with_llama(base, adapter), answer_with_llama(base, nothing), strict=True)
    )


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_halves_of_any_precision_become_float32(base, adapter, dtype):
    path = adapter / "adapter_model.safetensors"
    halves = {name: tensor.to(dtype) for name, tensor in load_file(path).items()}
    save_file(halves, path)
    written = {tensor.name: tensor.data for tensor in GGUFReader(export_gguf(adapter, base)).tensors}
    kept = halves["base_model.model.model.layers.1.mlp.up_proj.lora_A.weight"].float().numpy()
    assert {data.dtype for data in written.values()} == {np.dtype(np.float32)}
    assert np.array_equal(written["blk.1.ffn_up.weight.lora_a"], kept)


def test_file_lies_in_the_adapters_folder_and_tells_what_it_is(base, adapter):
    path = export_gguf(adapter, base)
    fields = {name: field.contents() for name, field in GGUFReader(path).fields.items()}
    told = [
        fields[name]
        for name in ("general.type", "general.architecture", "adapter.type", "adapter.lora.alpha")
    ]
    assert path == adapter / "adapter.gguf" and told == ["adapter", "llama", "lora", 16.0]
    assert sorted(file.name for file in adapter.iterdir() if not file.name.endswith(".md")) == [
        "adapter.gguf", "adapter_config.json", "adapter_model.safetensors",
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"use_dora": True}, "has DoRA"),
        ({"modules_to_save": ["lm_head"]}, "has whole modules"),
        ({"bias": "all"}, "has biases"),
        ({"peft_type": "IA3"}, "of the kind IA3"),
    ],
)
def test_what_is_more_than_two_factors_is_refused(base, adapter, change, message):
    path = adapter / "adapter_config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **change}))
    with pytest.raises(KitError, match=message):
        export_gguf(adapter, base)
    assert not (adapter / "adapter.gguf").exists()


@pytest.mark.parametrize(
    ("key", "message"),
    [
        ("model.embed_tokens.lora_embedding_A", "which llama.cpp does not take"),
        ("lm_head.lora_A.weight", "does not fit tiny.gguf: lm_head"),
    ],
)
def test_embeddings_are_refused(base, adapter, key, message):
    path = adapter / "adapter_model.safetensors"
    save_file({**load_file(path), f"base_model.model.{key}": torch.ones(4, 32)}, path)
    with pytest.raises(KitError, match=message):
        export_gguf(adapter, base)


def test_base_of_another_size_is_refused(tmp_path, adapter):
    wide = make_tiny_gguf(tmp_path / "wide-GGUF", make_tiny_model(tmp_path / "wide", hidden=64))
    with pytest.raises(
        KitError,
        match=r"does not fit tiny.gguf: .*layers.0.mlp.down_proj has \(4, 64\) and \(32, 4\) for \(64, 128\)",
    ):
        export_gguf(adapter, wide)


def test_header_is_what_the_gguf_package_reads(base):
    path = base / "tiny.gguf"
    reader, (fields, shapes) = GGUFReader(path), read_header(path)
    single = {name: field.contents() for name, field in reader.fields.items() if not name.startswith("GGUF.")}
    assert (
        fields == {name: value for name, value in single.items() if not isinstance(value, list)}
        and len(fields) > 10
    )
    assert shapes == {tensor.name: tuple(reversed(tensor.shape.tolist())) for tensor in reader.tensors}


@pytest.mark.parametrize("size", [0, 10, 40, 3000])
def test_file_that_is_cut_short_is_told(base, tmp_path, size):
    (tmp_path / "cut.gguf").write_bytes((base / "tiny.gguf").read_bytes()[:size])
    with pytest.raises(KitError, match="is no whole GGUF file"):
        read_header(tmp_path / "cut.gguf")


def test_another_architecture_and_no_gguf_at_all_are_refused(tmp_path, model_folder, adapter):
    with pytest.raises(KitError, match="has the architecture qwen2"):
        export_gguf(adapter, make_tiny_gguf(tmp_path / "other", model_folder, architecture="qwen2"))
    (tmp_path / "bad.gguf").write_bytes(b"GGUF, and then nothing")
    with pytest.raises(KitError, match="is no whole GGUF file"):
        read_base(tmp_path / "bad.gguf")


@pytest.fixture(scope="module")
def real(real_model_name, tmp_path_factory):
    """(the de-quantised real model with a random LoRA, and with a trained one where there is one; llama.cpp with the same weights and LoRAs)."""
    from helpers.adapters.attaching import attach_adapter
    from helpers.generation.llama_engine import LlamaEngine
    from helpers.loading.model import load_model

    folder, scratch = weights.find_model(f"{real_model_name}-GGUF"), tmp_path_factory.mktemp("real")
    loaded = load_model(folder.name, loader="transformers", dtype="float32")
    torch.manual_seed(1)
    fresh = get_peft_model(loaded.model, LoraConfig(r=8, lora_alpha=2, **EVERY_LAYER))
    fresh.save_pretrained(scratch / "random")
    loaded.model = fresh.unload()
    config = adapters.read_config(scratch / "random")
    (scratch / "random" / "adapter_config.json").write_text(
        json.dumps({**config, "base_model_name_or_path": folder.name})
    )
    loras = [scratch / "random", *find_trained(real_model_name)]
    for lora in loras:
        attach_adapter(loaded, lora.name, lora.parent)
    engine = LlamaEngine(write_float_gguf(next(folder.glob("*.gguf")), scratch / "float"), loras)
    yield loaded, engine
    engine.close()


def find_trained(base):
    """A LoRA in loras/ that was trained on the model `base`; none where there is none."""
    folders = [find_home() / "loras" / name for name in adapters.list_adapters()]
    return [
        one
        for one in folders
        if (adapters.read_config(one).get("base_model_name_or_path") or "").endswith(base)
    ][:1]


@needs_llama
@pytest.mark.real
@pytest.mark.parametrize("place", [0, 1], ids=["random", "trained"])
def test_real_model_answers_with_a_lora_as_peft_does_on_the_same_weights(real, place):
    loaded, engine = real
    if place >= len(engine.adapters):
        pytest.skip("loras/ has no LoRA of the embedded model: run notebook 04")
    name, same, changed = engine.adapters[place], 0, 0
    loaded.model.set_adapter(name)
    for number, subject in enumerate(SUBJECTS):
        messages = [{"role": "user", "content": f"Write one sentence about {subject}."}]
        ids = engine.tokenize(engine.render(messages), add_special=False)
        output = loaded.model.generate(
            input_ids=torch.tensor([ids]), max_new_tokens=24, do_sample=False, temperature=None, top_p=None
        )
        expected = loaded.tokenizer.decode(output[0, len(ids) :], skip_special_tokens=True)
        same += engine.generate(GenerationRequest(messages, max_new_tokens=24, adapter=name)).text == expected
        changed += (
            number < 3 and engine.generate(GenerationRequest(messages, max_new_tokens=24)).text != expected
        )
    assert same >= 9 and changed == 3
