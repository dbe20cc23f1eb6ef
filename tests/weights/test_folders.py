"""ModelFolder: the one that knows what a folder below models/ is."""

import json
import os

import pytest
from support.tiny import make_tiny_model

from helpers import weights
from helpers.common.errors import DamagedError, ResourceError, UsageError
from helpers.common.files import MOST_BYTES
from helpers.weights.intact import LONGEST_HEADER, explain_damage, has_whole_safetensors


def change_config(path, **values):
    config = json.loads((path / "config.json").read_text())
    (path / "config.json").write_text(json.dumps({**config, **values}))


@pytest.fixture
def folder(home):
    return weights.ModelFolder(make_tiny_model(home / "models" / "tiny"))


def test_folder_with_safetensors_knows_its_files_and_shape(folder):
    assert (folder.name, folder.format, folder.gguf) == ("tiny", "safetensors", None)
    assert [path.name for path in folder.safetensors] == ["model.safetensors"]
    assert folder.weight_bytes == (folder.path / "model.safetensors").stat().st_size < folder.disk_bytes
    assert folder.shape.layers == 2 and folder.quantization is None


def test_gguf_counts_before_other_formats_and_the_first_by_name_is_taken(folder):
    for name in ("b.gguf", "a.gguf"):
        (folder.path / name).write_bytes(b"GGUF")
    fresh = weights.ModelFolder(folder.path)
    assert fresh.format == "gguf" and fresh.gguf == folder.path / "a.gguf"


def test_pickles_count_only_if_there_is_nothing_better(folder):
    (folder.path / "pytorch_model.bin").write_bytes(b"")
    assert weights.ModelFolder(folder.path).format == "safetensors"
    (folder.path / "model.safetensors").unlink()
    assert weights.ModelFolder(folder.path).format == "pickle"


@pytest.mark.parametrize(
    ("config", "file", "content", "expected"),
    [
        ({"quant_method": "gptq", "bits": 4, "desc_act": True}, "", {}, ("gptq", 4, "config.json")),
        ({}, "quantize_config.json", {"bits": 8, "group_size": 64}, ("gptq", 8, "quantize_config.json")),
        ({}, "quant_config.json", {"w_bit": 4, "q_group_size": 128}, ("awq", 4, "quant_config.json")),
        ({"bits": 4}, "quantize_config.json", {"bits": 3}, ("gptq", 4, "config.json")),
        ({"load_in_8bit": True}, "", {}, ("bitsandbytes", 8, "config.json")),
        ({"bits": 4}, "", {}, ("unknown", 4, "config.json")),
    ],
)
def test_quantisation_is_read_from_the_config_or_a_file_beside_it(folder, config, file, content, expected):
    change_config(folder.path, quantization_config=config)
    if file:
        (folder.path / file).write_text(json.dumps(content))
    found = weights.ModelFolder(folder.path).quantization
    assert (found.method, found.bits, found.source) == expected
    assert found.settings["quant_method"] == expected[0]


def test_autoawq_names_become_those_of_the_config(folder):
    (folder.path / "quant_config.json").write_text(json.dumps({"w_bit": 4, "q_group_size": 128}))
    found = weights.ModelFolder(folder.path).quantization
    assert found.settings == {"bits": 4, "group_size": 128, "quant_method": "awq"} and found.group_size == 128


def test_exllama_format_is_known_by_the_folder_name(folder):
    path = folder.path.rename(folder.path.with_name("Llama-2-7B-exl2"))
    assert weights.ModelFolder(path).quantization.method == "exl2"


def test_record_holds_source_and_hashes_and_finds_a_change(folder):
    folder.write_record(source="here", revision="main")
    assert folder.record["source"] == "here" and set(folder.hashes) == {"model.safetensors"}
    assert folder.find_damage() == ""
    data = bytearray((folder.path / "model.safetensors").read_bytes())
    data[-1] ^= 1
    (folder.path / "model.safetensors").write_bytes(data)
    assert "model.safetensors" in weights.ModelFolder(folder.path).find_damage()


@pytest.mark.parametrize("name", ["tokenizer.json", "chat_template.jinja", "merges.txt", "config.json"])
def test_text_that_is_longer_than_any_makes_a_folder_incomplete(home, name):
    folder = make_tiny_model(home / "models" / "tiny")
    (folder / name).touch()
    os.truncate(folder / name, MOST_BYTES + 1)  # which takes no room on the disk
    with pytest.raises(DamagedError, match=f"{name} has 0.10 GB"):
        weights.find_model("tiny")


@pytest.mark.parametrize("text", ["", "Cannot allocate memory (os error 12)"])
def test_file_that_does_not_fit_into_memory_is_named(tmp_path, text):
    path = tmp_path / "a.safetensors"
    path.touch()
    with pytest.raises(ResourceError, match="a.safetensors .*Cannot allocate memory"), explain_damage(path):
        raise MemoryError(text)


def test_header_that_is_longer_than_any_is_not_read(tmp_path):
    path = tmp_path / "a.safetensors"
    path.write_bytes((2 * LONGEST_HEADER).to_bytes(8, "little"))
    os.truncate(path, 8 + 2 * LONGEST_HEADER)
    assert not has_whole_safetensors(path)


@pytest.mark.parametrize("content", ["[]", "{", '{"files": [1]}', '{"files": {"a": {}}}'])
def test_damaged_record_is_one_error(folder, content):
    (folder.path / "weights.json").write_text(content)
    with pytest.raises(DamagedError, match="weights.json"):
        folder.find_damage()


@pytest.mark.parametrize("content", ["[]", "{", "\xff"])
def test_damaged_config_is_one_error(folder, content):
    (folder.path / "config.json").write_text(content, encoding="latin-1")
    with pytest.raises(DamagedError, match="config.json"):
        weights.find_model("tiny")


def test_name_that_leads_elsewhere_is_refused(folder):
    with pytest.raises(UsageError):
        weights.find_model("../tiny")


def test_hidden_folders_and_files_are_not_models(folder):
    (folder.path.parent / ".tiny.download").mkdir()
    (folder.path.parent / "notes.txt").write_text("")
    assert weights.list_models() == ["tiny"]
