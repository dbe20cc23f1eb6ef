import json
import os
import subprocess
import sys

import pytest

from helpers import KitError, find_home
from helpers.common.command import CommandParser, run_command
from helpers.common.files import replace_when_complete, write_json
from helpers.common.paths import resolve_inside


def test_file_is_absent_when_its_writer_fails(tmp_path):
    with pytest.raises(ZeroDivisionError), replace_when_complete(tmp_path / "a.txt") as fresh:
        fresh.write_text("half")
        raise ZeroDivisionError
    assert list(tmp_path.iterdir()) == []


def test_older_file_stays_when_its_writer_fails(tmp_path):
    (tmp_path / "a.txt").write_text("old")
    with pytest.raises(ZeroDivisionError), replace_when_complete(tmp_path / "a.txt") as fresh:
        fresh.write_text("half")
        raise ZeroDivisionError
    assert (tmp_path / "a.txt").read_text() == "old"


def test_folder_takes_the_place_of_an_older_one(tmp_path):
    (tmp_path / "m").mkdir()
    (tmp_path / "m" / "old").touch()
    with replace_when_complete(tmp_path / "m") as fresh:
        fresh.mkdir()
        (fresh / "new").touch()
    assert [p.name for p in (tmp_path / "m").iterdir()] == ["new"]
    assert [p.name for p in tmp_path.iterdir()] == ["m"]


def test_leftovers_of_a_killed_process_are_removed(tmp_path):
    script = (
        "import os; from pathlib import Path; from helpers.common import replace_when_complete as replace\n"
    )
    script += f"with replace(Path({str(tmp_path)!r}) / 'a'): os._exit(9)"
    assert subprocess.run([sys.executable, "-c", script]).returncode == 9
    assert [p.suffix for p in tmp_path.iterdir()] == [".part"]
    write_json(tmp_path / "a", 1)
    assert [p.name for p in tmp_path.iterdir()] == ["a"]


@pytest.mark.parametrize("name", ["../up", "", ".", "/etc", "a/../.."])
def test_name_that_leads_out_of_its_folder_is_refused(tmp_path, name):
    with pytest.raises(KitError, match="is no name for a model"):
        resolve_inside(tmp_path, name, "model")


def test_home_is_the_nearest_parent_with_notebooks(tmp_path, monkeypatch):
    monkeypatch.delenv("OPEN_LLM_KIT_HOME", raising=False)
    (tmp_path / "notebooks" / "deep").mkdir(parents=True)
    monkeypatch.chdir(tmp_path / "notebooks" / "deep")
    assert find_home() == tmp_path.resolve()


def test_no_home_is_an_error_with_a_remedy(tmp_path, monkeypatch):
    monkeypatch.delenv("OPEN_LLM_KIT_HOME", raising=False)
    monkeypatch.chdir(tmp_path)
    with pytest.raises(KitError, match="set OPEN_LLM_KIT_HOME"):
        find_home()


def test_command_ends_with_one_line_and_code_2(capsys):
    def main(arguments):
        raise KitError("This is\nwrong.", "Do that.")

    assert run_command(main, []) == 2
    assert capsys.readouterr().err == "error: This is wrong. Do that.\n"


def test_wrong_command_line_is_one_line_too(capsys):
    def main(arguments):
        parser = CommandParser(prog="python -m helpers.thing")
        parser.add_argument("--rows", type=int, required=True)
        parser.parse_args(arguments)

    assert run_command(main, ["--rows", "many"]) == 2
    assert (
        capsys.readouterr().err
        == "error: Argument --rows: invalid int value: 'many'. See python -m helpers.thing --help.\n"
    )


def test_json_is_written_in_full(tmp_path):
    path = write_json(tmp_path / "sub" / "a.json", {"é": [1, 2]})
    assert json.loads(path.read_text(encoding="utf-8")) == {"é": [1, 2]}


def test_import_asks_openmp_to_look_shortly_and_then_sleep():
    environment = {
        key: value for key, value in os.environ.items() if key not in ("OMP_WAIT_POLICY", "GOMP_SPINCOUNT")
    }
    code = "import helpers, os; print(os.environ['OMP_WAIT_POLICY'], os.environ['GOMP_SPINCOUNT'])"
    assert subprocess.run(
        [sys.executable, "-c", code], env=environment, capture_output=True, text=True
    ).stdout.split() == ["PASSIVE", "3000"]
