"""What the lessons take, as measured: the runs recorded in benchmarks/tutorial.json, one for each lane."""

import json
from pathlib import Path

from helpers.common import lanes
from helpers.common.files import write_json
from helpers.common.paths import PROJECT, find_home
from helpers.weights import folders

RECORDS = "benchmarks/tutorial.json"  # lane -> report of the run whose outputs the notebooks show


def read_records(project: Path = PROJECT) -> dict[str, dict]:
    """The recorded runs: lane -> report.json of that run, with its `date`; empty where none is recorded."""
    path = project / RECORDS
    return json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}


def measure_disk(since: float) -> int:
    """Bytes that a lesson needs on the disk: the lane's model, and what was written to models/, loras/ and runs/ `since` (seconds, time.time)."""
    model = folders.models_folder() / lanes.pick_lane().value.folder
    files = [
        path
        for name in ("models", "loras", "runs")
        for path in (find_home() / name).rglob("*")
        if path.is_file()
    ]
    return sum(
        path.stat().st_size for path in files if path.is_relative_to(model) or path.stat().st_mtime >= since
    )


def add_record(lane: str, report: dict, project: Path = PROJECT) -> None:
    """Records a run in the place of that lane's older one; `python -m tools.cost_boxes` brings the lessons in step."""
    write_json(project / RECORDS, {**read_records(project), lane: report})
