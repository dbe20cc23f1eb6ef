"""The seed and the length of the random tests; the home in which commands are run."""

import os
import random

import pytest

SEED = int(os.environ.get("KIT_RANDOM_SEED") or random.SystemRandom().randrange(2**32))
MINUTES = float(os.environ.get("KIT_RANDOM_MINUTES", 60))


@pytest.fixture(scope="session")
def seed():
    """KIT_RANDOM_SEED, or a new one."""
    return SEED


@pytest.fixture(scope="session")
def minutes():
    """KIT_RANDOM_MINUTES of the long form: 60 by default."""
    return MINUTES


@pytest.fixture(scope="session")
def hollow_home(tmp_path_factory):
    """A home with a model without weights; it is the working directory, too."""
    from support.random_commands import make_home

    home = make_home(tmp_path_factory.mktemp("home"))
    before = os.getcwd()
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("OPEN_LLM_KIT_HOME", str(home))
        patch.setenv("PYTHONPATH", before)
        patch.chdir(home)
        yield home
