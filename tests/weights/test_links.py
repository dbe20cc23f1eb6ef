"""Folders and files that are links: listed and usable under the link's name."""

import pytest
from support.tiny import make_tiny_adapter, make_tiny_model

from helpers import adapters, loading, weights
from helpers.common.errors import DamagedError, NotFoundError


@pytest.fixture
def elsewhere(tmp_path_factory):
    """A folder outside the home."""
    return tmp_path_factory.mktemp("elsewhere")


def test_linked_model_folder_is_listed_and_loaded_by_the_name_of_the_link(home, elsewhere):
    (home / "models").mkdir()
    (home / "models" / "mine").symlink_to(make_tiny_model(elsewhere / "original"))
    assert weights.list_models() == ["mine"]
    assert loading.load_model("mine").name == "mine"


def test_whole_models_folder_may_be_a_link(home, elsewhere):
    make_tiny_model(elsewhere / "models" / "tiny")
    (home / "models").symlink_to(elsewhere / "models")
    assert weights.list_models() == ["tiny"]
    assert weights.find_model("tiny").name == "tiny"


def test_snapshot_of_the_hub_s_cache_is_a_model_folder(home, elsewhere):
    blobs = make_tiny_model(elsewhere / "blobs")
    snapshot = elsewhere / "snapshots" / "0123abcd"
    snapshot.mkdir(parents=True)
    for number, path in enumerate(sorted(blobs.iterdir())):
        blob = path.rename(blobs / f"{number:040x}")
        (snapshot / path.name).symlink_to(f"../../blobs/{blob.name}")
    (home / "models").mkdir()
    (home / "models" / "tiny").symlink_to(snapshot)
    assert weights.find_model("tiny").disk_bytes == sum(path.stat().st_size for path in blobs.iterdir())
    assert loading.load_model("tiny").name == "tiny"


def test_linked_lora_is_listed_and_attached_by_the_name_of_the_link(tiny, home, elsewhere):
    made = make_tiny_adapter(elsewhere / "original", home / "models" / "tiny")
    (home / "loras").mkdir()
    (home / "loras" / "mine").symlink_to(made)
    assert adapters.list_adapters() == ["mine"]
    assert "mine" in adapters.attach_adapter(tiny, "mine").model.peft_config


def test_folder_of_the_hub_s_cache_is_refused_with_the_one_to_link(home):
    (home / "models" / "models--acme--x" / "snapshots" / "0123").mkdir(parents=True)
    with pytest.raises(DamagedError, match="snapshots"):
        weights.find_model("models--acme--x")


def test_link_whose_target_is_gone_is_one_error(home, elsewhere):
    (home / "models").mkdir()
    (home / "models" / "mine").symlink_to(elsewhere / "unmounted")
    for use in (weights.find_model, weights.fetch):
        with pytest.raises(NotFoundError, match="unmounted"):
            use("mine")


def test_file_whose_target_is_gone_is_one_error(home, elsewhere):
    weights_file = make_tiny_model(home / "models" / "tiny") / "model.safetensors"
    weights_file.unlink()
    weights_file.symlink_to(elsewhere / "pruned")
    with pytest.raises(DamagedError, match="model.safetensors .*pruned"):
        weights.find_model("tiny")
