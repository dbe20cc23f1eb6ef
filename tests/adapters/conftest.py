"""LoRAs for the tests of this room: two random ones, and one that the kit has trained."""

import shutil

import pytest

# torch is imported inside the fixtures: the process that only distributes the tests never needs it.


@pytest.fixture(scope="session")
def trained_once(tmp_path_factory):
    """A home with models/tiny, and loras/mine, trained on it for three steps on rows of the lessons."""
    from support.tiny import make_tiny_model

    from helpers import PROJECT, loading, tasks, training
    from helpers.common.training_settings import TrainingSettings

    home = tmp_path_factory.mktemp("home")
    template = tasks.load_template(PROJECT / "templates" / "college_preferences.yaml")
    rows = tasks.load_rows(PROJECT / "data" / "college_preferences" / "dataset.csv", template)
    data = tasks.TaskData(template, train=rows[:12], split=tasks.Split(seed=0, test_size=0.2))
    settings = TrainingSettings(lora_r=4, epochs=1, batch_size=4, learning_rate=0.01)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("OPEN_LLM_KIT_HOME", str(home))
        make_tiny_model(home / "models" / "tiny")
        loaded = loading.load_model("tiny", dtype="float32")
        training.train_lora(loaded, data, settings, home / "loras" / "mine", progress=False)
    return home


@pytest.fixture
def trained(trained_once, home):
    """The folder loras/mine in a copy of the home of `trained_once`."""
    shutil.copytree(trained_once, home, dirs_exist_ok=True)
    return home / "loras" / "mine"


@pytest.fixture
def made(home):
    """The folders loras/a and loras/b: random LoRAs for models/tiny, as PEFT saves them."""
    from support.loras import change_config
    from support.tiny import make_tiny_adapter, make_tiny_model

    model = make_tiny_model(home / "models" / "tiny")
    folders = []
    for seed, name in enumerate("ab", start=1):
        folder = make_tiny_adapter(home / "loras" / name, model, seed)
        change_config(folder, base_model_name_or_path="models/tiny")
        folders.append(folder)
    return folders


@pytest.fixture
def load_tiny(home):
    """A function that loads models/tiny, or another folder, in float32."""
    from helpers import loading

    def load(name="tiny", **options):
        return loading.load_model(name, dtype="float32", **options)

    return load
