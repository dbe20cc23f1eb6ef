"""What may be written where: decided before the work."""

import os
import sys

import pytest

from helpers.common.errors import AlreadyThereError, NotFoundError, ResourceError, UsageError
from helpers.common.outputs import (
    check_output,
    explain_unwritable,
    make_name,
    name_new_folder,
    refuse_kept,
    show_bytes,
)

posix = pytest.mark.skipif(sys.platform == "win32", reason="Windows has no such things")


def test_new_file_and_new_folder_can_be_written_and_nothing_is_made(tmp_path):
    for kind in ("file", "folder"):
        assert check_output(tmp_path / "a" / "b" / "c", kind) == tmp_path / "a" / "b" / "c"
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("name", ["~nobodyhere/x", "~/x", "~"])
def test_home_that_the_shell_did_not_find_is_refused(name):
    with pytest.raises(UsageError, match="~"):
        check_output(name, "file")


def test_file_may_replace_a_file_and_nothing_else(tmp_path):
    (tmp_path / "file").touch()
    (tmp_path / "folder").mkdir()
    check_output(tmp_path / "file", "file")
    with pytest.raises(AlreadyThereError):
        check_output(tmp_path / "folder", "file")
    with pytest.raises(AlreadyThereError):
        check_output(tmp_path / "file", "folder")


def test_folder_may_replace_only_what_the_kit_made(tmp_path):
    def made_by_kit(folder):
        return (folder / "record").is_file()

    (tmp_path / "own").mkdir()
    (tmp_path / "own" / "record").touch()
    (tmp_path / "other").mkdir()
    check_output(tmp_path / "own", "folder", made_by_kit)
    with pytest.raises(AlreadyThereError) as caught:
        check_output(tmp_path / "other", "folder", made_by_kit, remedy="Move it.")
    assert caught.value.remedy == "Move it."
    with pytest.raises(AlreadyThereError):
        check_output(tmp_path / "own", "folder")


@posix
@pytest.mark.parametrize("name", ["/dev/null", "/dev/stdout", "pipe", "link"])
def test_devices_pipes_and_links_to_them_are_never_replaced(tmp_path, name):
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "link").symlink_to("/dev/null")
    for kind in ("file", "folder"):
        with pytest.raises(AlreadyThereError):
            check_output(tmp_path / name, kind)


@posix
def test_link_is_judged_by_what_it_points_to(tmp_path):
    (tmp_path / "folder").mkdir()
    (tmp_path / "link").symlink_to("folder")
    (tmp_path / "dangling").symlink_to("nothing")
    check_output(tmp_path / "dangling", "file")
    with pytest.raises(AlreadyThereError, match="not there"):
        check_output(tmp_path / "dangling", "folder")
    with pytest.raises(AlreadyThereError):
        check_output(tmp_path / "link", "file")


@pytest.mark.parametrize("name", ["", " ", "a\0b", "x" * 256, "é" * 128, "\ud800", "d/" * 2500, "file/a/b"])
def test_name_that_cannot_be_is_a_usage_error(tmp_path, name):
    (tmp_path / "file").touch()
    with pytest.raises(UsageError) as caught:
        check_output(tmp_path / name if name.strip() else name, "file")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("name", ["x" * 255, "a**b", "[a]", "a b", "é" * 127])
def test_odd_names_can_be_written(tmp_path, name):
    check_output(tmp_path / name, "file")


@posix
def test_place_where_nothing_can_be_written_is_refused():
    with pytest.raises(ResourceError):
        check_output("/proc/mine/a.json", "file")


def test_disk_without_enough_room_is_refused_with_both_numbers(tmp_path):
    check_output(tmp_path / "a", "folder", bytes_needed=1000)
    with pytest.raises(ResourceError) as caught:
        check_output(tmp_path / "a", "folder", bytes_needed=10**18)
    assert caught.value.problem.count(" GB") == 2


def test_failure_to_write_is_one_line(tmp_path):
    with pytest.raises(ResourceError) as caught, explain_unwritable(tmp_path / "a"):
        (tmp_path / "missing" / "a").write_text("")
    assert str(tmp_path / "a") in caught.value.problem


@pytest.mark.parametrize("name", ["a/b", "a/b/c", ".hidden", "..", "", "/elsewhere", "a\0"])
def test_name_that_lists_would_not_show_is_refused(tmp_path, name):
    with pytest.raises(UsageError):
        name_new_folder(tmp_path, name, "LoRA")
    with pytest.raises(UsageError):
        name_new_folder(tmp_path / "missing", name, "LoRA")


def test_plain_name_is_one_of_the_folder(tmp_path):
    assert name_new_folder(tmp_path, "mine", "LoRA") == tmp_path / "mine"
    (tmp_path / "dangling").symlink_to("nothing")
    with pytest.raises(NotFoundError):
        name_new_folder(tmp_path, "dangling", "LoRA")


def test_names_made_of_a_name_are_not_longer_than_the_disk_takes():
    assert make_name("mine", ".", ".lock") == ".mine.lock"
    for name in ("x" * 120, "x" * 255, "é" * 127):
        made = make_name(name, ".", ".lock")
        assert made.startswith("." + name[0])
        assert made.endswith(".lock")
        assert len(made.encode()) <= len(name.encode())
    assert make_name("x" * 254 + "a", ".") != make_name("x" * 254 + "b", ".")


def test_file_may_be_kept_for_what_the_kit_made(tmp_path):
    (tmp_path / "own").write_text("made")
    (tmp_path / "other").write_text("precious")
    for name, is_ours in (("own", True), ("other", False), ("new", False)):
        if name == "other":
            with pytest.raises(AlreadyThereError):
                check_output(tmp_path / name, "file", lambda path: path.read_text() == "made")
        else:
            check_output(tmp_path / name, "file", lambda path: path.read_text() == "made")
        assert (tmp_path / name).exists() == (is_ours or name == "other")


@pytest.mark.parametrize(
    "name", ["data.csv", "table/part.csv", "models/m/new.json", "loras/../loras/x", "link"]
)
def test_output_is_no_input_and_not_in_models_or_loras(home, name):
    for folder in ("table", "models", "loras"):
        (home / folder).mkdir()
    (home / "data.csv").touch()
    (home / "link").symlink_to("data.csv")
    with pytest.raises(UsageError):
        refuse_kept(home / name, [home / "data.csv", home / "table"])
    refuse_kept(home / "models.json", [home / "data.csv", home / "table"])


def test_needed_room_is_said_in_a_unit_in_which_it_is_not_0():
    assert [show_bytes(count) for count in (5, 30_000, 2_500_000, 7 * 10**9)] == [
        "5 bytes", "0.03 MB", "2.50 MB", "7.00 GB",
    ]  # fmt: skip
