"""Fixtures that tests of several rooms share: a home for each test, a tiny model, the real model, a browser.

torch is imported inside the fixtures that need it: the process that only distributes the tests never does.
"""

import gc
import os

os.environ["HF_HUB_OFFLINE"] = "1"  # before huggingface_hub is imported, so that no test asks the real hub
os.environ.setdefault("MPLBACKEND", "agg")

if "PYTEST_XDIST_WORKER" in os.environ:
    os.environ.setdefault("OMP_NUM_THREADS", "1")  # before torch: the workers share the cores

import pytest


def pytest_configure():
    """Collects no garbage while modules are imported."""
    gc.disable()


def pytest_collection_finish():
    """Exempts the imported modules from garbage collection, which accelerate starts after each training."""
    gc.freeze()
    gc.enable()


@pytest.fixture
def home(tmp_path, monkeypatch):
    """An empty home: everything that the test puts into models/, loras/ or runs/ is in its own folder."""
    monkeypatch.setenv("OPEN_LLM_KIT_HOME", str(tmp_path))
    return tmp_path


@pytest.fixture(params=["http", "socks5"])
def proxy(request, monkeypatch):
    """What reached the proxy that the environment names, a line for each connection."""
    from support.proxy import name_proxy, run_proxy

    for name in ("HTTP", "HTTPS", "ALL", "NO"):
        for spelling in (f"{name}_PROXY", f"{name}_proxy".lower()):
            monkeypatch.setenv(spelling, "")  # so that it is restored if the kit sets it
            monkeypatch.delenv(spelling)
    with run_proxy() as (address, reached):
        for name, value in name_proxy(request.param, address).items():
            monkeypatch.setenv(name, value)
        yield reached


@pytest.fixture
def tiny(home):
    """A random Llama of 2 layers with a byte tokenizer, loaded in float32 from models/tiny."""
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
    """Twelve rows with texts of different lengths, three rows with each label."""
    colleges = ["Alderbrook College", "Dunmarsh State University"]
    return [
        {
            "text": f"Comment number {number // 2}, {'long ' * number}",
            "alternative_a": colleges[number % 2],
            "alternative_b": colleges[1 - number % 2],
            "label": number % 4,
        }
        for number in range(12)
    ]


@pytest.fixture(scope="session")
def real_model_name():
    """The folder name of the embedded model, which is fetched if it is missing."""
    from helpers import weights

    return weights.fetch("smollm2-135m-instruct", progress=False).name


@pytest.fixture(scope="module")
def browser():
    """Debian's Chromium, controlled by Playwright."""
    from playwright.sync_api import sync_playwright
    from support.browser import CHROMIUM, FLAGS

    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=FLAGS)
        yield browser
        browser.close()


# Folders of tests that start servers at the usual ports.
WITH_PORTS = (
    "server", "clients", "generation", "tutorial", "adapters", "evaluation", "lessons", "faults",
    "house", "tools",
)  # fmt: skip


def pytest_collection_modifyitems(items):
    """With --dist loadgroup, one worker has all tests that start servers; a file stays with one worker."""
    for item in items:
        room = item.path.parent.name
        item.add_marker(pytest.mark.xdist_group("ports" if room in WITH_PORTS else str(item.path)))
