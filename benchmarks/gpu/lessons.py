"""All five lessons, executed in the lane tiny: minutes, memory, and whether every cell ran."""

import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

from helpers.common.paths import PROJECT, find_home

FOLDERS = ("SmolLM2-135M-Instruct", "SmolLM2-135M-Instruct-GGUF")


def list_contestants(job: dict[str, Any]) -> list[tuple[str, Callable[[float], dict[str, Any]]]]:
    """One contestant: the tutorial."""
    return [("the five lessons, lane tiny", partial(run_lessons, job))]


def run_lessons(job: dict[str, Any], seconds: float) -> dict[str, Any]:
    """python -m helpers.tutorial in a home of its own; its report stays in the folder for the results."""
    home = Path(job["scratch"]) / "home"
    if missing := make_home(home):
        return {"error": missing}
    output = Path(job["out"]) / f"lessons-{time.strftime('%Y-%m-%d_%H-%M-%S')}"
    environment = {**os.environ, "OPEN_LLM_KIT_HOME": str(home), "KIT_LANE": "tiny"}
    command = [sys.executable, "-m", "helpers.tutorial", "--output", str(output)]
    done = subprocess.run(
        command, capture_output=True, text=True, env=environment, cwd=PROJECT, timeout=max(seconds - 1, 1)
    )
    print(done.stdout, done.stderr)
    found: dict[str, Any] = {}
    if (output / "report.json").is_file():
        report = json.loads((output / "report.json").read_text(encoding="utf-8"))
        for lesson in report["notebooks"]:
            found[lesson["name"]] = f"{lesson['minutes']} min, {lesson['peak_mb']} MB"
    if done.returncode:
        found["error"] = (done.stderr.strip().splitlines() or ["it failed"])[-1][:300]
    return found


def make_home(home: Path) -> str:
    """Copies the embedded model's folders into a home; returns what is missing, in words, or ""."""
    models = find_home() / "models"
    for name in FOLDERS:
        if not (models / name).is_dir():
            return f"the lessons need {models / name}: python -m helpers.weights fetch smollm2-135m-instruct"
        shutil.copytree(models / name, home / "models" / name, dirs_exist_ok=True)
    return ""
