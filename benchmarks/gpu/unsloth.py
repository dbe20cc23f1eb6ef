"""Unsloth, a contestant in an environment of its own, because it patches the libraries that it finds."""

import json
import subprocess
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

from benchmarks.gpu.shapes import SHAPES, find_tokenizer


def list_contestants(job: dict[str, Any]) -> list[tuple[str, Callable[[float], dict[str, Any]]]]:
    """Unsloth with the kit's batch; its rows are random."""
    rows = "random rows of 133 tokens, loss on every token"
    return [(f"{job['shape']}, Unsloth in 4 bits, batch {job['batch']}, {rows}", partial(run_unsloth, job))]


def run_unsloth(job: dict[str, Any], seconds: float) -> dict[str, Any]:
    """What benchmarks/gpu/unsloth_script.py measures with the Python of that environment."""
    script, folder = Path(__file__).with_name("unsloth_script.py"), Path(job["scratch"]) / "unsloth"
    find_tokenizer(job).save_pretrained(folder)
    layers, hidden, intermediate, heads, kv_heads, vocabulary, *_ = SHAPES[job["shape"]]
    shape = [layers, hidden, intermediate, heads, kv_heads, vocabulary]
    numbers = [*shape, job["batch"], job["steps"]]
    command = [job["unsloth_python"], str(script), str(folder), *map(str, numbers)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=max(seconds - 1, 1))
    lines = [line for line in done.stdout.splitlines() if line.startswith("{")]
    if done.returncode or not lines:
        print(done.stdout, done.stderr)
        reason = (done.stderr.splitlines() or ["it printed nothing"])[-1]
        return {"error": f"Unsloth ended with {done.returncode}: {reason}"[:300]}
    return json.loads(lines[-1])
