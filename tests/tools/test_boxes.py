"""The boxes of minutes, memory and disk say what the records say, and follow them."""

import json
import os
import shutil

import pytest
from support.lessons import NAMES, NOTEBOOKS, list_tagged_cells, name_pair, read_notebook

from helpers import common
from helpers.common.files import write_json
from helpers.common.paths import PROJECT
from helpers.tutorial.records import RECORDS, add_record, measure_disk, read_records
from tools.cost_boxes import TAG, write_boxes


def read_boxes(name, notebooks=NOTEBOOKS):
    """The box's table, {lane: the other columns}: as the notebook has it, and as its text pair has it."""
    path = notebooks / f"{name}.ipynb"
    [cell] = list_tagged_cells(read_notebook(path), TAG)
    pair = name_pair(path).read_text(encoding="utf-8")
    in_pair = pair[pair.index(cell.source.splitlines()[0]) :].split("# %%")[0]
    return [read_table(cell.source), read_table(in_pair)]


def read_table(text):
    """{lane: the other columns} of a table in Markdown, commented or not."""
    table = {}
    for line in text.splitlines():
        first, *others = [column.strip() for column in line.strip("# |").split("|")]
        if first in common.LANES:
            table[first] = others
    return table


def compute_columns(record, name):
    """What a line of the box should say, computed from the record; None if nothing is recorded."""
    entries = record["notebooks"] if record else []
    for entry in entries:
        if entry["name"] == name:
            minutes = str(round(entry["minutes"], 1))
            memory = f"{round(entry['peak_mb'] / 1000, 1)} GB"
            disk = f"{round(entry['disk_mb'] / 1000, 1)} GB"
            return [
                minutes,
                memory,
                disk,
                f"{record['date']} on {record['device']}, commit {record['commit']}",
            ]
    return None


@pytest.mark.parametrize("name", NAMES)
def test_box_says_for_each_lane_what_its_record_says(name):
    records = json.loads((PROJECT / "benchmarks" / "tutorial.json").read_text(encoding="utf-8"))
    expected = {lane: compute_columns(records.get(lane), name) for lane in common.LANES}
    recorded = {lane: columns for lane, columns in expected.items() if columns}
    assert read_boxes(name) == [recorded, recorded]
    [cell] = list_tagged_cells(read_notebook(NOTEBOOKS / f"{name}.ipynb"), TAG)
    [missing] = [line for line in cell.source.splitlines() if "Not run yet" in line]
    assert all((f"`{lane}`" in missing) == (lane not in recorded) for lane in common.LANES)


@pytest.mark.parametrize("name", NAMES)
def test_box_is_above_all_code(name):
    cells = read_notebook(NOTEBOOKS / f"{name}.ipynb").cells
    box = next(place for place, cell in enumerate(cells) if TAG in cell.metadata.get("tags", []))
    assert all(cell.cell_type == "markdown" for cell in cells[:box])


def find_row(readme, name):
    """The line of a lesson in README.md's table."""
    return next(line for line in readme.splitlines() if f"notebooks/{name}.ipynb" in line)


def test_readme_has_the_recorded_minutes_and_memory():
    record, readme = read_records()["tiny"], (PROJECT / "README.md").read_text(encoding="utf-8")
    for name in NAMES:
        minutes, memory, *_ = compute_columns(record, name)
        assert find_row(readme, name).endswith(f"| {minutes} | {memory.removesuffix(' GB')} |")


@pytest.fixture
def copied(tmp_path):
    """A project with the notebooks, README.md and records of this one."""
    ignored = shutil.ignore_patterns(".ipynb_checkpoints")
    shutil.copytree(NOTEBOOKS, tmp_path / "notebooks", ignore=ignored)
    (tmp_path / "benchmarks").mkdir()
    for name in ("README.md", RECORDS):
        shutil.copy(PROJECT / name, tmp_path / name)
    return tmp_path


def test_nothing_changes_without_a_new_record(copied):
    assert write_boxes(copied) == []


def test_boxes_follow_a_new_record(copied):
    before = (copied / "notebooks" / "04_training.ipynb").read_text(encoding="utf-8").splitlines()
    entries = [{"name": name, "minutes": 7.25, "peak_mb": 12_340, "disk_mb": 5_670} for name in NAMES]
    run = {"commit": "0123abc", "device": "Some GPU", "date": "2030-01-02", "notebooks": entries}
    add_record("t4", run, copied)
    write_boxes(copied)
    columns = ["7.2", "12.3 GB", "5.7 GB", "2030-01-02 on Some GPU, commit 0123abc"]
    for name in NAMES:
        boxes = read_boxes(name, copied / "notebooks")
        assert [box["t4"] for box in boxes] == [columns, columns]
        assert [box["tiny"] for box in boxes] == [box["tiny"] for box in read_boxes(name)]
    after = (copied / "notebooks" / "04_training.ipynb").read_text(encoding="utf-8").splitlines()
    line, missing = [line for line in after if line not in before]
    assert (
        "Some GPU" in line
        and "Not run yet in this lane: `large`" in missing
        and len(after) == len(before) + 1
    )
    assert write_boxes(copied) == [] and set(read_records(copied)) == {"tiny", "t4"}


def test_readme_follows_the_record_of_the_tiny_lane(copied):
    entry = {"name": "03_api", "minutes": 9.9, "peak_mb": 8_800}
    write_json(copied / RECORDS, {"tiny": {**read_records()["tiny"], "notebooks": [entry]}})
    write_boxes(copied)
    readme = (copied / "README.md").read_text(encoding="utf-8")
    assert find_row(readme, "03_api").endswith("| 9.9 | 8.8 |")
    assert len(readme.splitlines()) == len((PROJECT / "README.md").read_text(encoding="utf-8").splitlines())


def test_disk_is_the_model_of_the_lane_and_what_was_written_since(home, monkeypatch):
    monkeypatch.setenv("KIT_LANE", "tiny")
    for name, size, when in (
        (f"models/{common.LANES['tiny'].folder}/model.safetensors", 1000, 0),
        ("models/another/model.safetensors", 200, 0),
        ("loras/old/adapter.safetensors", 30, 0),
        ("loras/new/adapter.safetensors", 4, 2_000_000_000),
    ):
        path = home / name
        path.parent.mkdir(parents=True)
        path.write_bytes(b"x" * size)
        os.utime(path, (when, when))
    assert measure_disk(since=1_000_000_000) == 1004
