"""A model folder for the WebUI of 2023: files that transformers 4.34 and tokenizers 0.14 read."""

import json

import pytest
import torch
from safetensors.numpy import load_file, save_file
from support.loras import change_json, read_json
from support.tiny import CHAT_TEMPLATE, make_tiny_model
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers

from helpers import loading, weights
from helpers.common.command import run_command
from helpers.common.errors import AlreadyThereError, UnsupportedError, UsageError
from helpers.weights.__main__ import main
from helpers.weights.tokenizer_2023 import convert_tokenizer

TEXTS = ["Room 2023", "  two  spaces", "\ntwo\nlines", "naïve 東京", "", " "]


@pytest.fixture
def folder(home):
    """models/tiny."""
    return make_tiny_model(home / "models" / "tiny")


def export(name="tiny"):
    return weights.export_model(name, "webui-2023")


def test_command_writes_the_folder_and_prints_it(folder, home, capsys):
    assert run_command(main, ["export", "tiny", "--for", "webui-2023"]) == 0
    made = home / "runs" / "exports" / "webui-2023" / "models" / "tiny"
    assert capsys.readouterr().out.strip() == str(made)
    names = {path.name for path in made.iterdir()}
    copied = {path.name for path in folder.iterdir()} - {"chat_template.jinja"}
    assert names == copied | {"export.json"}


def test_export_is_repeated_and_another_output_is_not_replaced(folder, home):
    assert export() == export()
    (home / "mine").mkdir()
    with pytest.raises(AlreadyThereError):
        weights.export_model("tiny", "webui-2023", home / "mine")


def test_own_files_in_an_export_are_never_lost(folder):
    made = export()
    (made / "own.txt").write_text("precious")
    with pytest.raises(AlreadyThereError):
        export()
    assert (made / "own.txt").read_text() == "precious"


def test_export_into_models_is_refused(folder):
    with pytest.raises(UsageError, match="read here"):
        weights.export_model("tiny", "webui-2023", folder / "out")


@pytest.mark.parametrize(
    "name", ["merges.txt", "tokenizer.model", "chat_template.jinja", "config.json", "generation_config.json"]
)
def test_link_out_of_the_folder_is_not_exported(folder, home, name):
    elsewhere = home / "elsewhere"
    elsewhere.write_bytes((folder / name).read_bytes() if (folder / name).is_file() else b"KEY")
    (folder / name).unlink(missing_ok=True)
    (folder / name).symlink_to(elsewhere)
    with pytest.raises(UnsupportedError, match=f"{name} is a link to .*elsewhere"):
        export()
    assert not (home / "runs" / "exports").exists()


def test_link_within_the_folder_is_exported(folder):
    (folder / "chat_template.jinja").rename(folder / "kept.jinja")
    (folder / "chat_template.jinja").symlink_to("kept.jinja")
    assert read_json(export() / "tokenizer_config.json")["chat_template"] == CHAT_TEMPLATE


def test_pickles_are_not_passed_on(folder):
    (folder / "model.safetensors").unlink()
    (folder / "pytorch_model.bin").write_bytes(b"any code")
    with pytest.raises(UnsupportedError, match="any code"):
        export()


def test_what_is_written_into_an_export_does_not_reach_the_model(folder):
    before = (folder / "model.safetensors").read_bytes()
    weights_file = export() / "model.safetensors"
    assert weights_file.read_bytes() == before
    weights_file.write_bytes(b"other weights")
    assert (folder / "model.safetensors").read_bytes() == before


def test_linked_weights_are_exported_as_files(folder, tmp_path_factory):
    blob = (folder / "model.safetensors").rename(tmp_path_factory.mktemp("blobs") / "0123")
    (folder / "model.safetensors").symlink_to(blob)
    assert not (export() / "model.safetensors").is_symlink()


def test_rope_is_at_the_top_of_the_config_and_dtype_under_its_old_name(folder):
    change_json(folder / "config.json", rope_parameters={"rope_type": "default", "rope_theta": 500000.0})
    config = read_json(export() / "config.json")
    assert (config["rope_theta"], config["torch_dtype"]) == (500000.0, "float32")
    assert config["architectures"] == ["LlamaForCausalLM"]
    assert "rope_scaling" not in config


def test_scaling_of_rope_has_its_old_names(folder):
    rope = {"rope_type": "linear", "factor": 2, "rope_theta": 10000.0}
    change_json(folder / "config.json", rope_parameters=rope)
    assert read_json(export() / "config.json")["rope_scaling"] == {"type": "linear", "factor": 2.0}


def test_window_of_mistral_counts_as_then(folder):
    change_json(folder / "config.json", model_type="mistral", sliding_window=None)
    assert read_json(export() / "config.json")["sliding_window"] == 2047
    change_json(folder / "config.json", sliding_window=8)
    assert read_json(export() / "config.json")["sliding_window"] == 7


def test_config_of_2023_is_kept(folder):
    config = read_json(folder / "config.json")
    del config["rope_parameters"]
    (folder / "config.json").write_text(json.dumps({**config, "rope_theta": 7.0}))
    assert read_json(export() / "config.json")["rope_theta"] == 7.0


def test_tokenizer_has_a_class_of_then_and_its_chat_template(folder):
    assert (folder / "chat_template.jinja").is_file()
    settings = read_json(export() / "tokenizer_config.json")
    assert settings["tokenizer_class"] == "PreTrainedTokenizerFast"
    assert settings["chat_template"] == CHAT_TEMPLATE
    assert settings["model_input_names"] == ["input_ids", "attention_mask"]
    assert settings["clean_up_tokenization_spaces"] is False
    assert settings["eos_token"] == "<|im_end|>" and "backend" not in settings


def test_tokenizer_config_of_llama_2_is_kept(folder):
    (folder / "tokenizer.model").write_bytes(b"sentencepiece")
    of_then = {"tokenizer_class": "LlamaTokenizer", "add_bos_token": True, "legacy": False}
    (folder / "tokenizer_config.json").write_text(json.dumps(of_then))
    (folder / "chat_template.jinja").unlink()
    made = export()
    assert read_json(made / "tokenizer_config.json") == of_then
    assert (made / "tokenizer.model").read_bytes() == b"sentencepiece"


def test_exported_folder_is_loaded_with_the_same_logits(folder, home):
    loaded = loading.load_model("tiny")
    export().rename(home / "models" / "old")
    old = loading.load_model("old")
    ids = loaded.tokenizer("Hello", return_tensors="pt")["input_ids"]
    assert torch.equal(old.tokenizer("Hello", return_tensors="pt")["input_ids"], ids)
    with torch.inference_mode():
        assert torch.equal(old.model(ids).logits, loaded.model(ids).logits)


def make_tokenizer(pre_tokenizer, words=("▁", "▁▁", "▁two")):
    """A BPE tokenizer of the characters in TEXTS and of these words."""
    letters = sorted({"▁", *"".join(TEXTS)} - {" "})
    vocabulary = {
        token: number for number, token in enumerate(dict.fromkeys([*letters, "tw", "two", *words]))
    }
    merges = [("t", "w"), ("tw", "o"), ("▁", "▁"), ("▁", "two")]
    core = Tokenizer(models.BPE(vocab=vocabulary, merges=merges))
    core.pre_tokenizer = pre_tokenizer
    core.decoder = decoders.Metaspace()
    return core


def convert(core):
    return convert_tokenizer("tiny", json.loads(core.to_str()))


@pytest.mark.parametrize("split", [True, False])
@pytest.mark.parametrize("scheme", ["always", "never"])
def test_converted_tokenizer_gives_the_same_tokens(split, scheme):
    core = make_tokenizer(pre_tokenizers.Metaspace(prepend_scheme=scheme, split=split))
    converted = convert(core)
    assert converted["model"]["merges"] == ["t w", "tw o", "▁ ▁", "▁ two"]
    assert "ignore_merges" not in converted["model"]
    old = Tokenizer.from_str(json.dumps(converted))
    assert [old.encode(text).tokens for text in TEXTS] == [core.encode(text).tokens for text in TEXTS]


def test_metaspace_has_its_old_setting():
    converted = convert(make_tokenizer(pre_tokenizers.Metaspace(prepend_scheme="never")))
    assert converted["pre_tokenizer"]["add_prefix_space"] is False
    assert converted["decoder"]["add_prefix_space"] is True


def test_newer_parts_of_a_tokenizer_are_refused():
    core = make_tokenizer(pre_tokenizers.Metaspace())
    content = json.loads(core.to_str())
    content["model"]["ignore_merges"] = True
    with pytest.raises(UnsupportedError, match="ignore_merges"):
        convert_tokenizer("tiny", content)
    core.normalizer = normalizers.Sequence([normalizers.ByteLevel()])
    with pytest.raises(UnsupportedError, match="ByteLevel"):
        convert(core)
    with pytest.raises(UnsupportedError, match="first"):
        convert(make_tokenizer(pre_tokenizers.Metaspace(prepend_scheme="first")))


@pytest.mark.parametrize(
    ("values", "named"),
    [
        ({"model_type": "qwen3"}, "qwen3"),
        ({"rope_parameters": {"rope_type": "llama3", "rope_theta": 1.0, "factor": 8.0}}, "llama3"),
        ({"rope_parameters": {"rope_theta": 1.0, "partial_rotary_factor": 0.5}}, "partial_rotary_factor"),
        ({"head_dim": 16}, "head_dim"),
        ({"mlp_bias": True}, "mlp_bias"),
    ],
    ids=str,
)
def test_what_would_be_computed_otherwise_is_refused_before_anything_is_written(folder, home, values, named):
    change_json(folder / "config.json", **values)
    with pytest.raises(UnsupportedError, match=named):
        export()
    assert not (home / "runs").exists()


def test_weights_without_their_format_are_refused(folder):
    save_file(load_file(folder / "model.safetensors"), folder / "model.safetensors")
    with pytest.raises(UnsupportedError, match="model.safetensors"):
        export()


def test_gguf_needs_no_export(home):
    (home / "models" / "g").mkdir(parents=True)
    (home / "models" / "g" / "a.gguf").write_bytes(b"GGUF")
    with pytest.raises(UnsupportedError, match="a.gguf"):
        export("g")
