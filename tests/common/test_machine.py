"""What this computer has."""

import subprocess
import sys

import pytest
import torch

from helpers.common.machine import cpu_multiplies_bfloat16, measure_memory, name_dtype, pick_dtype

# Prints the peak before and after 300 MB were filled.
ALLOCATE = """
import torch
from helpers.common.machine import measure_peak_mb, pick_device
before = measure_peak_mb()
torch.ones(300_000_000, dtype=torch.uint8, device=pick_device().value)
print(before, measure_peak_mb())
"""


def run_alone(code):
    """The integers that a fresh process prints; its peak memory is its own."""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    return [int(word) for word in done.stdout.split()]


def test_dtype_of_the_cpu_follows_its_instructions():
    expected = torch.bfloat16 if cpu_multiplies_bfloat16() else torch.float32
    assert pick_dtype("cpu").value == expected


def test_dtype_is_named_without_its_library():
    assert name_dtype(torch.bfloat16) == "bfloat16"


def test_free_memory_is_a_part_of_the_total():
    free, total = measure_memory("cpu").value
    assert 0 < free <= total


@pytest.mark.long
def test_peak_memory_grows_with_what_is_allocated():
    before, after = run_alone(ALLOCATE)
    assert after >= before + 250


@pytest.mark.long
def test_peak_of_a_process_is_not_that_of_its_parent():
    large = bytearray(b"x") * 2_000_000_000
    [peak] = run_alone("from helpers.common.machine import measure_peak_mb; print(measure_peak_mb())")
    assert 50 < peak < 1500 and len(large) == 2_000_000_000
