"""The benchmark of a GPU keeps to its minutes, survives what fails, and has a short form for a CPU."""

import json
import subprocess
import sys
import time

import pytest

from benchmarks.gpu.__main__ import Run
from benchmarks.gpu.plan import LESSONS, PARTS, TOKENIZER, Job, Part, answer, divide, pick_parts
from benchmarks.gpu.processes import Compiler, Workers
from benchmarks.gpu.report import Report
from helpers.common.errors import UsageError
from helpers.common.paths import PROJECT

# A worker that does what its job is called.
WORKER = """
import json, os, subprocess, sys, time
results = os.fdopen(int(sys.argv[1]), "w", buffering=1)
results.write(json.dumps({"ready": True}) + "\\n")
for line in sys.stdin:
    job = json.loads(line)
    results.write(json.dumps({"begins": job["task"]}) + "\\n")
    if job["task"] == "hang":
        subprocess.Popen(["sleep", "600"])
        time.sleep(600)
    if job["task"] == "die":
        os._exit(3)
    results.write(json.dumps({"contestant": job["task"], "speed": 7}) + "\\n")
    results.write(json.dumps({"done": True}) + "\\n")
"""


def run_parts(folder, monkeypatch, parts, seconds, keep=False, make=Workers):
    """(the report of these parts, measured by the worker above; the workers)."""
    (folder / "scripted_worker.py").write_text(WORKER)
    monkeypatch.setenv("PYTHONPATH", str(folder))
    with (folder / "log").open("w") as log:
        workers, report = make(log, keep, "scripted_worker"), Report(folder)
        try:
            Run(report, workers, Compiler([], log), {}).measure(parts, time.monotonic() + seconds)
        finally:
            workers.close()
    return report, workers


def make_part(name, *tasks):
    return Part(name, 1, tuple(Job(task, 1) for task in tasks))


@pytest.mark.parametrize("minutes", [5, 8])
def test_limits_of_parts_and_jobs_add_up_to_the_minutes(minutes):
    left = 60 * minutes
    for number, part in enumerate(PARTS):
        mine = divide(left, [other.share for other in PARTS[number:]])
        left, part_left = left - mine, mine
        for place in range(len(part.jobs)):
            part_left -= divide(part_left, [job.share for job in part.jobs[place:]])
        assert part_left == pytest.approx(0)
    assert left == pytest.approx(0)


def test_what_a_part_does_not_use_goes_to_the_later_ones():
    first = divide(60, [1, 2, 3])
    assert divide(60 - first / 2, [2, 3]) > divide(60 - first, [2, 3])


@pytest.mark.parametrize("keep", [False, True])
def test_part_that_hangs_or_dies_is_cut_and_the_others_run(tmp_path, monkeypatch, keep):
    parts = [make_part("one", "hang"), make_part("two", "die", "work"), make_part("three", "work")]
    report, _ = run_parts(tmp_path, monkeypatch, parts, 15, keep)
    found = [(result["part"], result["contestant"], result.get("error", "")) for result in report.results]
    assert [line[:2] for line in found] == [
        ("one", "hang"),
        ("two", "die"),
        ("two", "work"),
        ("three", "work"),
    ]
    assert "stopped at the limit" in found[0][2]
    assert "ended with 3" in found[1][2]
    assert found[2][2] == found[3][2] == ""


def test_results_that_were_measured_beside_a_compiler_say_so(tmp_path, monkeypatch):
    class Compiling(Compiler):
        busy = True

    monkeypatch.setattr(sys.modules[__name__], "Compiler", Compiling)
    report, _ = run_parts(tmp_path, monkeypatch, [make_part("one", "work")], 60)
    assert report.results[0]["beside"] == "nvcc"
    monkeypatch.setattr(Compiling, "busy", False)
    report, _ = run_parts(tmp_path, monkeypatch, [make_part("one", "work")], 60)
    assert "beside" not in report.results[0]


class WatchedWorkers(Workers):
    """Notes of each job whether the process that gets it has imported its libraries."""

    def __init__(self, *arguments):
        super().__init__(*arguments)
        self.ready = []

    def begin(self, job, later):
        process = self.current if self.keep and self.current else next(iter(self.spares), None)
        self.ready.append(process is not None and process.ready)
        return super().begin(job, later)


@pytest.mark.parametrize("keep", [False, True])
def test_no_job_loses_its_time_to_the_imports_of_a_process_also_after_one_that_died(
    tmp_path, monkeypatch, keep
):
    parts = [make_part("one", "die", "work"), make_part("two", "work")]
    workers = run_parts(tmp_path, monkeypatch, parts, 60, keep, make=WatchedWorkers)[1]
    assert workers.ready == [True] * 3


def test_job_whose_package_is_missing_says_so_and_the_others_run(tmp_path, monkeypatch):
    (tmp_path / "broken_worker.py").write_text(
        "import sys\nsys.modules['trl'] = None\nfrom benchmarks.gpu import worker\nworker.main()\n"
    )
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    jobs = (Job("train", 1, {"shape": "1b"}), answer("gptq_torch", clients=[]))
    with (tmp_path / "log").open("w") as log:
        workers, report = Workers(log, True, "broken_worker"), Report(tmp_path)
        common = {"scratch": str(tmp_path)}
        Run(report, workers, Compiler([], log), common).measure(
            [Part("one", 1, jobs)], time.monotonic() + 120
        )
        workers.close()
    first, *others = report.results
    assert first["contestant"] == "train" and "trl" in first["error"]
    assert others and not any("trl" in other.get("error", "") for other in others)


def test_jobs_for_which_no_time_is_left_are_named(tmp_path, monkeypatch):
    report, _ = run_parts(tmp_path, monkeypatch, [make_part("one", "work")], -1)
    assert [result["error"] for result in report.results] == ["no time was left"]


def test_both_files_are_written_after_every_result(tmp_path):
    report = Report(tmp_path, minutes=1)
    for number in range(2):
        report.add("part", {"contestant": "the kit", "rows_per_second": 12.3456, "batch": number})
        written = json.loads(report.stem.with_suffix(".json").read_text(encoding="utf-8"))
        assert len(written["results"]) == number + 1
        assert "| the kit | 12.35 |" in report.stem.with_suffix(".md").read_text(encoding="utf-8")
    assert {"date", "card", "python", "packages", "minutes"} <= set(written)


def test_part_waits_until_its_kernel_is_compiled(tmp_path, monkeypatch):
    class Compiling(Compiler):
        asked = 0

        def has(self, name):
            self.asked += bool(name)
            return not name or self.asked > 2

    (tmp_path / "scripted_worker.py").write_text(WORKER)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    parts = [Part("waits", 1, (Job("work", 1),), "exllamav2"), make_part("two", "work")]
    with (tmp_path / "log").open("w") as log:
        workers, report = Workers(log, True, "scripted_worker"), Report(tmp_path)
        Run(report, workers, Compiling([], log), {}).measure(parts, time.monotonic() + 60)
        workers.close()
    assert [result["part"] for result in report.results] == ["two", "waits"]


def test_parts_are_picked_by_name_and_the_lessons_are_not_in_the_plan():
    assert pick_parts([]) == list(PARTS)
    assert pick_parts(["lessons"]) == [LESSONS]
    with pytest.raises(UsageError, match="answer-7b"):
        pick_parts(["answers"])


@pytest.mark.long
def test_short_form_runs_on_a_cpu(tmp_path, monkeypatch):
    from benchmarks.gpu.shapes import make_tokenizer

    pytest.importorskip("gptqmodel", reason="gptqmodel is for Linux: pip install -e '.[gptq]'")
    make_tokenizer().save_pretrained(tmp_path / "carried" / TOKENIZER)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    command = [sys.executable, "-m", "benchmarks.gpu", "--minutes", "5", "--out", str(tmp_path / "out")]
    command += ["--carried", str(tmp_path / "carried")]
    done = subprocess.run(command, cwd=PROJECT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    (path,) = (tmp_path / "out").glob("*.json")
    results = json.loads(path.read_text(encoding="utf-8"))["results"]
    assert {result["part"] for result in results} == {part.name for part in PARTS}
    without_gpu = (
        "does not support device",
        "requires CUDA",
        "CUDA is not available",
        "not installed",
        "own: name its Python",
    )
    unexpected = [
        result
        for result in results
        if result.get("error") and not any(words in result["error"] for words in without_gpu)
    ]
    assert unexpected == []
    assert all(result["finite"] for result in results if "finite" in result)
    assert {"rows_per_second", "tokens_per_second", "estimated_gb"} <= {
        name for result in results for name in result
    }
