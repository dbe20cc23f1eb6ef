"""Several GGUF files in a folder, models in several parts, and files that only accompany a model."""

import os
import sys
import time

import numpy as np
import pytest
from gguf import GGUFWriter

from helpers import loading, weights
from helpers.common.command import run_command
from helpers.common.errors import DamagedError, KitError, NotFoundError, UnsupportedError, UsageError
from helpers.weights.__main__ import main
from helpers.weights.downloads import RemoteFile
from helpers.weights.fetching import choose_files
from helpers.weights.gguf_files import find_group, group_ggufs
from helpers.weights.gguf_header import read_header

PARTS = ["big-00001-of-00002.gguf", "big-00002-of-00002.gguf"]


def put(home, *names, folder="g"):
    """Writes files into models/g, each as many bytes as its name has letters."""
    path = home / "models" / folder
    path.mkdir(parents=True, exist_ok=True)
    for name in names:
        (path / name).write_bytes(name.encode())
    return path


def test_files_are_grouped_into_models_by_their_names():
    names = ["b.gguf", "mmproj-b.gguf", PARTS[1], "a.safetensors", "b.imatrix.gguf"]
    assert group_ggufs(names) == {"b.gguf": ["b.gguf"], PARTS[0]: PARTS[1:]}


def test_names_that_speak_of_many_parts_cost_nothing(home):
    path = put(home, *(f"{letter}-00001-of-99999.gguf" for letter in "abc"))
    begun = time.process_time()
    for _ in range(1000):
        groups = group_ggufs(each.name for each in path.iterdir())
        find_group(groups, "a-99999-of-99999.gguf")
    assert time.process_time() - begun < 2  # 150 s if each part is named
    with pytest.raises(DamagedError, match="a-00002-of-99999.gguf is missing"):
        weights.find_model("g/a-00001-of-99999.gguf")


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no such pipes")
def test_pipe_is_not_called_a_companion(home):
    os.mkfifo(put(home) / "a.gguf")
    with pytest.raises(DamagedError, match="a.gguf is not a file"):
        weights.find_model("g")


def test_number_beyond_the_count_is_not_a_part():
    assert group_ggufs(["a-00003-of-00002.gguf"]) == {"a-00003-of-00002.gguf": ["a-00003-of-00002.gguf"]}


def test_first_model_by_name_is_taken_and_the_reason_names_another(home):
    path = put(home, "z.Q8.gguf", "a.Q4.gguf", "a.mmproj.gguf")
    found = weights.find_model("g")
    assert (found.name, found.gguf) == ("g", path / "a.Q4.gguf")
    reason = loading.detect_loader(found).reason
    assert "a.Q4.gguf" in reason and "g/z.Q8.gguf" in reason


def test_each_of_several_models_is_listed_and_found_by_folder_and_file(home):
    path = put(home, "a.Q4.gguf", "z.Q8.gguf")
    assert weights.list_models() == ["g", "g/a.Q4.gguf", "g/z.Q8.gguf"]
    found = weights.find_model("g/z.Q8.gguf")
    assert (found.name, found.gguf) == ("g/z.Q8.gguf", path / "z.Q8.gguf")
    assert found.weight_bytes == len("z.Q8.gguf")


def test_name_that_would_move_the_cursor_is_listed_escaped(home, capsys):
    put(home, "a.gguf", folder="x\x1b[2Jy")
    assert run_command(main, ["list"]) == 0
    shown = capsys.readouterr().out
    assert "x\\x1b[2Jy" in shown and "\x1b" not in shown


def test_only_model_of_a_folder_is_listed_once(home):
    put(home, "a.gguf", "mmproj.gguf")
    assert weights.list_models() == ["g"]


@pytest.mark.parametrize("name", ["g/none.gguf", "g/mmproj.gguf"])
def test_file_that_is_no_model_is_refused_with_those_that_are(home, name):
    put(home, "a.gguf", "mmproj.gguf")
    with pytest.raises(NotFoundError, match="a.gguf"):
        weights.find_model(name)


def test_projector_alone_is_no_model(home):
    put(home, "mmproj.gguf")
    with pytest.raises(DamagedError, match="mmproj.gguf"):
        weights.find_model("g")


def test_file_beside_the_folders_is_refused_with_the_folder_to_make(home):
    (home / "models").mkdir()
    (home / "models" / "a.gguf").write_bytes(b"GGUF")
    with pytest.raises(NotFoundError) as caught:
        weights.find_model("a.gguf")
    assert str(home / "models" / "a") in caught.value.remedy


def test_model_in_parts_is_one_model_that_begins_with_its_first_part(home):
    path = put(home, *PARTS)
    found = weights.find_model("g")
    assert found.gguf == path / PARTS[0] and found.weight_bytes == sum(map(len, PARTS))
    assert weights.find_model(f"g/{PARTS[1]}").gguf == path / PARTS[0]


@pytest.mark.parametrize("missing", [0, 1])
def test_missing_part_is_named(home, missing):
    put(home, PARTS[1 - missing])
    with pytest.raises(DamagedError, match=PARTS[missing]):
        weights.find_model("g")


def test_part_that_git_left_as_a_pointer_is_named(home):
    path = put(home, *PARTS)
    (path / PARTS[1]).write_text("version https://git-lfs.github.com/spec/v1\n")
    with pytest.raises(DamagedError, match=PARTS[1]):
        weights.find_model("g")


def test_tensors_of_all_parts_are_read(home):
    path = put(home)
    writer = GGUFWriter(path / "big.gguf", "llama", split_max_tensors=1)
    for name in ("first", "second"):
        writer.add_tensor(name, np.zeros((3, 5), dtype=np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    settings, shapes = read_header(weights.find_model("g").gguf)
    assert settings["general.architecture"] == "llama"
    assert set(shapes) == {"first", "second"}
    (path / PARTS[1]).unlink()
    with pytest.raises(DamagedError, match=PARTS[1]):
        read_header(path / PARTS[0])


# On the hub


def list_remote(*names):
    return [RemoteFile(name, 10**9, None, "") for name in names]


def choose(listed, file=None):
    return [each.name for each in choose_files("acme/x", listed, file)]


def test_model_in_parts_is_fetched_whole_by_any_of_its_parts():
    listed = list_remote("a.gguf", *PARTS)
    assert choose(listed, PARTS[0]) == choose(listed, PARTS[1]) == PARTS
    assert choose(listed[1:]) == PARTS


def test_projector_leaves_no_choice_and_is_not_fetched_as_a_model():
    listed = list_remote("a.gguf", "mmproj-a.gguf")
    assert choose(listed) == ["a.gguf"]
    with pytest.raises(UsageError, match="mmproj-a.gguf"):
        choose(listed, "mmproj-a.gguf")


def test_choice_names_each_model_with_the_size_of_all_its_parts():
    with pytest.raises(UsageError) as caught:
        choose(list_remote("a.gguf", *PARTS))
    assert f"{PARTS[0]} (2.00 GB" in caught.value.remedy and PARTS[1] not in caught.value.remedy


def test_part_that_the_hub_lacks_is_named():
    with pytest.raises(UnsupportedError, match=PARTS[1]):
        choose(list_remote(PARTS[0]))


def test_variant_in_a_lower_folder_has_a_plain_name_here():
    listed = list_remote(*(f"Q8_0/{name}" for name in PARTS))
    assert [each.local_name for each in choose_files("acme/x", listed)] == PARTS


def test_other_file_than_the_one_that_is_there_is_not_taken_for_it(home):
    put(home, "a.gguf", folder="acme_x")
    assert weights.fetch("acme/x", file="Q4/a.gguf").gguf.name == "a.gguf"
    with pytest.raises(KitError, match="b.gguf"):
        weights.fetch("acme/x", file="b.gguf")


def test_folder_below_the_working_directory_is_not_taken_for_a_repository(home, monkeypatch):
    put(home, "a.gguf")
    monkeypatch.chdir(home)
    with pytest.raises(UnsupportedError, match="a GGUF model of"):  # it was read, and no hub was asked
        weights.measure_size("models/g")


def test_size_counts_all_parts(home):
    put(home, *PARTS)
    for name in ("g", f"g/{PARTS[0]}"):
        with pytest.raises(UnsupportedError, match="2 files"):
            weights.measure_size(name)
