import subprocess
import sys

import pytest
import torch

from helpers import KitError, common
from helpers.common.machine import cpu_multiplies_bfloat16


def test_lane_of_a_cpu_is_tiny(monkeypatch):
    monkeypatch.delenv("KIT_LANE", raising=False)
    if torch.cuda.is_available():
        pytest.skip("this machine has a GPU")
    lane, reason = common.pick_lane()
    assert lane.name == "tiny" and "no GPU" in reason


def test_lane_can_be_chosen(monkeypatch):
    monkeypatch.setenv("KIT_LANE", "large")
    assert common.pick_lane().value.revision == "gptq-4bit-64g-actorder_True"


def test_unknown_lane_is_refused_with_the_known_ones(monkeypatch):
    monkeypatch.setenv("KIT_LANE", "huge")
    with pytest.raises(KitError, match="tiny, t4, large"):
        common.pick_lane()


def test_every_fact_comes_with_its_reason(monkeypatch):
    monkeypatch.delenv("KIT_LANE", raising=False)
    assert all(reason for _, reason in common.describe().values())


def test_dtype_of_the_cpu_follows_its_instructions():
    expected = torch.bfloat16 if cpu_multiplies_bfloat16() else torch.float32
    assert common.pick_dtype("cpu").value == expected


def test_peak_memory_grows_with_what_is_allocated():
    before = common.measure_peak_mb()
    block = torch.ones(300_000_000, dtype=torch.uint8)
    assert torch.cuda.is_available() or common.measure_peak_mb() > before
    del block


def test_peak_of_a_process_is_its_own_and_not_its_parents():
    large = bytearray(b"x") * 2_000_000_000
    words = "from helpers.common.machine import measure_peak_mb; print(measure_peak_mb())"
    peak = int(
        subprocess.run([sys.executable, "-c", words], capture_output=True, text=True, check=True).stdout
    )
    assert 50 < peak < 1500 and len(large) == 2_000_000_000
