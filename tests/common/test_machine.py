"""What this computer has."""

import subprocess
import sys

import pytest
import torch
from support.tiny import make_tiny_model

from helpers.common.command import run_command
from helpers.common.errors import UnsupportedError, UsageError
from helpers.common.lanes import pick_lane
from helpers.common.machine import (
    cpu_multiplies_bfloat16,
    measure_memory,
    name_device,
    name_dtype,
    pick_device,
    pick_dtype,
)
from helpers.weights.__main__ import main

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


# A device that is asked for


def test_device_can_be_asked_for(monkeypatch):
    monkeypatch.setenv("KIT_DEVICE", "cpu")
    assert pick_device() == ("cpu", "KIT_DEVICE asks for it")


@pytest.mark.parametrize("device", ["mps", "cuda"])
def test_device_that_is_not_there_is_refused_with_the_remedy(monkeypatch, device):
    there = {"mps": torch.backends.mps, "cuda": torch.cuda}[device]
    if there.is_available():
        pytest.skip(f"this computer has {device}")
    monkeypatch.setenv("KIT_DEVICE", device)
    with pytest.raises(UnsupportedError, match=f"{device}.*KIT_DEVICE"):
        pick_device()


def test_unknown_device_is_refused_with_those_that_there_are(monkeypatch):
    monkeypatch.setenv("KIT_DEVICE", "tpu")
    with pytest.raises(UsageError, match="'tpu'.*cpu, cuda, mps"):
        pick_device()


def test_mps_is_taken_on_request_only_and_said_to_be_unmeasured(monkeypatch):
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: True)
    monkeypatch.delenv("KIT_DEVICE", raising=False)
    assert pick_device().value != "mps"
    monkeypatch.setenv("KIT_DEVICE", "mps")
    with pytest.warns(UserWarning, match="never run on MPS"):
        device = pick_device()
        assert pick_lane().value.name == "tiny"
        assert name_device().startswith("Apple GPU")
    assert device.value == "mps" and "not known" in device.reason
    assert pick_dtype("mps").value == torch.float32
    assert measure_memory("mps").value[0] > 0


@pytest.mark.parametrize("capability", [(7, 0), (7, 5), (8, 0), (9, 0)])
def test_dtype_of_a_gpu_follows_its_compute_capability(capability):
    wanted = torch.bfloat16 if capability >= (8, 0) else torch.float16
    assert pick_dtype("cuda", capability).value == wanted


def test_command_without_the_device_that_is_asked_for_ends_with_one_line(monkeypatch, home, capsys):
    if torch.backends.mps.is_available():
        pytest.skip("this computer has MPS")
    make_tiny_model(home / "models" / "tiny")
    monkeypatch.setenv("KIT_DEVICE", "mps")
    capsys.readouterr()
    assert run_command(main, ["size", "tiny"]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert "mps" in line and "KIT_DEVICE" in line
