"""The boxes of minutes, memory and disk: they say what the records say, and follow them."""

import json
import os
import re
import shutil

import nbformat
import pytest

from helpers import PROJECT, common
from helpers.common.files import write_json
from helpers.tutorial.records import RECORDS, add_record, measure_disk, read_records
from tools.cost_boxes import TAG, write_boxes

NAMES = ["01_weights", "02_loading", "03_api", "04_training", "05_lora_loading"]


def read_box(name, project=PROJECT):
    """lane -> the other columns of the box's table, as the notebook has them; and the same out of its text pair."""
    notebook = nbformat.read(project / "notebooks" / f"{name}.ipynb", as_version=4)
    [cell] = [cell for cell in notebook.cells if TAG in cell.metadata.get("tags", [])]
    assert notebook.cells.index(cell) < next(
        place for place, other in enumerate(notebook.cells) if other.cell_type == "code"
    )
    pair = (project / "notebooks" / "text" / f"{name}.py").read_text(encoding="utf-8")
    return [
        {row[0]: row[1:] for row in read_table(text)}
        for text in (cell.source, pair[pair.index("**What it takes**") :].split("# %%")[0])
    ]


def read_table(text):
    rows = [
        [column.strip() for column in line.strip("# |").split("|")]
        for line in text.splitlines()
        if "|" in line
    ]
    return [row for row in rows if row[0] in common.LANES]


def compute_columns(record, name):
    """What a line of the box has to say, computed from the record."""
    found = next((entry for entry in record["notebooks"] if entry["name"] == name), None) if record else None
    if not found:
        return ["no record yet"] * 4
    disk = f"{round(found['disk_mb'] / 1000, 1)} GB" if "disk_mb" in found else "not recorded"
    where = f"{record['date']} on {record['device']}, commit {record['commit']}"
    return [str(round(found["minutes"], 1)), f"{round(found['peak_mb'] / 1000, 1)} GB", disk, where]


@pytest.mark.parametrize("name", NAMES)
def test_box_says_of_each_lane_what_its_record_says_or_that_there_is_none(name):
    records = json.loads((PROJECT / "benchmarks" / "tutorial.json").read_text(encoding="utf-8"))
    expected = {lane: compute_columns(records.get(lane), name) for lane in common.LANES}
    assert read_box(name) == [expected, expected]


def test_minutes_and_memory_of_the_readme_are_the_recorded_ones():
    record, readme = read_records()["tiny"], (PROJECT / "README.md").read_text(encoding="utf-8")
    for name in NAMES:
        minutes, memory, *_ = compute_columns(record, name)
        row = next(line for line in readme.splitlines() if f"notebooks/{name}.ipynb" in line)
        assert row.endswith(f"| {minutes} | {memory.removesuffix(' GB')} |")


@pytest.fixture
def copied(tmp_path):
    """The project's notebooks, README and records, to be written to."""
    shutil.copytree(
        PROJECT / "notebooks", tmp_path / "notebooks", ignore=shutil.ignore_patterns(".ipynb_checkpoints")
    )
    (tmp_path / "benchmarks").mkdir()
    for name in ("README.md", RECORDS):
        shutil.copy(PROJECT / name, tmp_path / name)
    return tmp_path


def test_boxes_follow_a_new_record_and_change_nothing_without_one(copied):
    assert write_boxes(copied) == []
    before = (copied / "notebooks" / "04_training.ipynb").read_text(encoding="utf-8")
    entries = [{"name": name, "minutes": 7.25, "peak_mb": 12_340, "disk_mb": 5_670} for name in NAMES]
    add_record(
        "t4", {"commit": "0123abc", "device": "Some GPU", "date": "2030-01-02", "notebooks": entries}, copied
    )
    write_boxes(copied)
    columns = ["7.2", "12.3 GB", "5.7 GB", "2030-01-02 on Some GPU, commit 0123abc"]
    for name in NAMES:
        assert [box["t4"] for box in read_box(name, copied)] == [columns] * 2 and read_box(name, copied)[0][
            "tiny"
        ] == read_box(name)[0]["tiny"]
    after = (copied / "notebooks" / "04_training.ipynb").read_text(encoding="utf-8")
    changed = [line for line in after.splitlines() if line not in before.splitlines()]
    assert (
        len(changed) == 1 and "Some GPU" in changed[0] and len(after.splitlines()) == len(before.splitlines())
    )
    assert write_boxes(copied) == [] and set(read_records(copied)) == {"tiny", "t4"}


def test_readme_follows_the_record_of_the_tiny_lane(copied):
    write_json(
        copied / RECORDS,
        {
            "tiny": {
                **read_records()["tiny"],
                "notebooks": [{"name": "03_api", "minutes": 9.9, "peak_mb": 8_800}],
            }
        },
    )
    write_boxes(copied)
    readme = (copied / "README.md").read_text(encoding="utf-8")
    assert re.search(r"03_api\.ipynb\).*\| 9\.9 \| 8\.8 \|$", readme, flags=re.M)
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
