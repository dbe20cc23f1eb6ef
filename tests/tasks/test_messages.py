"""Short messages for what cannot be a table, and where a limit is."""

import json
import os
import socket
import zipfile

import pytest

from helpers import tasks
from helpers.common.command import run_command
from helpers.common.errors import KitError, UnsupportedError
from helpers.tasks.__main__ import main


def test_column_of_a_long_name_is_not_repeated_whole(tmp_path):
    path = tmp_path / "a.csv"
    path.write_text("a" * 20_000 + ",b\n1,2\n")
    with pytest.raises(KitError) as caught:
        tasks.load_task_data(path)
    assert len(str(caught.value)) < 600


def test_zip_whose_file_leads_out_of_it_is_explained(tmp_path):
    path = tmp_path / "a.zip"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("../a.csv", "a,b\n1,2\n")
    with pytest.raises(UnsupportedError, match="lead out of it"):
        tasks.read_table(path)


def test_pipe_and_socket_are_no_files(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)  # the name of a socket must be short
    os.mkfifo("pipe.csv")
    with socket.socket(socket.AF_UNIX) as listening:
        listening.bind("s.csv")
        for name in ("pipe.csv", "s.csv"):
            with pytest.raises(UnsupportedError, match="not a file on a disk"):
                tasks.read_table(tmp_path / name)


def test_data_set_with_a_wrong_card_is_refused_briefly(tmp_path):
    card = "---\nconfigs:\n- config_name: default\n  data_files: ../../nothing.csv\n---\n"
    (tmp_path / "README.md").write_text(card)
    with pytest.raises(UnsupportedError, match="names files that are not in it") as caught:
        tasks.read_table(tmp_path)
    assert len(caught.value.problem) < 500 and "supported extension" not in caught.value.problem


def test_largest_number_is_named(tmp_path, capsys):
    path = tmp_path / "a.jsonl"
    path.write_text(json.dumps({"a": "x"}))
    assert run_command(main, ["preview", str(path), "--rows", "99999999999"]) == 2
    assert "at most 2,147,483,647" in capsys.readouterr().err


def test_output_named_dash_is_not_a_file(tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert run_command(main, ["suggest", "a.csv", "--output", "-"]) == 2
    assert "'-' is not the name of a file" in capsys.readouterr().err and not os.listdir(tmp_path)
