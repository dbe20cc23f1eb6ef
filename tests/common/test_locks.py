"""One writer at a time: processes, threads, kill -9, and disks without locks."""

import errno
import os
import signal
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import pytest
from support.holder import hold_elsewhere

from helpers.common.errors import AlreadyThereError, ResourceError
from helpers.common.locks import hold


@pytest.fixture
def holder(tmp_path):
    """Another process that holds the name tmp_path/mine."""
    with hold_elsewhere(tmp_path / "mine") as process:
        yield process


def test_second_process_is_told_who_holds_the_name(tmp_path, holder):
    with pytest.raises(AlreadyThereError) as caught, hold(tmp_path / "mine", "a merge"):
        pass
    for part in (str(tmp_path / "mine"), "a training", f"process {holder.pid}", os.uname().nodename):
        assert part in caught.value.problem


def test_lock_of_a_killed_process_is_free(tmp_path, holder):
    holder.send_signal(signal.SIGKILL)
    holder.wait()
    assert (tmp_path / ".mine.lock").is_file()
    with hold(tmp_path / "mine", "a training"):
        pass
    assert list(tmp_path.iterdir()) == []


def test_one_can_wait_for_a_lock(tmp_path, holder):
    timer = threading.Timer(0.2, holder.kill)
    timer.start()
    with hold(tmp_path / "mine", "a training", wait_s=30):
        timer.join()


def test_other_names_are_free(tmp_path, holder):
    with hold(tmp_path / "mine-2", "a training"):
        pass


def test_second_thread_is_refused(tmp_path):
    def try_it():
        with hold(tmp_path / "mine", "a training"):
            pass

    with ThreadPoolExecutor() as pool, hold(tmp_path / "mine", "a training"):
        with pytest.raises(AlreadyThereError):
            pool.submit(try_it).result()
    try_it()


@pytest.mark.parametrize("wait_s", [60, 0])
def test_many_threads_hold_a_name_one_after_the_other(tmp_path, wait_s):
    holders, most, held = [], [], []

    def try_it(number):
        try:
            with hold(tmp_path / "mine", "a training", wait_s):
                holders.append(number)
                most.append(len(holders))
                time.sleep(0.0005)
                holders.remove(number)
                held.append(number)
        except AlreadyThereError as error:
            assert "is being written by" in error.problem and not wait_s

    with ThreadPoolExecutor(16) as pool:
        list(pool.map(try_it, range(600)))
    assert max(most) == 1
    assert len(held) == 600 if wait_s else held
    assert list(tmp_path.iterdir()) == []


def test_lock_is_given_back_when_the_block_fails(tmp_path):
    with pytest.raises(ZeroDivisionError), hold(tmp_path / "mine", "a training"):
        raise ZeroDivisionError
    assert list(tmp_path.iterdir()) == []


def test_two_links_to_a_folder_have_one_lock(tmp_path):
    (tmp_path / "loras").mkdir()
    (tmp_path / "link").symlink_to("loras")
    with hold(tmp_path / "loras" / "mine", "a training"), pytest.raises(AlreadyThereError):
        with hold(tmp_path / "link" / "mine", "a training"):
            pass


def test_lock_file_without_content_says_another_process(tmp_path, holder):
    (tmp_path / ".mine.lock").write_bytes(b"")
    with pytest.raises(AlreadyThereError) as caught, hold(tmp_path / "mine", "a merge"):
        pass
    assert "another process" in caught.value.problem


@pytest.mark.parametrize("content", [b"my notes", b"\xff[", b"{}", b"[1]", b"[" * 50_000])
def test_file_of_somebody_else_with_the_name_of_a_lock_stays(tmp_path, content):
    (tmp_path / ".mine.lock").write_bytes(content)
    with pytest.raises(AlreadyThereError, match=r"\.mine\.lock"), hold(tmp_path / "mine", "a training"):
        pass
    assert (tmp_path / ".mine.lock").read_bytes() == content


def test_empty_file_with_the_name_of_a_lock_stays_empty(tmp_path):
    (tmp_path / "mine.txt").touch()
    os.link(tmp_path / "mine.txt", tmp_path / ".mine.lock")
    os.utime(tmp_path / "mine.txt", (0, 0))  # a lock that another thread is taking is only just made
    with hold(tmp_path / "mine", "a training"):
        assert (tmp_path / "mine.txt").read_bytes() == b""
        with pytest.raises(AlreadyThereError, match="another process"), hold(tmp_path / "mine", "a merge"):
            pass
    assert sorted(path.name for path in tmp_path.iterdir()) == [".mine.lock", "mine.txt"]


def test_link_with_the_name_of_a_lock_is_not_followed(tmp_path):
    (tmp_path / "notes").touch()
    (tmp_path / ".mine.lock").symlink_to("notes")
    with pytest.raises(AlreadyThereError), hold(tmp_path / "mine", "a training"):
        pass
    assert (tmp_path / ".mine.lock").is_symlink()
    assert (tmp_path / "notes").read_text() == ""


def test_longest_name_can_be_held(tmp_path):
    with hold(tmp_path / ("é" * 127), "a training"):
        (found,) = tmp_path.iterdir()
    assert found.name.endswith(".lock")


@pytest.mark.parametrize("number", [errno.ENOSYS, errno.ENOLCK, errno.EOPNOTSUPP], ids=os.strerror)
def test_disk_without_locks_is_used_with_a_warning(tmp_path, monkeypatch, number):
    def flock(descriptor, operation):
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr("fcntl.flock", flock)  # what the system would say
    for _ in range(2):  # nothing stays that would lock others out
        with pytest.warns(UserWarning, match="has no locks"), hold(tmp_path / "mine", "a merge"):
            pass


def test_place_where_no_lock_can_be_written_is_refused(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(ResourceError), hold(tmp_path / "file" / "mine", "a training"):
        pass
    (tmp_path / ".mine.lock").mkdir()
    with pytest.raises(AlreadyThereError), hold(tmp_path / "mine", "a training"):
        pass
