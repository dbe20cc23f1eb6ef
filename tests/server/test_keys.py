"""Where the API key is from, that it is never shown, and how clients send it."""

import os
import subprocess
import sys
from pathlib import Path

import psutil
import pytest
import requests
from support.scripted_engine import ScriptedEngine
from support.server import serve_app

from helpers import clients
from helpers.common.errors import NotFoundError, UsageError
from helpers.server.__main__ import parse_arguments
from helpers.server.keys import KEY_VARIABLE, find_key
from helpers.server.openai_api import make_openai_app
from helpers.server.service import Service

API = ["--model", "tiny", "--extensions", "openai"]


@pytest.fixture(autouse=True)
def no_key(monkeypatch):
    """The key of whoever runs the tests is not theirs."""
    monkeypatch.delenv(KEY_VARIABLE, raising=False)


@pytest.fixture(scope="module")
def url():
    with serve_app(make_openai_app(Service(engine=ScriptedEngine()), "secret")) as address:
        yield address + "/v1/models"


@pytest.mark.parametrize("scheme", ["Bearer", "bearer", "BEARER ", "bEARER"])
def test_scheme_is_read_in_any_case(url, scheme):
    assert requests.get(url, headers={"Authorization": f"{scheme} secret"}, timeout=9).status_code == 200


@pytest.mark.parametrize(
    "sent", ["Basic secret", "secret", "bearer", "bearer Secret", "bearer  secret x", "Bearersecret"]
)
def test_key_and_scheme_must_be_right(url, sent):
    assert requests.get(url, headers={"Authorization": sent}, timeout=9).status_code == 401


def test_key_is_from_the_command_line_or_a_file_or_the_environment(tmp_path, monkeypatch):
    file = tmp_path / "key"
    file.write_text("of-file\n")
    assert parse_arguments(API).api_key is None
    for arguments, key in (
        (["--api-key", "of-line"], "of-line"),
        (["--api-key-file", str(file)], "of-file"),
        ([], "of-environment"),
        (["--no-api-key"], None),
    ):
        monkeypatch.setenv(KEY_VARIABLE, "of-environment")
        assert parse_arguments([*API, "--listen", *arguments]).api_key == key


def test_key_is_taken_out_of_the_environment(monkeypatch):
    monkeypatch.setenv(KEY_VARIABLE, "secret")
    assert find_key(None, None) == "secret"
    assert KEY_VARIABLE not in os.environ


@pytest.mark.parametrize("content", ["", "\n", "two words", "two\nlines", "schlüssel", "x" * 2000, "a\0b"])
def test_key_that_no_header_can_hold_is_refused_and_not_shown(tmp_path, content):
    file = tmp_path / "key"
    file.write_text(content, encoding="utf-8")
    for given, source in ((content, None), (None, file)):
        with pytest.raises(UsageError) as refused:
            find_key(given, source)
        assert not content.strip() or content not in str(refused.value)


@pytest.mark.parametrize("name", ["absent", "", "a\0b"])
def test_key_file_that_cannot_be_read_is_named(tmp_path, name):
    with pytest.raises(NotFoundError, match="cannot be read"):
        find_key(None, tmp_path / name)


def test_key_file_that_is_a_pipe_is_not_waited_for(tmp_path):
    os.mkfifo(tmp_path / "key")
    with pytest.raises(NotFoundError, match="not a regular file"):
        find_key(None, tmp_path / "key")


def test_command_line_has_one_source_of_a_key_at_most(tmp_path):
    with pytest.raises(UsageError, match="not allowed with"):
        parse_arguments([*API, "--api-key", "x", "--api-key-file", str(tmp_path / "key")])


def test_help_says_that_ps_shows_the_key():
    command = [sys.executable, "-m", "helpers.server", "--help"]
    shown = subprocess.run(command, capture_output=True, text=True, timeout=60).stdout
    assert "(ps)" in shown
    assert KEY_VARIABLE in shown


@pytest.mark.long
def test_key_of_a_file_is_in_no_list_of_processes_and_no_output(at_home, tmp_path):
    file = Path(tmp_path / "key")
    file.write_text("very-secret\n")
    with clients.start_server("tiny", extra=["--api-key-file", str(file), "--dtype", "float32"]) as server:
        address = server.openai_url + "/models"
        assert requests.get(address, timeout=9).status_code == 401
        key = {"Authorization": "bearer very-secret"}
        assert requests.get(address, headers=key, timeout=9).status_code == 200
        assert "very-secret" not in " ".join(psutil.Process(server.process.pid).cmdline())
        server.log.seek(0)
        assert "very-secret" not in server.log.read()
