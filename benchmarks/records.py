"""The record of a run of a benchmark: a JSON file in runs/ with date, machine, commit and options."""

import argparse
import time
from pathlib import Path
from typing import Any

from helpers import find_home
from helpers.common.files import write_json
from helpers.common.machine import name_device
from helpers.common.outputs import check_output
from helpers.common.paths import find_commit


def name_record(benchmark: str) -> Path:
    """The file of a run that begins now; errors as check_output, before the work and not after it."""
    file = f"benchmark-{benchmark}-{time.strftime('%Y-%m-%d_%H-%M-%S')}.json"
    return check_output(find_home() / "runs" / file, "file")


def keep_record(path: Path, options: argparse.Namespace, **results: Any) -> dict[str, Any]:
    """Writes the record, prints where it is, and returns it."""
    facts = {"date": time.strftime("%Y-%m-%d"), "device": name_device(), "commit": find_commit()}
    record = {**facts, **vars(options), **results}
    print(write_json(path, record))
    return record
