"""Fixtures that several test files share: a home of its own, a tiny model in it, the real embedded model."""

import os

os.environ["HF_HUB_OFFLINE"] = "1"  # before huggingface_hub is imported: no test asks a hub
os.environ.setdefault("MPLBACKEND", "agg")

import pytest

# What needs torch is imported inside the fixtures: the process that only hands the tests out to others never needs it.


@pytest.fixture
def home(tmp_path, monkeypatch):
    """An empty home: models/, loras/ and runs/ of a test lie there and nowhere else."""
    monkeypatch.setenv("OPEN_LLM_KIT_HOME", str(tmp_path))
    return tmp_path


@pytest.fixture
def tiny(home):
    """A random Llama of 2 layers with a byte tokenizer, in float32, loaded from models/tiny of the home."""
    from support.tiny import make_tiny_model

    from helpers import loading

    make_tiny_model(home / "models" / "tiny")
    return loading.load_model("tiny", dtype="float32")


@pytest.fixture
def template():
    """The template of the lessons."""
    from helpers import tasks

    return tasks.load_template("templates/college_preferences.yaml")


@pytest.fixture
def rows():
    """Twelve rows, six comments, three of each label."""
    colleges = ["Alderbrook College", "Dunmarsh State University"]
    return [
        {
            "text": f"Comment number {i // 2}, {'long ' * i}",
            "alternative_a": colleges[i % 2],
            "alternative_b": colleges[1 - i % 2],
            "label": i % 4,
        }
        for i in range(12)
    ]


@pytest.fixture(scope="session")
def real_model_name():
    """The embedded model's folder name; it is fetched when it is missing."""
    from helpers import weights

    return weights.fetch("smollm2-135m-instruct", progress=False).name


@pytest.fixture(scope="module")
def browser():
    """Debian's Chromium."""
    from playwright.sync_api import sync_playwright
    from support.browser import CHROMIUM, FLAGS

    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=FLAGS)
        yield browser
        browser.close()
