"""What this computer has: device, dtype, memory, each with the reason; and the lane that fits it.

A lane is a set of settings for a class of machine. The notebooks' cells are the same in every lane; `KIT_LANE` overrides the choice.
"""

import ctypes
import gc
import os
import platform
import re
import sys
from pathlib import Path
from typing import Any, NamedTuple

import psutil
import torch


class Choice(NamedTuple):
    """A detected value and, in words, why it is this one."""

    value: Any
    reason: str


def pick_device() -> Choice:
    """'cuda' or 'cpu', as torch names them. Apple's MPS is left aside: nothing in this kit was measured on it."""
    if torch.cuda.is_available():
        return Choice("cuda", f"torch sees {torch.cuda.get_device_name(0)}")
    if torch.version.cuda is None:
        return Choice("cpu", "this torch is built without CUDA")
    return Choice("cpu", "torch finds no CUDA device")


def pick_dtype(device: str | None = None) -> Choice:
    """The torch dtype to compute in: bfloat16 where the hardware multiplies it natively, else float16 on a GPU, float32 on a CPU."""
    if (device or pick_device().value) == "cuda":
        if torch.cuda.get_device_capability() >= (8, 0):
            return Choice(torch.bfloat16, "the GPU has bfloat16 (compute capability 8.0 or newer)")
        return Choice(torch.float16, "the GPU is older than compute capability 8.0: no bfloat16")
    if cpu_multiplies_bfloat16():
        return Choice(torch.bfloat16, "the CPU multiplies bfloat16 natively (AVX512-BF16 or AMX)")
    return Choice(torch.float32, "the CPU has no bfloat16 instructions; emulating them would be slow")


def cpu_multiplies_bfloat16() -> bool:
    """True when Linux reports AVX512-BF16 or AMX-BF16; False elsewhere, where nothing reports it."""
    try:
        with open("/proc/cpuinfo", encoding="utf-8") as file:
            flags = next((line for line in file if line.startswith("flags")), "")
    except OSError:
        return False
    return "avx512_bf16" in flags or "amx_bf16" in flags


def measure_memory(device: str | None = None) -> Choice:
    """(free, total) bytes of the memory that models go to: the GPU's, else the computer's."""
    if (device or pick_device().value) == "cuda":
        return Choice(torch.cuda.mem_get_info(), "the GPU's memory, as CUDA reports it")
    memory = psutil.virtual_memory()
    return Choice(
        (memory.available, memory.total), "the computer's memory, as the operating system reports it"
    )


def measure_used(device: str | None = None) -> Choice:
    """Bytes this process holds now: of the GPU's memory where models go there, else resident memory."""
    if (device or pick_device().value) == "cuda":
        return Choice(torch.cuda.memory_allocated(), "GPU memory that torch has given to tensors")
    return Choice(
        psutil.Process().memory_info().rss,
        "resident memory of this process, Python and its libraries included",
    )


def name_device() -> str:
    """One line for a run record, such as 'NVIDIA H100' or 'CPU, 2 cores, bfloat16'."""
    if pick_device().value == "cuda":
        return torch.cuda.get_device_name(0)
    return f"CPU, {os.cpu_count()} cores, {str(pick_dtype('cpu').value).removeprefix('torch.')}"


def measure_peak_mb() -> int:
    """Highest memory of this process so far, in MB (1e6 bytes): the GPU's where there is one, else resident memory."""
    if torch.cuda.is_available():
        return int(torch.cuda.max_memory_allocated() / 1e6)
    if platform.system() == "Windows":
        return int(psutil.Process().memory_info().peak_wset / 1e6)
    status = Path(
        "/proc/self/status"
    )  # ru_maxrss would begin with the peak of the process that started this one
    if found := re.search(r"VmHWM:\s+(\d+) kB", status.read_text()) if status.is_file() else None:
        return int(found[1]) * 1024 // 1_000_000
    import resource  # does not exist on Windows

    unit = 1 if sys.platform == "darwin" else 1024  # ru_maxrss: bytes on a Mac, kilobytes on Linux
    return int(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 1e6)


def free_memory() -> str:
    """Returns freed memory to the system after a `del`; says in words what is free now. Source: torch's notes on memory management."""
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
    if sys.platform == "linux" and (trim := getattr(ctypes.CDLL(None), "malloc_trim", None)):
        trim(0)  # glibc keeps freed blocks otherwise; other C libraries have no such call
    free, total = measure_memory().value
    return f"{free / 1e9:.1f} of {total / 1e9:.1f} GB free"
