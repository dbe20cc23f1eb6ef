"""What transformers cannot load as a decoder is one error, before anything heavy is loaded."""

import json

import pytest
from support.loras import change_json
from support.tiny import make_tiny_model

from helpers import loading, weights
from helpers.common.errors import DamagedError, KitError, UnsupportedError
from helpers.weights.architecture import check_decoder


@pytest.fixture
def folder(home):
    """models/tiny."""
    return make_tiny_model(home / "models" / "tiny")


def refuse(kind, name="tiny"):
    """The error with which loading ends."""
    with pytest.raises(kind) as caught:
        loading.load_model(name)
    assert "\n" not in str(caught.value)
    return caught.value


@pytest.mark.parametrize(
    ("values", "named"),
    [
        ({"model_type": "llama9"}, "llama9"),
        ({"model_type": "llama9", "auto_map": {"AutoModelForCausalLM": "modeling.Model"}}, "code"),
        ({"model_type": "t5"}, "t5"),
        ({"model_type": "bart"}, "bart"),
        ({"model_type": "bert"}, "bert"),
        ({"model_type": "qwen2_vl"}, "images"),
        ({"model_type": "clip"}, "clip"),
        ({"architectures": ["LlamaForSequenceClassification"]}, "LlamaForSequenceClassification"),
        ({"quantization_config": {"bits": 4, "desc_act": True}}, "quant_method"),
        ({"_attn_implementation": "somebody/flash-attn"}, "code for its attention"),
        ({"attn_implementation": "somebody/flash-attn"}, "code for its attention"),
    ],
    ids=str,
)
def test_config_of_what_is_no_decoder_is_refused(folder, values, named):
    change_json(folder / "config.json", **values)
    assert named in refuse(UnsupportedError).problem


@pytest.mark.parametrize(
    ("values", "named"),
    [
        ({"model_type": None}, "model_type"),
        ({"dtype": "torch.bfloat16"}, "torch.bfloat16"),
        ({"num_hidden_layers": "2"}, "num_hidden_layers"),
        ({"hidden_size": 32.5}, "hidden_size"),
        ({"num_attention_heads": 0}, "num_attention_heads"),
        ({"num_key_value_heads": 10**40}, "num_key_value_heads"),
        ({"quantization_config": ["gptq"]}, "quantization_config"),
    ],
    ids=str,
)
def test_value_that_no_config_can_have_is_damage(folder, values, named):
    change_json(folder / "config.json", **values)
    assert named in refuse(DamagedError).problem


@pytest.mark.parametrize("value", [[[1]], 10**40, "/", True])
def test_token_that_no_advice_can_name_is_damage(folder, value):
    (folder / "generation_config.json").write_text(json.dumps({"eos_token_id": value}))
    assert "eos_token_id" in refuse(DamagedError).problem


def test_method_of_a_quantisation_that_is_not_recorded_is_guessed_in_the_remedy(folder):
    change_json(folder / "config.json", quantization_config={"bits": 4})
    (folder / "quantize_config.json").write_text(json.dumps({"bits": 4}))
    assert '"quant_method": "gptq"' in refuse(UnsupportedError).remedy


@pytest.mark.parametrize(
    "values",
    [
        {"architectures": ["LLaMAForCausalLM"]},  # of 2023
        {"auto_map": {"AutoModelForCausalLM": "modeling.Model"}},  # transformers has this class itself
        {"dtype": None, "torch_dtype": "float16"},
        {"head_dim": None},
    ],
    ids=str,
)
def test_older_config_of_a_decoder_is_loaded(folder, values):
    change_json(folder / "config.json", **values)
    assert loading.load_model("tiny").name == "tiny"


@pytest.mark.parametrize(
    "kind", ["gpt2", "falcon", "bloom", "mistral", "gemma3", "qwen3", "opt", "gpt_oss", "deepseek_v3"]
)
def test_decoders_of_all_kinds_pass(folder, kind):
    change_json(folder / "config.json", model_type=kind)
    assert check_decoder(weights.find_model("tiny")).name == "tiny"


@pytest.mark.parametrize("name", ["gptq_model-4bit-128g.safetensors", "model.fp16.safetensors"])
def test_weights_under_another_name_are_refused_with_the_link_that_helps(folder, name):
    (folder / "model.safetensors").rename(folder / name)
    error = refuse(UnsupportedError)
    assert name in error.problem and f"ln -s {name} model.safetensors" in error.remedy
    (folder / "model.safetensors").symlink_to(name)
    assert loading.load_model("tiny").name == "tiny"


@pytest.mark.parametrize("name", ["consolidated.safetensors", "consolidated.00.pth"])
def test_weights_under_their_authors_names_are_refused(folder, name):
    (folder / "model.safetensors").rename(folder / name)
    with pytest.raises(UnsupportedError, match=name) as caught:
        check_decoder(weights.find_model("tiny"))
    assert "ln -s" not in caught.value.remedy


def test_same_weights_under_two_names_are_counted_once(folder):
    size = (folder / "model.safetensors").stat().st_size
    (folder / "consolidated.safetensors").write_bytes((folder / "model.safetensors").read_bytes())
    (folder / "training_args.bin").write_bytes(b"anything")
    assert weights.find_model("tiny").weight_bytes == size


@pytest.mark.parametrize("content", ["{", "[]", "{}", '{"weight_map": [1]}', '{"weight_map": {"a": 1}}'])
def test_index_that_lists_no_files_is_one_error(folder, content):
    (folder / "model.safetensors").rename(folder / "model-00001-of-00001.safetensors")
    (folder / "model.safetensors.index.json").write_text(content)
    assert "index" in refuse(DamagedError).problem


def test_missing_shard_of_pickles_is_named(folder):
    (folder / "model.safetensors").rename(folder / "pytorch_model-00001-of-00002.bin")
    shards = {
        "weight_map": {"a": "pytorch_model-00001-of-00002.bin", "b": "pytorch_model-00002-of-00002.bin"}
    }
    (folder / "pytorch_model.bin.index.json").write_text(json.dumps(shards))
    assert "pytorch_model-00002-of-00002.bin" in refuse(DamagedError).problem


@pytest.mark.parametrize("header", [b"[]", b'{"a": 1}', b'{"a": {"data_offsets": "x"}}'])
def test_safetensors_with_another_header_are_one_error(folder, header):
    (folder / "model.safetensors").write_bytes(len(header).to_bytes(8, "little") + header)
    assert "model.safetensors" in refuse(DamagedError).problem


def test_gguf_in_parts_is_for_llama_cpp(home):
    (home / "models" / "g").mkdir(parents=True)
    for number in (1, 2):
        (home / "models" / "g" / f"a-{number:05}-of-00002.gguf").write_bytes(b"GGUF")
    with pytest.raises(KitError, match="2 files"):
        loading.load_model("g", loader="transformers")
