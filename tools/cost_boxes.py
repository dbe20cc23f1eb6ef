"""What a lesson takes: the box at its top, and two columns in README.md, written from the records of runs.

`python -m helpers.tutorial --in-place` records a run in benchmarks/tutorial.json. `python -m
tools.cost_boxes` then brings the boxes and README.md in step with the records; `make tutorial
ARGS=--in-place` calls both.
"""

import re
from pathlib import Path
from typing import Any, NotRequired, TypedDict

import nbformat

from helpers.common import lanes
from helpers.common.command import CommandParser, run_command
from helpers.common.errors import DamagedError
from helpers.common.paths import PROJECT
from helpers.tutorial.notebook_files import list_lessons, read_notebook
from helpers.tutorial.records import RECORDS, read_records
from tools.files import RESTORE, read_source, update_file

TAG = "cost"  # of the cell that is the box

Record = dict[str, Any]  # report.json of a run, with its date


class Entry(TypedDict):
    """What a record says of a notebook."""

    name: str
    minutes: float
    peak_mb: float
    disk_mb: NotRequired[float]


class RecordForm(TypedDict):
    """What a record says."""

    date: str
    device: str
    commit: str
    notebooks: list[Entry]


def main(arguments: list[str]) -> None:
    """`python -m tools.cost_boxes`. Prints the files that it changed."""
    parser = CommandParser(
        prog="python -m tools.cost_boxes",
        description="Writes minutes, memory and disk of the lessons from the recorded runs.",
    )
    parser.parse_args(arguments)
    for path in write_boxes():
        print(path.relative_to(PROJECT))


def write_boxes(project: Path = PROJECT) -> list[Path]:
    """Brings every notebook's box, its text pair and README.md in step with the records.

    Returns the files that changed.
    """
    records = read_records(project, dict[str, RecordForm])
    files: dict[Path, str] = {}
    for path in list_lessons(project / "notebooks"):
        box = build_box(path.stem, records)
        files[path] = fill_notebook(path, box)
        pair = project / "notebooks" / "text" / f"{path.stem}.py"
        files[pair] = fill_pair(read_source(pair), box)
    readme = project / "README.md"
    if "tiny" in records:
        files[readme] = fill_readme(read_source(readme), records["tiny"])
    return [path for path, text in files.items() if update_file(path, text)]


def build_box(name: str, records: dict[str, Record]) -> str:
    """The box of the notebook `name`, in Markdown: a line for each lane with a record; then the others."""
    lines = ["**What it takes**, with the weights already there:", ""]
    lines += ["| [lane](glossary.md#lane) | minutes | memory | disk | measured |", "|---|---|---|---|---|"]
    measured = {lane: describe_cost(name, lane, records.get(lane)) for lane in lanes.LANES}
    lines += [line for line in measured.values() if line]
    missing = [f"`{lane}`" for lane, line in measured.items() if not line]
    lines.append("")
    if missing:
        lines += [
            f"Not run yet in {'this lane' if len(missing) == 1 else 'these lanes'}: {', '.join(missing)}.",
            "",
        ]
    lines.append(
        f"<!-- Written by `python -m tools.cost_boxes` from `{RECORDS}`. "
        "`make tutorial ARGS=--in-place` records a run. -->"
    )
    return "\n".join(lines)


def describe_cost(name: str, lane: str, record: Record | None) -> str | None:
    """A lane's line of the table; None without a record.

    Disk is the lane's model and what the notebook wrote. Older records do not have it.
    """
    entries = record["notebooks"] if record else []
    found = next((entry for entry in entries if entry["name"] == name), None)
    if record is None or found is None:
        return None
    memory = f"{found['peak_mb'] / 1000:.1f} GB"
    disk = f"{found['disk_mb'] / 1000:.1f} GB" if "disk_mb" in found else "not recorded"
    measured = f"{record['date']} on {record['device']}, commit {record['commit']}"
    return f"| {lane} | {found['minutes']:.1f} | {memory} | {disk} | {measured} |"


def fill_notebook(path: Path, box: str) -> str:
    """The content of the notebook's file, with the box in its place."""
    notebook = read_notebook(path)
    cells = [cell for cell in notebook.cells if TAG in cell.metadata.get("tags", [])]
    if not cells:
        raise DamagedError(f"{path} has no cell with the tag {TAG}.", RESTORE)
    cells[0].source = box
    return nbformat.writes(notebook) + "\n"


def fill_pair(text: str, box: str) -> str:
    """The text pair with the box in its place: the comment lines below the header that has the tag."""
    comment = "".join(f"# {line}".rstrip() + "\n" for line in box.splitlines())
    header = rf'^# %% \[markdown\].*tags=\["{TAG}"\].*\n'
    old_comment = r"(?:#(?! %%).*\n)+"
    return re.sub(f"({header}){old_comment}", lambda found: found[1] + comment, text, flags=re.MULTILINE)


def fill_readme(text: str, record: Record) -> str:
    """README.md with minutes and memory of `record` in the last two columns of the table of lessons."""
    for entry in record["notebooks"]:
        cells = f"{entry['minutes']:.1f} | {entry['peak_mb'] / 1000:.1f} |"
        row = rf"(^\|.*notebooks/{entry['name']}\.ipynb.*\|) [^|]* \| [^|]* \|$"
        text = re.sub(row, rf"\1 {cells}", text, flags=re.MULTILINE)
    return text


if __name__ == "__main__":
    raise SystemExit(run_command(main))
