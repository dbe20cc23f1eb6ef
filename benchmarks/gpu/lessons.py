"""The lessons in each lane: minutes, memory, and whether every cell ran.

Where a lane's model is not in models/, its replica is made first (benchmarks.gpu.replicas), and every row
says so. Each lesson is a process of its own with a limit of its own, so that one that is cut leaves the
results of those before it.
"""

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch

from benchmarks.gpu.plan import HEAD, LLAMA_2, Skipped
from benchmarks.gpu.replicas import make_embedded_replica, make_gptq_replica, name_sizes
from benchmarks.gpu.report import ask_used
from benchmarks.gpu.shapes import SHAPES, TINY
from helpers.common.errors import NotFoundError
from helpers.common.lanes import LANES, Lane
from helpers.common.machine import pick_device
from helpers.common.paths import PROJECT, find_home
from helpers.tutorial.notebook_files import list_lessons
from helpers.tutorial.processes import StartedProcesses

GPTQ_SHAPES = {"t4": "7b-gptq", "large": "70b-gptq"}  # the shapes of the lanes' models
SPARE_S = 3.0  # seconds of a lesson's time for ending its processes


@dataclass
class Place:
    """A lane, and the home in which its lessons run."""

    lane: Lane
    home: Path
    carried: Path | None  # what tools.gpu_machine has put together
    out: Path

    @property
    def real(self) -> Path:
        """The folder that the real model has if it is there."""
        return find_home() / "models" / self.lane.folder

    @property
    def kind(self) -> str:
        """Which model the lessons have."""
        return "real model" if self.real.is_dir() else "replica with random weights"


def list_contestants(job: dict[str, Any]) -> list[tuple[str, Callable[[float], dict[str, Any]]]]:
    """The making of a lane's model, then each lesson; without CUDA the first lesson only."""
    carried = Path(job["carried"]) if job.get("carried") else None
    home = Path(job["scratch"]) / f"home-{job['lane']}"
    place = Place(LANES[job["lane"]], home, carried, Path(job["out"]))
    label = f"lane {place.lane.name}, {place.kind}"
    lessons = list_lessons(PROJECT / "notebooks")[: None if torch.cuda.is_available() else 1]
    run = [(f"{label}: {path.stem}", partial(run_lesson, place, path)) for path in lessons]
    return [(f"{label}: the model's folder", partial(make_home, place)), *run]


def make_home(place: Place, seconds: float = 0) -> dict[str, Any]:
    """Links or makes the model's folders in the home.

    Raises NotFoundError if what a replica is made of is not there, MemoryError for a card that is too small.
    """
    device, folder = pick_device().value, place.home / "models" / place.lane.folder
    if device == "cuda" and torch.cuda.mem_get_info()[1] / 1e9 < place.lane.gpu_gb:
        raise MemoryError(f"the lane {place.lane.name} needs a GPU of {place.lane.gpu_gb} GB")
    folder.parent.mkdir(parents=True, exist_ok=True)
    if place.real.is_dir():
        for real in place.real.parent.glob(f"{place.lane.folder}*"):
            (folder.parent / real.name).symlink_to(real)
    elif place.lane.name == "tiny":
        make_embedded_replica(find_carried(place, HEAD), folder)
    else:
        *sizes, _, group, act_order = SHAPES[GPTQ_SHAPES[place.lane.name]]
        sizes = name_sizes(*(sizes if device == "cuda" else TINY))
        make_gptq_replica(folder, find_carried(place, LLAMA_2), sizes, group, act_order, device=device)
    written = sum(path.stat().st_size for path in folder.iterdir() if path.is_file())
    return {"folder_gb": written / 1e9}


def find_carried(place: Place, name: str) -> Path:
    """What was carried under this name; NotFoundError if it was not."""
    path = place.carried / name if place.carried else None
    if path is None or not path.exists():
        problem = f"There is neither {place.real} nor a {name} to make a replica with."
        raise NotFoundError(problem, "Put it together with `python -m tools.gpu_machine`.")
    return path


def run_lesson(place: Place, notebook: Path, seconds: float) -> dict[str, Any]:
    """python -m helpers.tutorial with one lesson; its report stays in the folder for the results.

    Raises Skipped without a model, and TimeoutExpired when its seconds are over.
    """
    if not (place.home / "models" / place.lane.folder).is_dir():
        raise Skipped
    output = place.out / f"{notebook.stem}-{place.lane.name}-{time.strftime('%Y-%m-%d_%H-%M-%S')}"
    command = [sys.executable, "-m", "helpers.tutorial", "--only", notebook.stem, "--output", str(output)]
    environment = {**os.environ, "OPEN_LLM_KIT_HOME": str(place.home), "KIT_LANE": place.lane.name}
    code, said, used = run_within(command, environment, max(seconds - SPARE_S, 1))
    print(said)
    found: dict[str, Any] = {"card_gb": used} if used else {}
    if (output / "report.json").is_file():
        report = json.loads((output / "report.json").read_text(encoding="utf-8"))
        (lesson,) = report["notebooks"]
        executed = json.loads((output / notebook.name).read_text(encoding="utf-8"))
        found |= {"minutes": lesson["minutes"], "peak_mb": lesson["peak_mb"], **count_checks(executed)}
    if code:
        found["error"] = (said.strip().splitlines() or ["it failed"])[-1][:300]
    return found


def run_within(
    command: list[str], environment: dict[str, str], seconds: float
) -> tuple[int, str, float | None]:
    """(exit code, what it printed, the most GB of the card that were in use) of a command.

    Raises TimeoutExpired after the seconds, when the command and all that it started were killed.
    """
    end, most, started = time.monotonic() + seconds, ask_used(), StartedProcesses()
    process = subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, env=environment, cwd=PROJECT, text=True
    )
    while True:
        try:
            said, _ = process.communicate(timeout=max(min(2.0, end - time.monotonic()), 0.01))
            return process.returncode, said, most
        except subprocess.TimeoutExpired:
            most = max(most, ask_used() or 0) if most is not None else None
        if time.monotonic() >= end:
            started.kill()
            process.wait()
            raise subprocess.TimeoutExpired(command, seconds)


def count_checks(notebook: dict[str, Any]) -> dict[str, int]:
    """How many of a lesson's checkpoints passed and did not: random weights cannot pass all of them."""
    outputs = [output for cell in notebook["cells"] for output in cell.get("outputs", [])]
    lines = "".join("".join(output.get("text", "")) for output in outputs).splitlines()
    marks = {"checks_passed": "✅", "checks_not_passed": "❌"}
    return {name: sum(line.startswith(mark) for line in lines) for name, mark in marks.items()}
