"""What the lessons take, as measured: one recorded run for each lane, in benchmarks/tutorial.json.

`python -m helpers.tutorial --in-place` records a run. `python -m tools.cost_boxes` then brings the boxes in
the lessons and the table in README.md in step with the records.
"""

from pathlib import Path
from typing import Any

from helpers.common import lanes
from helpers.common.files import read_json, write_json
from helpers.common.paths import PROJECT, find_home
from helpers.weights.folders import models_folder

RECORDS = "benchmarks/tutorial.json"  # {lane: the report of the run whose outputs the lessons show}


def read_records(project: Path = PROJECT, form: Any = dict[str, dict[str, Any]]) -> dict[str, dict[str, Any]]:
    """{lane: report.json of its run, with a `date`}; {} if no run is recorded.

    A DamagedError for a file of another `form` (helpers.common.forms).
    """
    path = project / RECORDS
    if not path.is_file():
        return {}
    return read_json(path, "Bring it back: git checkout " + RECORDS, form)


def add_record(lane: str, report: dict[str, Any], project: Path = PROJECT) -> None:
    """Records a run; it replaces the older one of that lane."""
    write_json(project / RECORDS, {**read_records(project), lane: report})


def measure_disk(since: float) -> int:
    """Bytes on disk that a lesson needs: the lane's model, and what was written to the home after `since`.

    `since` is a time in seconds, as time.time() gives it. The home's folders are models/, loras/ and runs/.
    """
    model = models_folder() / lanes.pick_lane().value.folder
    total = 0
    for name in ("models", "loras", "runs"):
        for path in (find_home() / name).rglob("*"):
            if not path.is_file():
                continue
            facts = path.stat()
            if path.is_relative_to(model) or facts.st_mtime >= since:
                total += facts.st_size
    return total
