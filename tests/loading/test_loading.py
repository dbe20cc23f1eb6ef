"""Which loader a folder gets and why, what loading reports, and the memory that comes back."""

import importlib.util
import json

import pytest
import torch
from support.gguf import make_tiny_gguf
from support.loras import change_json
from support.tiny import make_tiny_model
from transformers import BloomConfig, GPT2Config, LlamaConfig, MptConfig

from helpers import common, loading, training
from helpers.common.errors import DamagedError, MissingPackageError, UnsupportedError, UsageError
from helpers.common.presets import pick_settings
from helpers.loading.loaders import explain_missing_package
from helpers.loading.quantization import find_kernel, make_quantization
from helpers.tasks import TaskData
from helpers.weights import ModelFolder

needs_bitsandbytes = pytest.mark.skipif(
    not importlib.util.find_spec("bitsandbytes"),
    reason="bitsandbytes is not installed: pip install -e '.[gpu]'",
)


def make_folder(home, name="tiny", quantization=None, **files):
    """A complete folder of the tiny model with a quantization_config and more files (__ stands for a dot)."""
    folder = make_tiny_model(home / "models" / name)
    if quantization:
        config = json.loads((folder / "config.json").read_text())
        (folder / "config.json").write_text(json.dumps({**config, "quantization_config": quantization}))
    for file, text in files.items():
        (folder / file.replace("__", ".")).write_text(text)
    return folder


@pytest.mark.parametrize(
    ("config", "context"),
    [
        (LlamaConfig(max_position_embeddings=512), 512),
        (GPT2Config(n_positions=512), 512),
        (MptConfig(max_seq_len=512), 512),
        (BloomConfig(), 2048),  # its config does not say
    ],
)
def test_context_of_a_model_is_known_whatever_its_config_calls_it(tiny, config, context):
    tiny.model.config = config
    assert tiny.context == context


@pytest.mark.parametrize(
    ("quantization", "files", "loader", "reason"),
    [
        (None, {}, "transformers", "full precision"),
        ({"quant_method": "gptq"}, {}, "gptq", "quant_method gptq"),
        (None, {"quantize_config__json": "{}"}, "gptq", "there is a quantize_config.json"),
        ({"quant_method": "awq"}, {}, "awq", "quant_method awq"),
        (None, {"quant_config__json": "{}"}, "awq", "there is a quant_config.json"),
        (
            {"quant_method": "bitsandbytes", "load_in_4bit": True},
            {},
            "bitsandbytes",
            "quant_method bitsandbytes",
        ),
        (None, {"model__gguf": ""}, "llama.cpp", ".gguf"),
    ],
)
def test_loader_is_detected_with_its_reason(home, quantization, files, loader, reason):
    found = loading.detect_loader(ModelFolder(make_folder(home, quantization=quantization, **files)))
    assert found.value == loader and reason in found.reason


@pytest.mark.parametrize(
    ("name", "quantization", "method"),
    [
        ("tiny", {"quant_method": "exl3"}, "exl3"),
        ("Llama-2-7B-exl2", None, "exl2"),
        ("tiny", {"quant_method": "aqlm"}, "aqlm"),
        ("tiny", {"bits": 4}, "unknown"),
    ],
)
def test_format_that_is_not_read_is_refused_by_its_name(home, name, quantization, method):
    make_folder(home, name, quantization)
    with pytest.raises(UnsupportedError, match=method):
        loading.load_model(name)


@pytest.mark.parametrize(
    ("quantization", "loader", "named"),
    [
        (None, "gptq", "is not quantised"),
        (None, "bitsandbytes", "is not quantised"),
        ({"quant_method": "gptq", "bits": 4, "group_size": 32}, "awq", "is quantised with gptq"),
    ],
)
def test_loader_of_another_quantisation_is_refused(home, quantization, loader, named):
    make_folder(home, quantization=quantization)
    with pytest.raises(UnsupportedError, match=named):
        loading.load_model("tiny", loader)


def test_pickles_are_never_opened(home):
    folder = make_folder(home)
    (folder / "model.safetensors").unlink()
    (folder / "pytorch_model.bin").write_bytes(b"cos\nsystem\n(S'touch /tmp/opened'\ntR.")
    with pytest.raises(UnsupportedError, match="tiny"):
        loading.load_model("tiny")


def test_loaded_model_tells_its_dtype_device_seconds_and_bytes(home):
    make_folder(home)
    loaded, half = loading.load_model("tiny"), loading.load_model("tiny", dtype="bfloat16")
    assert (
        loaded.dtype == common.pick_dtype()
        and loaded.device == common.pick_device()
        and loaded.loader.value == "transformers"
    )
    assert half.dtype == (torch.bfloat16, "asked for") and half.model.dtype == torch.bfloat16
    assert loading.load_model("tiny", dtype="float32").bytes == pytest.approx(2 * half.bytes, rel=1e-3)
    assert half.seconds > 0


def test_device_map_and_memory_limits_are_settings(home):
    make_folder(home)
    loaded = loading.load_model("tiny", dtype="float32", device_map="auto", max_memory={"cpu": "1GiB"})
    plain = loading.load_model("tiny", dtype="float32", device_map="cpu")
    ids = torch.arange(10)[None]
    assert torch.equal(loaded.model(ids.to(loaded.model.device)).logits.cpu(), plain.model(ids).logits)


@pytest.mark.parametrize(
    ("places", "on_disk"),
    [
        ({"device_map": {"": "cpu"}}, False),
        ({"max_memory": {"cpu": "1GiB"}}, False),
        (
            {"device_map": "auto", "max_memory": {"cpu": "60KB"}},
            True,
        ),  # less than the weights: the rest stays on the disk
    ],
)
def test_model_answers_the_same_from_wherever_it_lies(home, places, on_disk):
    make_folder(home)
    loaded, plain = (
        loading.load_model("tiny", dtype="float32", **places),
        loading.load_model("tiny", dtype="float32", device_map="cpu"),
    )
    assert (
        loaded.device == ("cpu", "asked for with device_map or max_memory")
        and (loaded.model.device.type == "meta") == on_disk
    )
    ids = torch.arange(10)[None]
    assert torch.equal(loaded.model(ids).logits, plain.model(ids).logits)


@pytest.mark.parametrize(
    ("places", "kind", "named"),
    [
        ({"device_map": "cuda:99"}, UnsupportedError, "99"),
        ({"device_map": {"": 99}}, UnsupportedError, "99"),
        ({"max_memory": {99: "14GiB", "cpu": "30GiB"}}, UnsupportedError, "99"),
        ({"device_map": "everywhere"}, UsageError, "everywhere"),
        ({"max_memory": {"cpu": "much"}}, UsageError, "much"),
    ],
)
def test_places_that_are_not_there_are_refused(home, places, kind, named):
    make_folder(home)
    with pytest.raises(kind, match=named):
        loading.load_model("tiny", **places)


@needs_bitsandbytes
@pytest.mark.parametrize(("bits", "agreement"), [(8, 0.98), (4, 0.7)])
def test_model_of_fewer_bits_answers_and_then_trains(home, rows, template, bits, agreement):
    make_tiny_model(home / "models" / "tiny", hidden=64)
    full, small = loading.load_model("tiny"), loading.load_model("tiny", bits=bits)
    ids = torch.arange(40, device=full.model.device)[None]
    with torch.inference_mode():
        logits = [loaded.model(ids).logits.float().flatten() for loaded in (full, small)]
    assert torch.nn.functional.cosine_similarity(*logits, dim=0) > agreement and small.bytes < full.bytes
    loading.chat(small, [{"role": "user", "content": "Hi"}], 3)
    # The gradient of q_proj comes through the quantised layers behind it.
    settings = pick_settings("tiny").replace({"targets": "q_proj"})
    training.train_lora(small, TaskData(template, rows), settings, home / "loras" / "x", progress=False)
    trained = [value for name, value in small.model.named_parameters() if "lora_B" in name]
    assert trained and all(value.abs().sum() > 0 for value in trained)  # they start at 0


@pytest.mark.parametrize(("device", "purpose"), [("cuda", "inference"), ("cpu", "training")])
def test_awq_weights_are_multiplied_by_what_nothing_compiles(home, device, purpose):
    folder = ModelFolder(make_folder(home, quantization={"quant_method": "awq"}))
    kernel = find_kernel(folder, "awq", device, "float16", purpose)
    assert make_quantization("awq", torch.float16, None, kernel).backend == "torch_awq"


def test_other_weights_have_no_kernel_and_gptqmodel_chooses_for_answers_on_a_cpu(home):
    folder = ModelFolder(make_folder(home))
    assert find_kernel(folder, "transformers", "cuda", "float16", "inference") is None
    kernel = find_kernel(folder, "gptq", "cpu", "float16", "inference")
    assert make_quantization("gptq", torch.float16, None, kernel) is None


@pytest.mark.parametrize(
    ("method", "settings", "named"),
    [(None, {"bits": 3}, "3"), ("gptq", {"bits": 4, "loader": "gptq"}, "gptq")],
)
def test_bits_that_cannot_be_had_are_refused(home, method, settings, named):
    make_folder(home, quantization=method and {"quant_method": method, "bits": 4, "group_size": 32})
    with pytest.raises(UsageError, match=named):
        loading.load_model("tiny", **settings)


def test_weights_of_a_gguf_file_cannot_be_quantised_again(home):
    make_tiny_gguf(home / "models" / "tiny-gguf", make_tiny_model(home / "models" / "tiny"))
    with pytest.raises(UsageError, match="tiny-gguf .*GGUF"):
        loading.load_model("tiny-gguf", loader="transformers", bits=4)


def test_missing_package_is_named_with_the_line_that_installs_it():
    with pytest.raises(MissingPackageError, match="no module x.*pip install bitsandbytes"):
        with explain_missing_package("tiny", "bitsandbytes"):
            raise ImportError("no module x")


@pytest.mark.real
def test_free_gives_the_memory_back(real_model_name):
    loaded = loading.load_model(real_model_name, dtype="float32")
    loading.chat(loaded, [{"role": "user", "content": "Hi"}], max_new_tokens=2)
    assert loading.free(loaded) > 0.8 * loaded.bytes  # the first pass leaves torch some buffers


@pytest.mark.real
def test_gguf_is_dequantised_into_what_the_safetensors_folder_holds(real_model_name):
    gguf, folder = (
        loading.load_model(f"{real_model_name}-GGUF", "transformers", "bfloat16"),
        loading.load_model(real_model_name, dtype="bfloat16"),
    )
    for text in ("Room 2023, 10%", "naïve café — 東京 🙂", "<|im_start|>user\nHi<|im_end|>"):
        ids = gguf.tokenizer(text, return_tensors="pt")["input_ids"]
        assert torch.equal(ids, folder.tokenizer(text, return_tensors="pt")["input_ids"])
        assert torch.equal(gguf.model(ids).logits, folder.model(ids).logits)
    with pytest.raises(UnsupportedError, match="GGUF"):
        loading.load_model(f"{real_model_name}-GGUF")


def test_model_whose_only_end_is_in_its_chat_template_pads_with_it(home):
    folder = make_folder(home)
    for file in ("tokenizer_config.json", "special_tokens_map.json"):
        if (folder / file).is_file():
            change_json(folder / file, eos_token=None, pad_token=None)
    tokenizer = loading.load_model("tiny").tokenizer
    assert tokenizer.eos_token is None
    assert tokenizer.pad_token == "<|im_end|>"


def test_quantisation_without_a_method_is_refused_with_the_line_to_add(home):
    folder = ModelFolder(make_folder(home, quantization={"bits": 4, "desc_act": False}))
    with pytest.raises(UnsupportedError, match='Add it: "quant_method": "gptq"'):
        loading.detect_loader(folder)


def test_wrong_rope_settings_are_an_error_of_the_config(home):
    folder = make_tiny_model(home / "models" / "tiny")
    change_json(folder / "config.json", rope_parameters={"rope_type": "linear"})
    with pytest.raises(DamagedError, match="config.json"):
        loading.load_model("tiny")


def test_lacking_weights_are_one_error_without_the_report_of_transformers(home, caplog):
    folder = make_tiny_model(home / "models" / "tiny")
    change_json(folder / "config.json", num_hidden_layers=3)
    with pytest.raises(DamagedError, match="lacks"):
        loading.load_model("tiny")
    assert not caplog.text


def test_tokenizer_with_a_setting_of_another_kind_is_damaged(home):
    folder = make_tiny_model(home / "models" / "tiny")
    change_json(folder / "tokenizer_config.json", model_max_length="long")
    with pytest.raises(DamagedError, match="tokenizer"):
        loading.load_model("tiny")


@pytest.mark.parametrize("name", ["tokenizer_config.json", "special_tokens_map.json", "added_tokens.json"])
def test_half_of_a_character_in_the_tokenizer_s_files_is_damage(home, name):
    folder = make_tiny_model(home / "models" / "tiny")
    (folder / name).write_text(r'{"backend": "\ud83d"}')  # a merge could not save it
    with pytest.raises(DamagedError, match=name):
        loading.load_model("tiny")


UNKNOWN = {"type": "WordPiece", "unk_token": "no", "continuing_subword_prefix": "##", "vocab": {"a": 0}}
LOST = {"type": "TemplateProcessing", "single": [], "pair": [], "special_tokens": {}}


@pytest.mark.parametrize(
    "change",
    [
        {"normalizer": {"type": "Precompiled", "precompiled_charsmap": "AAAA"}},  # Rust gives up
        {"normalizer": {"type": "Replace", "pattern": {"String": ""}, "content": "x"}},  # the same
        {"model": {"type": "BPE", "vocab": {"a": 2**32 - 1}, "merges": []}},
        {"model": UNKNOWN | {"max_input_chars_per_word": 9}},  # fails at a word that it does not know
        {"post_processor": LOST},  # leaves out the text
    ],
    ids=["panic-at-loading", "panic-at-use", "huge-id", "unknown-word", "lost-text"],
)
def test_tokenizer_that_fails_at_a_text_is_damaged(home, change, capfd):
    folder = make_tiny_model(home / "models" / "tiny")
    change_json(folder / "tokenizer.json", **change)
    with pytest.raises(DamagedError, match="tokenizer of tiny cannot be read"):
        loading.load_tokenizer(ModelFolder(folder))
    assert capfd.readouterr().err == ""


def test_settings_of_a_config_for_outputs_do_not_matter(tiny, home):
    from support.loras import change_json

    change_json(
        home / "models" / "tiny" / "config.json",
        return_dict=False,
        output_hidden_states=True,
        output_attentions=True,
        use_cache=False,
    )
    changed = loading.load_model("tiny", dtype="float32")
    ids = torch.tensor([[1, 2, 3]])
    found = changed.model(ids)
    assert torch.equal(found.logits, tiny.model(ids).logits)
    assert found.hidden_states is None
    assert found.attentions is None
    assert found.past_key_values is not None


def test_lora_in_a_model_s_folder_is_refused_since_its_base_would_be_loaded(tiny, home):
    (home / "models" / "tiny" / "adapter_config.json").write_text('{"base_model_name_or_path": "/elsewhere"}')
    with pytest.raises(UnsupportedError, match=r"adapter_config\.json"):
        loading.load_model("tiny")
