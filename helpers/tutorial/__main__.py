"""The whole tutorial in one command: every notebook run in order, each in a fresh kernel, and a report of what came out.

The report is a folder, complete or absent: the executed notebooks, report.html to read, report.json to compute with.
"""

import sys
import time
from pathlib import Path

import nbformat

from helpers.common import lanes
from helpers.common.command import CommandParser, run_command
from helpers.common.errors import KitError
from helpers.common.files import replace_when_complete, write_json
from helpers.common.paths import find_commit, find_home
from helpers.tutorial import records
from helpers.tutorial.execution import execute_notebook, find_notebooks, keep_outputs
from helpers.tutorial.report import (
    build_report,
    collect_results,
    find_missing,
    format_summary,
    render_page,
)


def main(arguments: list[str]) -> int:
    """`python -m helpers.tutorial [--only 01 03] [--output DIR] [--in-place]`. Exit code 1 when a cell failed or a result is missing."""
    parser = CommandParser(
        prog="python -m helpers.tutorial",
        description="Runs the notebooks in order and reports what came out.",
    )
    parser.add_argument(
        "--only",
        nargs="+",
        default=[],
        metavar="START",
        help="only the notebooks whose names begin so, such as 01 03",
    )
    parser.add_argument(
        "--output", type=Path, metavar="DIR", help="folder for the report (default: runs/TIMESTAMP)"
    )
    parser.add_argument(
        "--in-place",
        action="store_true",
        help="when all went well, also write the outputs back into the notebooks",
    )
    options = parser.parse_args(arguments)
    paths, commit = find_notebooks(options.only), find_commit()
    output = options.output or find_home() / "runs" / time.strftime("%Y-%m-%d_%H-%M-%S")
    if output.exists():
        raise KitError(f"{output} is there already.", "Name a folder that does not exist yet.")
    executions = []
    with replace_when_complete(output) as fresh:
        fresh.mkdir()
        for path in paths:
            executions.append(execution := execute_notebook(path))
            nbformat.write(execution.notebook, fresh / path.name)
            print(
                f"{path.stem}: {'stopped after' if execution.problem else 'done in'} {execution.minutes} minutes",
                flush=True,
            )
            if execution.problem:
                break
        report = build_report(executions, collect_results([e.notebook for e in executions]), commit)
        write_json(fresh / "report.json", report)
        (fresh / "report.html").write_text(render_page(executions, report), encoding="utf-8")
    problem = executions[-1].problem or find_missing(report)
    if options.in_place and not problem:
        keep_outputs(executions)
        if not options.only:
            records.add_record(lanes.pick_lane().value.name, {**report, "date": time.strftime("%Y-%m-%d")})
    print(f"\n{format_summary(report)}\n\nReport: {output / 'report.html'}")
    if problem:
        print(f"error: {' '.join(problem.split())}", file=sys.stderr)
    return 1 if problem else 0


if __name__ == "__main__":
    raise SystemExit(run_command(main))
