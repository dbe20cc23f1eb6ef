"""The lane for a machine."""

import pytest
import torch

from helpers.common.errors import UsageError
from helpers.common.lanes import LANES, describe, pick_lane
from helpers.common.machine import pick_device


@pytest.fixture(autouse=True)
def no_choice(monkeypatch):
    """KIT_LANE is not set."""
    monkeypatch.delenv("KIT_LANE", raising=False)


@pytest.mark.skipif(torch.cuda.is_available(), reason="this machine has a GPU")
def test_lane_of_a_cpu_is_tiny_because_there_is_no_gpu():
    lane, reason = pick_lane()
    assert lane.name == "tiny"
    assert pick_device().reason in reason


def test_lane_can_be_chosen(monkeypatch):
    monkeypatch.setenv("KIT_LANE", "large")
    assert pick_lane().value.revision == "gptq-4bit-64g-actorder_True"


def test_unknown_lane_is_refused_and_the_known_ones_are_listed(monkeypatch):
    monkeypatch.setenv("KIT_LANE", "huge")
    with pytest.raises(UsageError) as caught:
        pick_lane()
    assert "'huge'" in caught.value.problem
    assert all(name in caught.value.remedy for name in LANES)


def test_every_fact_comes_with_its_reason():
    assert all(choice.reason for choice in describe().values())
