"""The whole tutorial in one command: it runs every notebook in order and reports what came out.

Each notebook gets a new kernel. The report is a folder that is complete or absent: the executed notebooks,
report.html to read, report.json to compute with.
"""

import argparse
import sys
import time
from pathlib import Path

import nbformat

from helpers.common import arguments as types
from helpers.common import lanes
from helpers.common.command import CommandParser, run_command
from helpers.common.files import replace_when_complete, write_json
from helpers.common.locks import hold
from helpers.common.outputs import check_output, refuse_kept
from helpers.common.paths import find_commit, find_home
from helpers.tutorial.execution import Execution, execute_notebook, find_notebooks, keep_outputs
from helpers.tutorial.records import add_record
from helpers.tutorial.report import (
    Report,
    build_report,
    collect_results,
    find_unpublished,
    format_summary,
    read_table,
    render_page,
)


def main(arguments: list[str]) -> int:
    """`python -m helpers.tutorial`. Returns 1 if a cell failed or a result was not published, or else 0."""
    options = parse_options(arguments)
    paths = find_notebooks(options.only)
    commit = find_commit()  # before the run, which may take long
    output = options.output or find_home() / "runs" / time.strftime("%Y-%m-%d_%H-%M-%S")
    check_output(output, "folder", remedy="Name a folder that does not exist yet.")
    refuse_kept(output, [])
    with hold(output, "a run of the tutorial"), replace_when_complete(output) as fresh:
        fresh.mkdir()
        executions = run_notebooks(paths, fresh)
        report = write_report(executions, commit, fresh)
    problem = executions[-1].problem or find_unpublished(report)
    if options.in_place and not problem:
        keep_outputs(executions)
        if not options.only:
            record_run(report)
    print(f"\n{format_summary(report)}\n\nReport: {output / 'report.html'}")
    if problem:
        print(f"error: {' '.join(problem.split())}", file=sys.stderr)
    return 1 if problem else 0


def parse_options(arguments: list[str]) -> argparse.Namespace:
    """Reads --only, --output and --in-place."""
    parser = CommandParser(
        prog="python -m helpers.tutorial",
        description="Runs the notebooks in order and reports what came out.",
    )
    parser.add_argument(
        "--only",
        nargs="+",
        default=[],
        metavar="START",
        help="only the notebooks whose names begin with one of these, such as 01 03",
    )
    parser.add_argument(
        "--output", type=types.path, metavar="DIR", help="folder for the report (default: runs/TIMESTAMP)"
    )
    parser.add_argument(
        "--in-place",
        action="store_true",
        help="if all went well, also write the outputs back into the notebooks and, if all of them ran, "
        "record the run; `python -m tools.cost_boxes` then brings the lessons' boxes in step",
    )
    return parser.parse_args(arguments)


def run_notebooks(paths: list[Path], folder: Path) -> list[Execution]:
    """Runs notebooks up to the first that fails, and writes each of them into `folder`."""
    executions = []
    for path in paths:
        execution = execute_notebook(path)
        executions.append(execution)
        nbformat.write(execution.notebook, folder / path.name)
        outcome = "stopped after" if execution.problem else "done in"
        print(f"{path.stem}: {outcome} {execution.minutes} minutes", flush=True)
        if execution.problem:
            break
    return executions


def write_report(executions: list[Execution], commit: str, folder: Path) -> Report:
    """Writes report.json and report.html into `folder`; returns the content of report.json."""
    results = collect_results([execution.notebook for execution in executions])
    report = build_report(executions, results, commit)
    write_json(folder / "report.json", report)
    (folder / "report.html").write_text(
        render_page(executions, report, read_table(results)), encoding="utf-8"
    )
    return report


def record_run(report: Report) -> None:
    """Records a complete run in benchmarks/tutorial.json, with today's date."""
    add_record(lanes.pick_lane().value.name, {**report, "date": time.strftime("%Y-%m-%d")})


if __name__ == "__main__":
    raise SystemExit(run_command(main))
