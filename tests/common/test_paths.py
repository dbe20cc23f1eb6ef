"""The home, and files that the user names."""

import os

import pytest

from helpers.adapters.folders import find_adapter
from helpers.common.errors import KitError, NotFoundError, UnsupportedError, UsageError
from helpers.common.files import write_json, write_text
from helpers.common.paths import PROJECT, find_file, find_home, resolve_inside
from helpers.tasks.template_file import load_template
from helpers.weights.folders import find_model


@pytest.fixture
def no_home(tmp_path, monkeypatch):
    """The working directory is empty, and OPEN_LLM_KIT_HOME is not set."""
    monkeypatch.delenv("OPEN_LLM_KIT_HOME", raising=False)
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.parametrize("name", ["a" * 5000, "x\ud800", "\0", "", "a/" * 3000])
def test_name_that_no_file_can_have_is_refused(home, name):
    for find in (
        lambda: find_file(name, "table"), lambda: find_file(name, "table", or_folder=True),
        lambda: resolve_inside(home / "loras", name, "LoRA"), lambda: find_model(name),
        lambda: find_adapter(name), lambda: load_template(name), lambda: write_text(name, "x"),
        lambda: write_json(name, {}),
    ):  # fmt: skip
        with pytest.raises(UsageError):
            find()


def test_what_is_there_and_no_file_is_called_what_it_is(home):
    (home / "folder").mkdir()
    os.mkfifo(home / "pipe")
    for name, kind in (("folder", "a folder"), ("pipe", "a pipe")):
        with pytest.raises(UnsupportedError, match=f"{name} is .*{kind}"):
            find_file(home / name, "template")


@pytest.mark.skipif(not os.path.exists("/proc/self/mem"), reason="needs Linux")
def test_template_that_cannot_be_read_is_one_of_the_kit_s_errors():
    with pytest.raises(KitError, match="/proc/self/mem"):
        load_template("/proc/self/mem")


def test_home_is_the_nearest_parent_with_notebooks(no_home, monkeypatch):
    (no_home / "notebooks" / "deep").mkdir(parents=True)
    monkeypatch.chdir(no_home / "notebooks" / "deep")
    assert find_home() == no_home.resolve()


def test_variable_overrides_the_working_directory(no_home, monkeypatch):
    (no_home / "notebooks").mkdir()
    monkeypatch.setenv("OPEN_LLM_KIT_HOME", str(no_home / "elsewhere"))
    assert find_home() == no_home.resolve() / "elsewhere"


def test_missing_home_is_an_error_that_names_the_variable(no_home):
    with pytest.raises(NotFoundError) as caught:
        find_home()
    assert "OPEN_LLM_KIT_HOME" in caught.value.remedy


def test_file_is_found_in_the_home_and_in_the_project(home, tmp_path_factory, monkeypatch):
    monkeypatch.chdir(tmp_path_factory.mktemp("elsewhere"))
    (home / "mine.csv").touch()
    assert find_file("mine.csv", "CSV file") == home / "mine.csv"
    assert find_file("templates/repair_notes.yaml", "template") == PROJECT / "templates/repair_notes.yaml"


def test_file_in_the_working_directory_comes_first(home, tmp_path_factory, monkeypatch):
    here = tmp_path_factory.mktemp("here")
    for folder in (here, home):
        (folder / "mine.csv").touch()
    monkeypatch.chdir(here)
    assert find_file("mine.csv", "CSV file").resolve() == here / "mine.csv"


def test_missing_file_is_an_error_with_its_kind_and_name(home):
    with pytest.raises(NotFoundError) as caught:
        find_file("data/none.csv", "CSV file")
    assert "CSV file" in caught.value.problem and "data/none.csv" in caught.value.problem


@pytest.mark.parametrize("name", ["../up", "", ".", "/etc", "a/../.."])
def test_name_that_leads_out_of_its_folder_is_refused(tmp_path, name):
    with pytest.raises(UsageError) as caught:
        resolve_inside(tmp_path, name, "model")
    assert f"'{name}'" in caught.value.problem


def test_name_inside_its_folder_becomes_a_path(tmp_path):
    assert resolve_inside(tmp_path, "a/../b", "model") == tmp_path.resolve() / "b"


def test_link_inside_a_folder_keeps_its_name_wherever_it_leads(tmp_path):
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "models").mkdir()
    (tmp_path / "models" / "mine").symlink_to(tmp_path / "elsewhere")
    assert resolve_inside(tmp_path / "models", "mine", "model") == tmp_path.resolve() / "models" / "mine"


def test_name_that_leads_out_through_a_link_is_refused(tmp_path):
    (tmp_path / "models").mkdir()
    (tmp_path / "models" / "mine").symlink_to(tmp_path)
    with pytest.raises(UsageError):
        resolve_inside(tmp_path / "models", "mine/../../secret", "model")


def test_folder_that_is_itself_a_link_has_the_same_names(tmp_path):
    (tmp_path / "disk" / "a").mkdir(parents=True)
    (tmp_path / "models").symlink_to(tmp_path / "disk")
    assert resolve_inside(tmp_path / "models", "a", "model").samefile(tmp_path / "disk" / "a")


def test_file_in_place_of_the_folder_of_models_is_called_so(tmp_path):
    (tmp_path / "models").touch()
    for find, what in ((find_model, "model"), (find_adapter, "LoRA")):
        with pytest.raises(NotFoundError, match="models is not a folder") as caught:
            find("mine", tmp_path / "models")
        assert what in caught.value.remedy


def test_link_whose_target_is_gone_is_named_with_its_target(tmp_path):
    (tmp_path / "mine").symlink_to(tmp_path / "unmounted")
    with pytest.raises(NotFoundError) as caught:
        resolve_inside(tmp_path, "mine", "model")
    assert str(tmp_path / "unmounted") in caught.value.problem


def test_file_that_is_there_needs_no_home(no_home):
    (no_home / "mine.csv").write_text("a\n1\n")
    assert str(find_file("mine.csv", "table")) == "mine.csv"
    with pytest.raises(NotFoundError, match=r"No table at yours\.csv\."):
        find_file("yours.csv", "table")


def test_home_of_an_unknown_user_is_a_usage_error(monkeypatch):
    monkeypatch.setenv("OPEN_LLM_KIT_HOME", "~no-such-user/kit")
    with pytest.raises(UsageError, match="no-such-user"):
        find_home()
    with pytest.raises(UsageError, match="no-such-user"):
        find_file("~no-such-user/rows.csv", "table")
