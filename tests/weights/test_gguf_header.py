"""GGUF files read up to their weights, against the gguf package that writes them."""

import numpy as np
import pytest
from gguf import GGUFValueType, GGUFWriter

from helpers.common.errors import DamagedError
from helpers.weights.gguf_header import read_header

SETTINGS = {
    "kit.uint8": (200, GGUFValueType.UINT8),
    "kit.int8": (-100, GGUFValueType.INT8),
    "kit.uint16": (60_000, GGUFValueType.UINT16),
    "kit.int16": (-30_000, GGUFValueType.INT16),
    "kit.uint32": (2**32 - 1, GGUFValueType.UINT32),
    "kit.int32": (-(2**31), GGUFValueType.INT32),
    "kit.uint64": (2**64 - 1, GGUFValueType.UINT64),
    "kit.int64": (-(2**63), GGUFValueType.INT64),
    "kit.float32": (0.5, GGUFValueType.FLOAT32),
    "kit.float64": (0.1, GGUFValueType.FLOAT64),
    "kit.bool": (True, GGUFValueType.BOOL),
    "kit.text": ("naïve 東京", GGUFValueType.STRING),
}


@pytest.fixture
def gguf(tmp_path):
    """A GGUF file with a setting of every kind, lists between them, and two tensors."""
    writer = GGUFWriter(tmp_path / "a.gguf", "llama")
    for name, (value, kind) in SETTINGS.items():
        writer.add_key_value(name, value, kind)
    writer.add_token_list([f"token {number}" for number in range(1000)])
    writer.add_array("kit.numbers", list(range(1000)))
    writer.add_string("kit.last", "the end")
    writer.add_tensor("matrix", np.zeros((3, 5), dtype=np.float32))
    writer.add_tensor("vector", np.zeros(7, dtype=np.float16))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return tmp_path / "a.gguf"


def test_settings_of_every_kind_are_read_and_lists_are_left_out(gguf):
    settings, _ = read_header(gguf)
    expected = {name: value for name, (value, _) in SETTINGS.items()}
    assert settings == {"general.architecture": "llama", **expected, "kit.last": "the end"}


def test_shapes_are_in_the_order_of_pytorch(gguf):
    _, shapes = read_header(gguf)
    assert shapes == {"matrix": (3, 5), "vector": (7,)}


def test_weights_are_not_read(gguf):
    whole = gguf.read_bytes()
    expected = read_header(gguf)
    gguf.write_bytes(whole[:-100])
    assert read_header(gguf) == expected


def test_file_that_is_cut_anywhere_in_its_header_is_damaged(gguf, tmp_path):
    whole = gguf.read_bytes()
    header_size = whole.index(b"vector")
    for length in range(0, header_size, 97):
        gguf.write_bytes(whole[:length])
        with pytest.raises(DamagedError) as caught:
            read_header(gguf)
        assert str(gguf) in caught.value.problem


@pytest.mark.parametrize(
    "start",
    [
        b"PK\x03\x04",  # another format
        b"GGUF" + (9).to_bytes(4, "little"),  # a later version
        b"GGUF" + (3).to_bytes(4, "big"),  # big-endian
    ],
    ids=["zip", "version-9", "big-endian"],
)
def test_other_formats_are_damaged_files(tmp_path, start):
    path = tmp_path / "a.gguf"
    path.write_bytes(start + bytes(100))
    with pytest.raises(DamagedError):
        read_header(path)


def write_one_setting(path, kind, value):
    """A file whose only setting has this kind (a number) and these bytes as its value."""
    counts = (0).to_bytes(8, "little") + (1).to_bytes(8, "little")
    name = (1).to_bytes(8, "little") + b"a"
    path.write_bytes(b"GGUF" + (3).to_bytes(4, "little") + counts + name + kind.to_bytes(4, "little") + value)
    return path


def test_unknown_kind_is_damage(tmp_path):
    with pytest.raises(DamagedError):
        read_header(write_one_setting(tmp_path / "a.gguf", 99, bytes(8)))


@pytest.mark.parametrize("kind", [GGUFValueType.STRING, GGUFValueType.ARRAY])
def test_length_beyond_the_end_of_the_file_is_damage(tmp_path, kind):
    # a text of 2**64 - 1 bytes, or a list of so many numbers
    length = b"\xff" * 8
    number = GGUFValueType.FLOAT64.to_bytes(4, "little")
    value = length if kind == GGUFValueType.STRING else number + length
    with pytest.raises(DamagedError):
        read_header(write_one_setting(tmp_path / "a.gguf", kind, value))
