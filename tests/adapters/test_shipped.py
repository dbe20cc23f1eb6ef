"""The LoRA that comes with the kit: small, trained on the lessons' own split, as good as it says."""

import pytest
from safetensors import safe_open

from helpers import adapters, evaluation, loading
from helpers.adapters.folders import SHIPPED
from helpers.common.errors import NotFoundError
from helpers.common.files import hash_file
from helpers.common.lanes import LANES
from helpers.common.presets import pick_settings
from helpers.tasks.data import hash_rows
from helpers.tutorial import Task, ensure_adapter, find_ready
from tools.ship_lora import NAME, PRESET, TASK

SHA256 = "ec22877a187c6477764635e5776ff9d00ecfc6f0fffa076f006f96522783f2fc"


@pytest.fixture
def folder():
    return adapters.find_adapter(NAME)


def test_weights_are_those_that_were_committed_in_16_bits_and_below_10_mb(folder):
    assert hash_file(folder.weights) == SHA256
    assert sum(path.stat().st_size for path in folder.path.iterdir()) < 10_000_000
    with safe_open(folder.weights, framework="pt") as file:
        assert {file.get_slice(name).get_dtype() for name in file.keys()} == {"F16"}


def test_no_comment_that_the_lessons_judge_was_trained_on(folder):
    data = TASK.load()
    assert folder.run["split"] == {"seed": 0, "test_size": 0.2, "validation_size": 0.0}
    assert folder.run["rows_sha256"] == hash_rows(data.train)
    assert not {row["text"] for row in data.train} & {row["text"] for row in data.test}


def test_settings_are_those_of_the_preset(folder):
    settings = pick_settings(PRESET)
    assert {key: folder.run["settings"][key] for key in ("lora_r", "epochs", "learning_rate", "seed")} == {
        key: getattr(settings, key) for key in ("lora_r", "epochs", "learning_rate", "seed")
    }


def test_it_is_found_like_a_lora_in_loras_and_listed(home):
    assert adapters.find_adapter(NAME).path.parent == SHIPPED
    assert NAME in adapters.list_shipped() and NAME not in adapters.list_folders()
    with pytest.raises(NotFoundError, match=NAME):
        adapters.find_adapter("mine")


def test_lora_of_the_same_name_in_loras_comes_first(home):
    (home / "loras" / NAME).mkdir(parents=True)
    assert adapters.AdapterFolder(home / "loras" / NAME).path == adapters.folders.locate_adapter(NAME)


def test_another_folder_of_loras_does_not_have_it(tmp_path):
    with pytest.raises(NotFoundError):
        adapters.find_adapter(NAME, tmp_path)


def test_lesson_5_alone_takes_it_and_other_tasks_do_not(home):
    assert ensure_adapter(TASK, LANES["tiny"]).name == NAME
    assert find_ready(Task("repair_notes"), LANES["tiny"]) is None
    assert find_ready(TASK, LANES["t4"]) is None


@pytest.mark.real
def test_it_is_as_good_as_its_record_says(folder, real_model_name):
    data = TASK.load()
    loaded = adapters.attach_adapter(loading.load_model(real_model_name), NAME)
    found = evaluation.evaluate(loaded, data.test, data.template, progress=False)
    recorded = folder.run["evaluation"]["lora"]["accuracy"]
    assert found.accuracy == pytest.approx(recorded, abs=3 / len(data.test))
    bag = folder.run["baselines"]["bag of words"]["accuracy"]
    assert recorded > bag + 0.15
    assert all(finding.passed is not False for finding in adapters.prove(loaded, NAME, data.template))
