"""What a lesson takes: the box at its top, written from the records of runs and never by hand.

`python -m helpers.tutorial --in-place` records a run and calls this; the command here writes the boxes anew from the records that are there.
"""

import re
from pathlib import Path

import nbformat

from helpers import PROJECT
from helpers.common import lanes
from helpers.common.command import CommandParser, run_command
from helpers.common.files import replace_when_complete
from helpers.tutorial.records import RECORDS, read_records

TAG = "cost"  # of the cell that is the box


def build_box(name: str, records: dict[str, dict]) -> str:
    """The box of the notebook `name`, in Markdown: a line for each lane, also for one without a record."""
    lines = [describe_cost(name, lane, records.get(lane)) for lane in lanes.LANES]
    return "\n".join([
        "**What it takes**, with the weights already there:", "",
        "| lane | minutes | memory | disk | measured |", "|---|---|---|---|---|", *lines, "",
        f"Written by `python -m tools.cost_boxes` from `{RECORDS}`. `make tutorial ARGS=--in-place` records a run.",
    ])  # fmt: skip


def describe_cost(name: str, lane: str, record: dict | None) -> str:
    """A lane's line of the table. Disk is the lane's model and what the notebook wrote; older records lack it."""
    found = next(
        (entry for entry in (record or {"notebooks": []})["notebooks"] if entry["name"] == name), None
    )
    if found is None:
        return f"| {lane} | no record yet | no record yet | no record yet | no record yet |"
    disk = f"{found['disk_mb'] / 1000:.1f} GB" if "disk_mb" in found else "not recorded"
    where = f"{record['date']} on {record['device']}, commit {record['commit']}"
    return f"| {lane} | {found['minutes']:.1f} | {found['peak_mb'] / 1000:.1f} GB | {disk} | {where} |"


def write_boxes(project: Path = PROJECT) -> list[Path]:
    """Brings the box of every notebook, of its text pair, and the README's table in step with the records; returns the files changed."""
    records = read_records(project)
    changed = []
    for path in sorted((project / "notebooks").glob("0*.ipynb")):
        box, pair = build_box(path.stem, records), project / "notebooks" / "text" / f"{path.stem}.py"
        changed += replace_text(path, fill_notebook(path, box))
        changed += replace_text(pair, fill_pair(pair.read_text(encoding="utf-8"), box))
    readme = project / "README.md"
    return changed + replace_text(
        readme, fill_readme(readme.read_text(encoding="utf-8"), records.get("tiny", {"notebooks": []}))
    )


def fill_notebook(path: Path, box: str) -> str:
    """The notebook's file with the box in its place."""
    notebook = nbformat.read(path, as_version=4)
    next(cell for cell in notebook.cells if TAG in cell.metadata.get("tags", [])).source = box
    return nbformat.writes(notebook) + "\n"


def fill_pair(text: str, box: str) -> str:
    """The py:percent text with the box in its place: the commented lines below the header that has the tag."""
    comment = "\n".join(f"# {line}".rstrip() for line in box.splitlines())
    return re.sub(
        rf'(^# %% \[markdown\].*tags=\["{TAG}"\].*\n)(?:#(?! %%).*\n)+',
        lambda found: f"{found[1]}{comment}\n",
        text,
        flags=re.M,
    )


def fill_readme(text: str, record: dict) -> str:
    """The README with minutes and memory of the tiny lane in the last two columns of the table of lessons."""
    for entry in record["notebooks"]:
        cells = f"{entry['minutes']:.1f} | {entry['peak_mb'] / 1000:.1f} |"
        text = re.sub(
            rf"(^\|.*notebooks/{entry['name']}\.ipynb.*\|) [^|]* \| [^|]* \|$",
            rf"\1 {cells}",
            text,
            flags=re.M,
        )
    return text


def replace_text(path: Path, text: str) -> list[Path]:
    """Writes a file that differs; returns [path] when it did, [] when not."""
    if path.read_text(encoding="utf-8") == text:
        return []
    with replace_when_complete(path) as fresh:
        fresh.write_text(text, encoding="utf-8")
    return [path]


def main(arguments: list[str]) -> None:
    """`python -m tools.cost_boxes`: prints the files that were changed."""
    words = "Writes minutes, memory and disk of the lessons from the recorded runs."
    CommandParser(prog="python -m tools.cost_boxes", description=words).parse_args(arguments)
    for path in write_boxes():
        print(path.relative_to(PROJECT))


if __name__ == "__main__":
    raise SystemExit(run_command(main))
