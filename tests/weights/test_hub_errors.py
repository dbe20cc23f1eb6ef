"""What huggingface_hub raises becomes a KitError of the fitting kind; what happens around a download."""

import importlib
import json

import pytest
from huggingface_hub import errors, get_session
from support.tiny import make_tiny_model

from helpers import weights
from helpers.common.errors import (
    KitError,
    NotFoundError,
    ResourceError,
    ServerError,
    UsageError,
)
from helpers.weights import downloads
from helpers.weights.downloads import RemoteFile
from helpers.weights.fetching import choose_files
from helpers.weights.hub_errors import explain_hub_errors, is_broken_connection


def explain(error):
    """The KitError that an error becomes."""
    with pytest.raises(KitError) as caught, explain_hub_errors("acme/x"):
        raise error
    return caught.value


@pytest.mark.parametrize("number", [28, 13])  # no space left on the device, permission denied
def test_disk_that_cannot_be_written_is_not_reported_as_a_network_error(number):
    error = OSError(number, "the system's words")
    explained = explain(error)
    assert type(explained) is ResourceError
    assert "acme/x" in explained.problem and "the system's words" in explained.problem


@pytest.mark.parametrize("error", [ConnectionError("an empty reply"), TimeoutError("too slow")])
def test_lost_connection_is_an_error_of_the_server(error):
    explained = explain(error)
    assert type(explained) is ServerError
    assert type(error).__name__ in explained.problem


@pytest.mark.parametrize("error", [KeyError("id"), json.JSONDecodeError("Expecting value", "<html>", 0)])
def test_answer_that_no_hub_gives_points_to_the_address(error):
    explained = explain(error)
    assert type(explained) is ServerError
    assert "HF_ENDPOINT" in explained.remedy


def test_file_that_is_gone_is_not_found():
    assert type(explain(errors.EntryNotFoundError("gone"))) is NotFoundError


def test_offline_mode_is_named():
    with pytest.raises(ServerError) as caught:  # the tests run with HF_HUB_OFFLINE=1
        downloads.list_branches("acme/x")
    assert "acme/x" in caught.value.problem and "HF_HUB_OFFLINE" in caught.value.problem


def test_name_that_cannot_be_a_repository_is_refused_without_a_request():
    with pytest.raises(UsageError) as caught:
        downloads.list_files("https://huggingface.co/acme/x")
    assert "OWNER/REPO" in caught.value.remedy


@pytest.mark.parametrize("error", [ZeroDivisionError(), KitError("Stopped.", "Go on.")])
def test_other_errors_pass_unchanged(error):
    with pytest.raises(type(error)) as caught, explain_hub_errors("acme/x"):
        raise error
    assert caught.value is error


def test_broken_connection_is_distinguished_from_other_errors():
    package = type(get_session()).__module__.split(".")[0]  # httpx or httpx2
    client = importlib.import_module(package)
    assert is_broken_connection(client.ConnectError("refused"))
    assert is_broken_connection(client.RemoteProtocolError("cut"))
    assert is_broken_connection(client.InvalidURL("no port"))
    assert not is_broken_connection(ValueError("wrong"))
    request = client.Request("GET", "https://huggingface.co/api/models/acme/x")
    refused = errors.HfHubHTTPError("refused", response=client.Response(503, request=request))
    assert not is_broken_connection(refused)


def test_weights_under_two_names_are_chosen_once():
    names = ("model.safetensors", "consolidated.safetensors", "config.json", "README.md")
    chosen = choose_files("acme/x", [RemoteFile(name, 1, None, "") for name in names])
    assert {file.name for file in chosen} == {"model.safetensors", "config.json"}


def test_clone_without_lfs_is_recognised(home):
    folder = make_tiny_model(home / "models" / "cloned")
    pointer = "version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 9\n"
    (folder / "model.safetensors").write_text(pointer)
    with pytest.raises(KitError) as caught:
        weights.find_model("cloned")
    assert "model.safetensors" in str(caught.value) and "git lfs pull" in str(caught.value)
