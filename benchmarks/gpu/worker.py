"""A process that measures: python -m benchmarks.gpu.worker FD reads jobs as JSON and writes results to FD.

The imports come first, while another process may still be measuring; none of them touches the GPU.
"""

import contextlib
import ctypes
import gc
import json
import os
import signal
import subprocess
import sys
import time
import traceback
from collections.abc import Callable, Iterator
from functools import partial
from importlib import import_module
from typing import Any, TextIO

from benchmarks.gpu.plan import Skipped
from helpers.common.machine import measure_peak_mb
from helpers.weights._private import import_gptqmodel

Contestant = tuple[str, Callable[[float], dict[str, Any]]]  # its name, and what measures it within seconds

# name: (module, its function that lists contestants). A package that is missing ends the jobs that need it.
TASKS = {
    "answer": ("answering", "list_contestants"),
    "train": ("training", "list_contestants"),
    "unsloth": ("unsloth", "list_contestants"),
    "memory": ("memory", "list_contestants"),
    "lessons": ("lessons", "list_contestants"),
}


def end_with_parent() -> None:
    """Lets Linux kill this process when the one that started it dies, however that dies."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(1, signal.SIGKILL)  # PR_SET_PDEATHSIG


def main() -> None:
    """Measures one job after the other until the pipe is closed."""
    end_with_parent()
    import_ahead()
    gc.collect()
    gc.freeze()  # the libraries, which would be searched before each contestant
    with os.fdopen(int(sys.argv[1]), "w", buffering=1, encoding="utf-8") as results:
        write(results, {"ready": True})
        for line in sys.stdin:
            for result in measure_job(json.loads(line)):
                write(results, result)
            write(results, {"done": True})


def import_ahead() -> None:
    """Imports what the jobs need, as far as it is installed; what fails will fail again in its job."""
    modules = [f"benchmarks.gpu.{module}" for module, _ in TASKS.values()]
    for bring in (import_gptqmodel, *(partial(import_module, name) for name in dict.fromkeys(modules))):
        try:
            bring()
        except Exception:  # of any kind: libraries fail at import in many ways
            traceback.print_exc()


def list_contestants(job: dict[str, Any]) -> list[Contestant]:
    """The contestants of a job. Raises ImportError if a package that they need is missing."""
    module, function = TASKS[job["task"]]
    return getattr(import_module(f"benchmarks.gpu.{module}"), function)(job)


def write(results: TextIO, result: dict[str, Any]) -> None:
    results.write(json.dumps(result, default=str) + "\n")


def measure_job(job: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """The results of a job's contestants, who share the time that is left."""
    try:
        contestants = list_contestants(job)
    except Exception as error:
        yield {"contestant": job["task"], **describe_error(error)}
        return
    for number, (name, measure) in enumerate(contestants):
        left = job["deadline"] - time.monotonic()
        if number and left < 2:
            yield {"contestant": name, "error": "no time was left in its process"}
            continue
        yield {"begins": name}
        with contextlib.suppress(Skipped):
            yield measure_one(name, measure, left / (len(contestants) - number))


def measure_one(name: str, measure: Callable[[float], dict[str, Any]], seconds: float) -> dict[str, Any]:
    """The result of a contestant, with its seconds and its peak of memory; its error if it fails."""
    import torch

    on_gpu = torch.cuda.is_available()
    free_everything()
    held = {}
    if on_gpu:
        torch.cuda.reset_peak_memory_stats()
        held = {"held_before_gb": torch.cuda.memory_allocated() / 1e9}
    start = time.monotonic()
    try:
        found = measure(seconds)
    except Skipped:
        raise
    except Exception as error:
        found = describe_error(error)
    seconds = round(time.monotonic() - start, 1)
    if on_gpu:  # what the card must hold: the pools of CUDA graphs too
        held["peak_reserved_gb"] = torch.cuda.max_memory_reserved() / 1e9
    return {"contestant": name, **found, "peak_gb": measure_peak_mb() / 1000, **held, "seconds": seconds}


def free_everything() -> None:
    """Gives back what the contestant before has left."""
    import torch

    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()


def describe_error(error: Exception) -> dict[str, Any]:
    """The error on one line; its traceback goes to the log."""
    traceback.print_exc()
    traceback.clear_frames(error.__traceback__)  # they hold the model
    if isinstance(error, subprocess.TimeoutExpired):  # its words are the whole command
        return {"error": f"not done after {error.timeout:.0f} s"}
    return {"error": f"{type(error).__name__}: {' '.join(str(error).split())}"[:300]}


if __name__ == "__main__":
    main()
