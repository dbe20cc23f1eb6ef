"""What this computer has: device, number format, memory, each with the reason.

torch is imported only when a function needs it.
"""

import ctypes
import gc
import os
import platform
import re
import sys
import warnings
from pathlib import Path
from typing import TYPE_CHECKING, Generic, NamedTuple, TypeVar

import psutil

from helpers.common.errors import UnsupportedError, UsageError

if TYPE_CHECKING:
    import torch

T = TypeVar("T")

DEVICE = "KIT_DEVICE"  # environment variable
MPS = "The kit was never run on MPS: whether it is right and how fast it is there is not known."


class Choice(NamedTuple, Generic[T]):
    """A detected value and, in words, the reason for it."""

    value: T
    reason: str


def pick_device() -> Choice[str]:
    """The device to compute on: "cuda" or "cpu", or what KIT_DEVICE asks for.

    Apple's "mps" is taken on request only, since nothing was measured on it. Raises UsageError for another
    name, UnsupportedError for a device that is not there.
    """
    import torch

    if asked := os.environ.get(DEVICE):
        return check_device(asked)
    if torch.cuda.is_available():
        return Choice("cuda", f"torch sees {torch.cuda.get_device_name(0)}")
    if torch.version.cuda is None:
        return Choice("cpu", "this torch is built without CUDA")
    return Choice("cpu", "torch finds no CUDA device")


def check_device(asked: str) -> Choice[str]:
    """The device that KIT_DEVICE asks for; errors as pick_device."""
    import torch

    there = {"cpu": True, "cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available()}
    if asked not in there:
        raise UsageError(f"{DEVICE} is '{asked}', which is not a device.", f"Use one of: {', '.join(there)}.")
    if not there[asked]:
        problem = f"{DEVICE} asks for {asked}, which this computer, or its torch, does not have."
        raise UnsupportedError(problem, f"Unset {DEVICE}, or set it to cpu.")
    if asked == "mps":
        warnings.warn(f"{MPS} Check its results against {DEVICE}=cpu.", stacklevel=3)
    return Choice(asked, f"{DEVICE} asks for it" + (f". {MPS}" if asked == "mps" else ""))


def pick_dtype(device: str | None = None, capability: tuple[int, int] | None = None) -> "Choice[torch.dtype]":
    """The dtype to compute in: bfloat16 where the hardware has it, else float16 (GPU) or float32 (CPU).

    `capability` is the GPU's compute capability; None asks CUDA.
    """
    import torch

    device = device or pick_device().value
    if device == "cuda":
        if (capability or torch.cuda.get_device_capability()) >= (8, 0):
            return Choice(torch.bfloat16, "the GPU has bfloat16 (compute capability 8.0 or newer)")
        return Choice(torch.float16, "the GPU is older than compute capability 8.0 and has no bfloat16")
    if device == "mps":
        return Choice(torch.float32, "the most exact format; others were not tried on MPS")
    if cpu_multiplies_bfloat16():
        return Choice(torch.bfloat16, "the CPU multiplies bfloat16 natively (AVX512-BF16 or AMX)")
    return Choice(torch.float32, "the CPU has no bfloat16 instructions; emulating them would be slow")


def name_dtype(dtype: "torch.dtype") -> str:
    """A torch dtype's name without the prefix: "bfloat16" for torch.bfloat16."""
    return str(dtype).removeprefix("torch.")


def cpu_multiplies_bfloat16() -> bool:
    """True if Linux reports AVX512-BF16 or AMX-BF16; False on other systems, which do not report it."""
    try:
        with open("/proc/cpuinfo", encoding="utf-8") as file:
            flags = next((line for line in file if line.startswith("flags")), "")
    except OSError:
        return False
    return "avx512_bf16" in flags or "amx_bf16" in flags


def measure_memory(device: str | None = None) -> Choice[tuple[int, int]]:
    """(free, total) bytes of the memory that models are loaded into: the GPU's, or else the computer's."""
    if (device or pick_device().value) == "cuda":
        import torch

        return Choice(torch.cuda.mem_get_info(), "the GPU's memory, as CUDA reports it")
    memory = psutil.virtual_memory()
    return Choice(
        (memory.available, memory.total), "the computer's memory, as the operating system reports it"
    )


def measure_used(device: str | None = None) -> Choice[int]:
    """Bytes that this process holds now: GPU memory if models are loaded there, or else resident memory."""
    if (device or pick_device().value) == "cuda":
        import torch

        return Choice(torch.cuda.memory_allocated(), "GPU memory that torch has given to tensors")
    return Choice(
        psutil.Process().memory_info().rss,
        "resident memory of this process, Python and its libraries included",
    )


def name_device() -> str:
    """One line for a run record, such as "NVIDIA H100" or "CPU, 2 cores, bfloat16"."""
    if pick_device().value == "cuda":
        import torch

        return torch.cuda.get_device_name(0)
    if pick_device().value == "mps":
        return f"Apple GPU (MPS) of {platform.machine()}"
    return f"CPU, {os.cpu_count()} cores, {name_dtype(pick_dtype('cpu').value)}"


def measure_peak_mb() -> int:
    """Peak memory of this process in MB (1e6 bytes): the GPU's if there is one, or else resident memory."""
    if pick_device().value == "cuda":
        import torch

        return int(torch.cuda.max_memory_allocated() / 1e6)
    if platform.system() == "Windows":
        return int(psutil.Process().memory_info().peak_wset / 1e6)
    # Linux: ru_maxrss would start with the peak of the process that started this one.
    status = Path("/proc/self/status")
    if found := re.search(r"VmHWM:\s+(\d+) kB", status.read_text()) if status.is_file() else None:
        return int(found[1]) * 1024 // 1_000_000
    import resource  # does not exist on Windows

    unit = 1 if sys.platform == "darwin" else 1024  # ru_maxrss: bytes on a Mac, kilobytes on Linux
    return int(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 1e6)


def free_memory() -> str:
    """Returns freed memory to the system after a `del`; says how much is free now."""
    import torch

    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
    if torch.backends.mps.is_available():
        torch.mps.empty_cache()
    if sys.platform == "linux" and (trim := getattr(ctypes.CDLL(None), "malloc_trim", None)):
        trim(0)  # glibc keeps freed blocks otherwise; other C libraries have no such call
    free, total = measure_memory().value
    return f"{free / 1e9:.1f} of {total / 1e9:.1f} GB free"
