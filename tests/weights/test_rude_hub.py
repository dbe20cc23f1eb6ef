"""A hub that is slow, endless or sends nonsense, and an environment that names no hub at all."""

import json
import time

import huggingface_hub
import pytest
from huggingface_hub import constants
from support.rude import OK, serve_bytes

from helpers.common import bounded
from helpers.common.errors import ServerError, UsageError
from helpers.common.hub_environment import check_hub_environment
from helpers.weights import downloads
from helpers.weights.downloads import RemoteFile, append_missing_bytes
from helpers.weights.hub_errors import explain_hub_errors


@pytest.fixture
def use_hub(monkeypatch, tmp_path):
    """Makes an address the hub of huggingface_hub, which reads it while it is imported."""
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(constants, "AGENT_HARNESSES_PATH", str(tmp_path / "agents.json"))
    huggingface_hub.close_session()

    def use(url):
        monkeypatch.setattr(constants, "ENDPOINT", url)
        template = url + "/{repo_id}/resolve/{revision}/{filename}"
        monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", template)

    yield use
    huggingface_hub.close_session()


@pytest.mark.parametrize("begin", [OK, b"HTTP/1.1 200 OK\r\nX: "], ids=["body", "header"])
def test_answer_that_comes_byte_by_byte_has_a_limit(begin, use_hub):
    start = time.monotonic()
    with serve_bytes(begin, forever=b" ", pause=0.05) as url, pytest.raises(ServerError, match=r"0\.3 s"):
        use_hub(url)
        with explain_hub_errors("acme/x", seconds=0.3):
            huggingface_hub.HfApi().model_info("acme/x")
    assert time.monotonic() - start < 5


def test_answer_without_an_end_is_given_up_at_a_size(use_hub, monkeypatch):
    monkeypatch.setattr(bounded, "LARGEST_REPLY", 200_000)
    with serve_bytes(OK, forever=b"x" * 10_000) as url, pytest.raises(ServerError, match="acme/x"):
        use_hub(url)
        downloads.list_files("acme/x")


def test_file_that_is_longer_than_listed_is_not_read_on(use_hub, tmp_path):
    file = RemoteFile("config.json", 10, None, "")
    with serve_bytes(OK, forever=b"x" * 10_000) as url, (tmp_path / "part").open("wb") as stream:
        use_hub(url)
        with explain_hub_errors("acme/x", seconds=None):
            append_missing_bytes("acme/x", "main", file, stream)
        assert stream.tell() <= bounded.LARGEST_REPLY


NONSENSE = [b"null", b"5", b"[]", b"{}", b'"x"', b"[" * 100_000, b"\xff", b'{"id": %s}' % (b"9" * 5000)]


@pytest.mark.parametrize("body", NONSENSE, ids=lambda body: body[:20].decode(errors="replace"))
def test_nonsense_is_a_server_error_and_is_not_kept(body, use_hub, tmp_path):
    with serve_bytes(OK, body) as url:
        use_hub(url)
        for ask in (downloads.list_files, downloads.list_branches):
            with pytest.raises(ServerError, match="did not come from a model hub"):
                ask("acme/x")
    assert not (tmp_path / "agents.json").exists()


@pytest.mark.parametrize("name", [5, None, ["x"], "a\0b", "\ud800.json"])
def test_file_with_a_name_that_is_none_is_refused(name, use_hub):
    facts = {"id": "acme/x", "sha": "a" * 40, "siblings": [{"rfilename": name, "size": 1, "blobId": "b"}]}
    with serve_bytes(OK, json.dumps(facts).encode()) as url, pytest.raises(ServerError, match="acme/x"):
        use_hub(url)
        downloads.list_files("acme/x")


def test_list_of_agents_that_was_damaged_before_does_no_harm(use_hub, tmp_path):
    (tmp_path / "agents.json").write_text("[]")
    with serve_bytes(OK, b'{"branches": [], "converts": [], "tags": []}') as url:
        use_hub(url)
        assert downloads.list_branches("acme/x") == []


@pytest.mark.parametrize(
    ("name", "value"),
    [
        *(("HF_ENDPOINT", value) for value in ("foo", "http://", "http://[bad", "http://127.0.0.1:99999", "",
            " http://127.0.0.1:1 ", "http://a b", "file:///x", "http://127.0.0.1:1/\nX: y")),
        ("HF_HUB_DOWNLOAD_TIMEOUT", "x"),
        ("HF_HUB_ETAG_TIMEOUT", "1.5"),
        ("HF_TOKEN", "äö"),
        ("HTTPS_PROXY", "foo://x"),
        ("HTTPS_PROXY", "http://[x"),
    ],
)  # fmt: skip
def test_variable_of_the_environment_that_cannot_be_used_is_named(name, value, monkeypatch):
    monkeypatch.setenv(name, value)
    with pytest.raises(UsageError, match=name):
        check_hub_environment()
    with pytest.raises(UsageError, match=name):
        downloads.list_branches("acme/x")


@pytest.mark.parametrize("proxy", ["http://127.0.0.1:1", "socks5://127.0.0.1:1", "127.0.0.1:8080", ""])
def test_usual_environment_is_taken(proxy, monkeypatch):
    monkeypatch.setenv("HTTPS_PROXY", proxy)
    monkeypatch.setenv("HF_ENDPOINT", "https://hf-mirror.com/")
    monkeypatch.setenv("HF_HUB_DOWNLOAD_TIMEOUT", "30")
    check_hub_environment()
