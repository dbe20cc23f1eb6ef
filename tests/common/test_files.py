"""Files that are complete or absent, JSON files, and facts about files."""

import hashlib
import json
import os
import shutil
import stat
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
import pytest
from safetensors.numpy import save_file

from helpers.common.errors import DamagedError
from helpers.common.files import (
    hash_file,
    read_json,
    replace_when_complete,
    size_of,
    write_json,
    write_text,
)


def list_names(folder):
    return sorted(path.name for path in folder.iterdir())


def test_file_is_absent_when_its_writer_fails(tmp_path):
    with pytest.raises(ZeroDivisionError), replace_when_complete(tmp_path / "a.txt") as fresh:
        fresh.write_text("half")
        raise ZeroDivisionError
    assert list_names(tmp_path) == []


def test_older_file_stays_when_its_writer_fails(tmp_path):
    (tmp_path / "a.txt").write_text("old")
    with pytest.raises(ZeroDivisionError), replace_when_complete(tmp_path / "a.txt") as fresh:
        fresh.write_text("half")
        raise ZeroDivisionError
    assert (tmp_path / "a.txt").read_text() == "old"


def test_folder_replaces_an_older_one(tmp_path):
    (tmp_path / "m").mkdir()
    (tmp_path / "m" / "old").touch()
    with replace_when_complete(tmp_path / "m") as fresh:
        fresh.mkdir()
        (fresh / "new").touch()
    assert list_names(tmp_path / "m") == ["new"]
    assert list_names(tmp_path) == ["m"]


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no such modes")
@pytest.mark.parametrize(("umask", "mode"), [(0o022, 0o644), (0o077, 0o600), (0o002, 0o664)], ids=oct)
def test_files_have_the_mode_that_the_umask_gives(tmp_path, umask, mode):
    before = os.umask(umask)
    try:
        with replace_when_complete(tmp_path / "m") as fresh:
            (fresh / "sub").mkdir(parents=True)
            save_file({"a": np.zeros(1)}, fresh / "sub" / "weights.safetensors")
        with replace_when_complete(tmp_path / "b.safetensors") as fresh:
            save_file({"a": np.zeros(1)}, fresh)
    finally:
        os.umask(before)
    for path in (tmp_path / "m" / "sub" / "weights.safetensors", tmp_path / "b.safetensors"):
        assert stat.S_IMODE(path.stat().st_mode) == mode


def test_leftovers_of_a_killed_process_are_removed(tmp_path):
    script = f"""
import os
from pathlib import Path
from helpers.common.files import replace_when_complete
with replace_when_complete(Path({str(tmp_path)!r}) / "a"):
    os._exit(9)
"""
    assert subprocess.run([sys.executable, "-c", script]).returncode == 9
    assert [path.suffix for path in tmp_path.iterdir()] == [".part"]
    write_json(tmp_path / "a", 1)
    assert list_names(tmp_path) == ["a"]


def test_json_is_written_in_full(tmp_path):
    path = write_json(tmp_path / "sub" / "a.json", {"é": [1, 2]})
    assert json.loads(path.read_text(encoding="utf-8")) == {"é": [1, 2]}


def test_dataclass_is_written_as_an_object(tmp_path):
    @dataclass
    class Point:
        x: int
        y: int

    path = write_json(tmp_path / "a.json", {"points": [Point(1, 2)]})
    assert read_json(path, "Write it again.") == {"points": [{"x": 1, "y": 2}]}


@pytest.mark.parametrize(
    "content",
    [
        b'{"cut": ',
        b"\xff\xfe",  # not UTF-8
        b"[1, 2]",
        b"null",
        b"[" * 100_000,  # deeper than Python's parser goes
    ],
    ids=["cut", "not-utf-8", "list", "null", "too-deep"],
)
def test_file_without_a_json_object_is_damaged(tmp_path, content):
    path = tmp_path / "a.json"
    path.write_bytes(content)
    with pytest.raises(DamagedError) as caught:
        read_json(path, "Write it again.")
    assert str(path) in caught.value.problem
    assert caught.value.remedy == "Write it again."


def test_text_is_written_as_utf_8(tmp_path):
    path = write_text(tmp_path / "a.txt", "naïve 東京")
    assert path.read_bytes() == "naïve 東京".encode()


def test_hash_and_size_are_those_of_the_content(tmp_path):
    (tmp_path / "sub").mkdir()
    (tmp_path / "a").write_bytes(b"12345")
    (tmp_path / "sub" / "b").write_bytes(b"678")
    assert size_of(tmp_path) == 8
    assert hash_file(tmp_path / "a") == hashlib.sha256(b"12345").hexdigest()


def test_size_is_found_while_another_program_makes_and_removes_folders(tmp_path):
    (tmp_path / "a").write_bytes(b"12345")
    ended = threading.Event()

    def churn():
        while not ended.is_set():
            (tmp_path / "b" / "c" / "d").mkdir(parents=True)
            shutil.rmtree(tmp_path / "b")

    with ThreadPoolExecutor() as pool:
        churning = pool.submit(churn)
        try:
            assert {size_of(tmp_path) for _ in range(2000)} == {5}
        finally:
            ended.set()
        churning.result()


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no such modes")
def test_mode_of_a_file_that_is_linked_into_a_new_folder_stays(tmp_path):
    own = tmp_path / "own"
    own.write_text("weights")
    own.chmod(0o600)
    with replace_when_complete(tmp_path / "new") as fresh:
        fresh.mkdir()
        os.link(own, fresh / "linked")
    assert own.stat().st_mode & 0o777 == 0o600
