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
from support.unprivileged import without_overrides

from helpers.common.errors import AlreadyThereError, DamagedError, ResourceError
from helpers.common.files import (
    MOST_BYTES,
    hash_file,
    list_subfolders,
    read_json,
    read_steadily,
    read_text,
    replace_when_complete,
    size_of,
    write_json,
    write_text,
)
from helpers.common.workspaces import remove_abandoned


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
    with replace_when_complete(tmp_path / "m", made_by_kit=lambda folder: True) as fresh:
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


def test_folder_that_the_kit_did_not_make_stays(tmp_path):
    (tmp_path / "m").mkdir()
    (tmp_path / "m" / "old").touch()
    for options in ({}, {"made_by_kit": lambda folder: False}):
        with pytest.raises(AlreadyThereError), replace_when_complete(tmp_path / "m", **options) as fresh:
            fresh.mkdir()
    assert list_names(tmp_path / "m") == ["old"]
    assert list_names(tmp_path) == ["m"]


def test_file_never_takes_the_place_of_a_folder_nor_a_folder_that_of_a_file(tmp_path):
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder" / "precious").touch()
    (tmp_path / "link").symlink_to("folder")
    (tmp_path / "file").write_text("precious")
    for name in ("folder", "link"):
        with pytest.raises(AlreadyThereError):
            write_json(tmp_path / name, 1)
    with pytest.raises(AlreadyThereError), replace_when_complete(tmp_path / "file") as fresh:
        fresh.mkdir()
    assert list_names(tmp_path) == ["file", "folder", "link"]
    assert list_names(tmp_path / "folder") == ["precious"]
    assert (tmp_path / "file").read_text() == "precious"


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no such pipes")
def test_pipe_is_not_replaced(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(AlreadyThereError):
        write_json(tmp_path / "pipe", 1)
    assert (tmp_path / "pipe").is_fifo()


def test_link_to_a_file_is_replaced_and_the_file_stays(tmp_path):
    (tmp_path / "file").write_text("precious")
    (tmp_path / "link").symlink_to("file")
    write_text(tmp_path / "link", "new")
    assert (tmp_path / "file").read_text() == "precious"
    assert (tmp_path / "link").read_text() == "new"


@pytest.mark.parametrize("name", ["a**b", "[a]", "old", "new", "lock", "mode", "x" * 255, "é" * 127, "a b"])
@pytest.mark.parametrize("content", ["file", "folder"])
def test_any_name_can_be_written_again_and_again(tmp_path, name, content):
    for number in range(2):
        with replace_when_complete(tmp_path / name, made_by_kit=lambda folder: True) as fresh:
            if content == "folder":
                fresh.mkdir()
            (fresh / "file" if content == "folder" else fresh).write_text(str(number))
    written = tmp_path / name / "file" if content == "folder" else tmp_path / name
    assert written.read_text() == "1"
    assert list_names(tmp_path) == [name]


def test_failure_to_write_a_file_is_one_line(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(ResourceError) as caught:
        write_json(tmp_path / "file" / "a.json", 1)
    assert str(tmp_path / "file" / "a.json") in caught.value.problem


WRITER = """
import os, sys, time
from pathlib import Path
from helpers.common.files import replace_when_complete
with replace_when_complete(Path(sys.argv[1])):
    print("writes", flush=True)
    time.sleep(60)
"""


@pytest.fixture
def writer(tmp_path):
    """Another process that writes tmp_path/a."""
    command = [sys.executable, "-c", WRITER, str(tmp_path / "a")]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    assert process.stdout.readline() == "writes\n"
    yield process
    process.kill()
    process.communicate()


def test_leftovers_of_a_killed_process_are_removed(tmp_path, writer):
    writer.kill()
    writer.wait()
    assert [path.suffix for path in tmp_path.iterdir()] == [".part"]
    write_json(tmp_path / "a", 1)
    assert list_names(tmp_path) == ["a"]


def test_folder_of_a_living_writer_stays_whatever_its_process_number_is_here(tmp_path, writer, monkeypatch):
    monkeypatch.setattr("psutil.pid_exists", lambda number: False)  # as in another container
    (workspace,) = tmp_path.iterdir()
    write_json(tmp_path / "a", 1)
    assert workspace.is_dir()


def test_folder_without_a_lock_stays_since_nobody_knows_whose_it_is(tmp_path):
    (tmp_path / ".a.12345678.part" / "new").mkdir(parents=True)
    write_json(tmp_path / "a", 1)
    assert list_names(tmp_path) == [".a.12345678.part", "a"]


def test_process_killed_between_the_two_renames_loses_nothing(tmp_path, writer):
    writer.kill()
    writer.wait()
    (workspace,) = tmp_path.iterdir()
    for place, content in (("old", "before"), ("new/a", "after")):
        (workspace / place).mkdir()
        (workspace / place / content).touch()
    remove_abandoned(tmp_path / "a")
    assert list_names(tmp_path / "a") == ["after"]
    assert list_names(tmp_path) == ["a"]


@pytest.mark.parametrize("longer", ["a.1", "a.12345678", "a.b.part"])
def test_what_a_killed_writer_of_a_longer_name_left_stays(tmp_path, longer):
    workspace = tmp_path / f".{longer}.12345678.part"
    (workspace / "new" / longer).mkdir(parents=True)
    (workspace / "old").mkdir()
    (workspace / "lock").touch()
    write_json(tmp_path / "a", 1)
    assert list_names(workspace / "new") == [longer]
    remove_abandoned(tmp_path / longer)
    assert list_names(tmp_path) == ["a", longer]


@pytest.mark.skipif(sys.platform != "linux", reason="the rights of root are Linux's")
def test_what_cannot_be_put_in_its_place_stays(tmp_path):
    workspace = tmp_path / ".a.12345678.part"
    for name in ("new/a", "old"):
        (workspace / name).mkdir(parents=True)
    (workspace / "lock").touch()
    (workspace / "new").chmod(0o555)
    try:
        with without_overrides():
            remove_abandoned(tmp_path / "a")
        assert (workspace / "new" / "a").is_dir()
    finally:
        (workspace / "new").chmod(0o755)
    remove_abandoned(tmp_path / "a")
    assert list_names(tmp_path) == ["a"]


def test_empty_folder_of_a_process_killed_before_its_lock_is_removed(tmp_path):
    (tmp_path / ".a.12345678.part").mkdir()
    write_json(tmp_path / "a", 1)
    assert list_names(tmp_path) == ["a"]


KILLED = """
import os, sys
from pathlib import Path
from helpers.common import files
target = Path(sys.argv[1])
files.os.replace = lambda *paths: os.kill(os.getpid(), 9)
with files.replace_when_complete(target, set_aside=lambda path: path.with_name("previous")) as fresh:
    fresh.mkdir()
    (fresh / "after").touch()
"""


def test_process_killed_after_the_older_folder_was_set_aside_loses_nothing(tmp_path):
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "before").touch()
    subprocess.run([sys.executable, "-c", KILLED, str(tmp_path / "a")], check=False)
    assert "a" not in list_names(tmp_path)
    remove_abandoned(tmp_path / "a")
    assert list_names(tmp_path) == ["a", "previous"]
    assert list_names(tmp_path / "a") == ["after"]
    assert list_names(tmp_path / "previous") == ["before"]


def test_many_writers_of_one_file_leave_one_whole_file(tmp_path):
    # So many that a writer removes now and then what another has not locked yet
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda number: write_json(tmp_path / "a", [number] * 1000), range(1000)))
    assert len(set(json.loads((tmp_path / "a").read_text()))) == 1
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


def test_text_beyond_the_limit_is_damaged(tmp_path):
    path = tmp_path / "a.json"
    path.write_text('{"a": 1}\r\n')
    assert read_text(path, "Write it again.", most=10) == '{"a": 1}\n'
    with pytest.raises(DamagedError, match="more than 9 bytes"):
        read_text(path, "Write it again.", most=9)
    os.truncate(path, MOST_BYTES + 1)
    with pytest.raises(DamagedError, match="more than 0.10 GB"):
        read_json(path, "Write it again.")


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


SWAPPER = """
import sys
from pathlib import Path
from helpers.common.files import replace_when_complete
for number in sys.stdin:
    with replace_when_complete(Path(sys.argv[1]), made_by_kit=lambda folder: True) as fresh:
        fresh.mkdir()
        for name in "ab":
            (fresh / name).write_text(number)
    print("swapped", flush=True)
"""


def test_folder_that_is_replaced_while_it_is_read_is_read_again(tmp_path):
    folder = tmp_path / "m"
    folder.mkdir()
    for name in "ab":
        (folder / name).write_text("0\n")
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
    command = [sys.executable, "-c", SWAPPER, str(folder)]
    seen = []
    with subprocess.Popen(command, **pipes, text=True, bufsize=1) as swapper:

        def read():
            first = (folder / "a").read_text()
            if len(seen) < 3:
                seen.append(first)
                print(len(seen), file=swapper.stdin)
                swapper.stdout.readline()
            return first, (folder / "b").read_text()

        assert read_steadily(folder, read) == ("3\n", "3\n")
    assert seen == ["0\n", "1\n", "2\n"]


def test_error_in_a_folder_that_stays_is_raised_at_once(tmp_path):
    calls = []

    def read():
        calls.append(1)
        raise DamagedError("Bad.", "Mend it.")

    with pytest.raises(DamagedError):
        read_steadily(tmp_path, read)
    assert len(calls) == 1


@pytest.mark.skipif(sys.platform != "linux", reason="the rights of root are Linux's")
def test_folder_that_cannot_be_read_is_not_empty(tmp_path):
    (tmp_path / "loras" / "a").mkdir(parents=True)
    (tmp_path / "loras" / ".hidden").mkdir()
    assert list_subfolders(tmp_path / "loras") == ["a"]
    assert list_subfolders(tmp_path / "nothing") == []
    (tmp_path / "models").touch()
    with pytest.raises(NotADirectoryError):
        list_subfolders(tmp_path / "models")
    (tmp_path / "loras").chmod(0)
    try:
        with without_overrides(), pytest.raises(PermissionError):
            list_subfolders(tmp_path / "loras")
    finally:
        (tmp_path / "loras").chmod(0o755)
