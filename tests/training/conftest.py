"""What the tests of this room train: twelve rows, with settings that take a second."""

import json
from dataclasses import asdict

import pytest
import yaml

PROGRAM = """
import json
from helpers import loading, tasks, training
from helpers.adapters import loras_folder

template = tasks.load_template("templates/college_preferences.yaml")
data = tasks.TaskData(template, json.load(open("rows.json")))
settings = training.TrainingSettings.from_yaml("settings.yaml")
tiny = loading.load_model("tiny", dtype="float32")
training.train_lora(tiny, data, settings, loras_folder() / "mine", progress=False)
"""


@pytest.fixture
def settings():
    """Settings for a short training; 12 rows are 12 steps."""
    from helpers.common.training_settings import TrainingSettings

    return TrainingSettings(lora_r=4, lora_dropout=0.0, epochs=2, batch_size=2, learning_rate=0.01)


@pytest.fixture
def data(template, rows):
    """The twelve rows, all of them to train on."""
    from helpers.tasks import TaskData

    return TaskData(template, rows)


@pytest.fixture
def csv(home, rows):
    """The twelve rows as a table in the home; its name."""
    import pandas as pd

    pd.DataFrame(rows).to_csv(home / "rows.csv", index=False)
    return "rows.csv"


@pytest.fixture
def write_program(home):
    """A function that writes a program which trains these rows in float32 as loras/mine; its name."""

    def write(rows, settings):
        (home / "rows.json").write_text(json.dumps(rows))
        (home / "settings.yaml").write_text(yaml.safe_dump(asdict(settings)))
        (home / "train.py").write_text(PROGRAM)
        return "train.py"

    return write
