"""The home that tests of this folder damage or put where it cannot be written."""

import pytest

# torch is imported inside the fixture: the process that only distributes the tests never needs it.


@pytest.fixture(scope="module")
def whole_home(tmp_path_factory):
    """The folder of support.whole_home, with loras/mine trained and judged in it."""
    from support.whole_home import JUDGE, TRAIN, make_models, run, write_data

    home = tmp_path_factory.mktemp("whole") / "home"
    write_data(home)
    make_models(home)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("OPEN_LLM_KIT_HOME", str(home))
        patch.setenv("KIT_LANE", "tiny")
        for command in (f"{TRAIN}mine", f"{JUDGE} --lora mine --base --split test"):
            assert run(command) == 0
        yield home
