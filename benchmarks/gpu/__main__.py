"""python -m benchmarks.gpu: measures the parts in order, within the minutes, and survives what fails."""

import argparse
import signal
import sys
import tempfile
import time
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from benchmarks.gpu.plan import LESSONS, PARTS, TOKENIZER, Job, Part, divide, pick_parts
from benchmarks.gpu.processes import Compiler, Workers
from benchmarks.gpu.report import Report
from helpers.common import arguments as types
from helpers.common.command import CommandParser, run_command
from helpers.common.paths import PROJECT, find_home

END = 2.0  # seconds kept for killing and writing
IMPORTING = 60.0  # the most seconds that a process may take to import its libraries
EMBEDDED_NAME = "SmolLM2-135M-Instruct"
NO_UNSLOTH = "Unsloth needs an environment of its own: name its Python with --unsloth-python"


class Run:
    """The parts, one after the other; each has a deadline, and so has each of its jobs."""

    def __init__(self, report: Report, workers: Workers, compiler: Compiler, common: dict[str, Any]):
        self.report, self.workers, self.compiler, self.common = report, workers, compiler, common

    def measure(self, parts: list[Part], deadline: float) -> None:
        """Measures all parts, those last whose kernel is still being compiled when it is their turn."""
        left = list(parts)
        while left:
            self.report_compiled()
            self.wait(deadline)
            ready = [part for part in left if self.compiler.has(part.waits_for)]
            if not ready and time.monotonic() < deadline:
                self.report_compiled(min(5.0, deadline - time.monotonic()))
                continue
            part = (ready or left)[0]
            shares = [part.share, *(other.share for other in left if other is not part)]
            left.remove(part)
            later = sum(len(other.jobs) for other in left)
            self.measure_part(part, divide(deadline - time.monotonic(), shares), later, deadline)

    def wait(self, deadline: float) -> float:
        """Waits for the next process to import its libraries, at most IMPORTING; returns the seconds.

        They are taken from all that follows alike: after a failure, the next job has its whole time.
        """
        return self.workers.wait(min(deadline, time.monotonic() + IMPORTING))

    def measure_part(self, part: Part, seconds: float, later: int, end: float) -> None:
        """Measures the jobs of a part within these seconds, and before `end`; `later` jobs follow it."""
        print(f"[{part.name}] at most {seconds:.0f} s", flush=True)
        missing = self.compiler.found.get(part.waits_for or "", {}).get("error")
        if missing:
            self.report.add(part.name, {"contestant": part.waits_for, "error": f"not compiled: {missing}"})
            return
        deadline, jobs = time.monotonic() + seconds, part.jobs
        for number, job in enumerate(jobs):
            deadline = min(deadline + self.wait(end), end)
            mine = divide(deadline - time.monotonic(), [other.share for other in jobs[number:]])
            if mine < 1:
                self.report.add(part.name, {"contestant": job.name, "error": "no time was left"})
                continue
            if job.task == "unsloth" and not self.common.get("unsloth_python"):
                self.report.add(part.name, {"contestant": job.name, "error": NO_UNSLOTH})
                continue
            self.measure_job(part.name, job, mine, later + len(jobs) - number - 1)

    def measure_job(self, part: str, job: Job, seconds: float, later: int) -> None:
        """Gives a job to a process, and reports what it finds until it has done or its time is over."""
        start = time.monotonic()
        deadline = start + seconds
        task = {**self.common, "task": job.task, **job.settings, "deadline": deadline - 1}
        process = self.workers.begin(task, later)
        running, error = job.name, ""
        beside = {"beside": "nvcc"} if self.compiler.busy else {}
        try:
            for line in process.read(deadline):
                if "begins" in line:
                    running, start = line["begins"], time.monotonic()
                elif "ready" not in line:
                    self.report.add(part, line | beside)
        except TimeoutError:
            error = f"stopped at the limit of its process, {seconds:.0f} s"
        except ChildProcessError:
            error = "its process ended"
        code = self.workers.end(failed=bool(error))
        if error:
            how = f" with {code}" if error == "its process ended" and code is not None else ""
            taken = round(time.monotonic() - start, 1)
            self.report.add(part, {"contestant": running, "seconds": taken, "error": error + how})

    def report_compiled(self, seconds: float = 0) -> None:
        """Reports the kernels that were compiled since the last call."""
        for line in self.compiler.poll(seconds):
            self.report.add("compiling", {"contestant": line.pop("extension"), **line})


def parse_options(arguments: list[str]) -> argparse.Namespace:
    """The command line."""
    parser = CommandParser(prog="python -m benchmarks.gpu", description=__doc__)
    parser.add_argument("--minutes", type=types.minutes, default=8, help="for everything (default: 8)")
    names = ", ".join(part.name for part in (*PARTS, LESSONS))
    parser.add_argument(
        "--part", nargs="+", default=[], metavar="NAME", help=f"only these, of: {names} (not in the plan)"
    )
    parser.add_argument("--out", type=types.path, metavar="FOLDER", help="for the results (default: runs/)")
    parser.add_argument(
        "--carried",
        type=types.path,
        metavar="FOLDER",
        help="what tools.gpu_machine has put together (default: what this computer has in models/)",
    )
    parser.add_argument("--unsloth-python", metavar="PATH", help="Python of an environment with Unsloth")
    return parser.parse_args(arguments)


def find_tokenizer(carried: Path | None) -> str | None:
    """The folder of SmolLM2's tokenizer; None if there is none, so that one is made on the spot."""
    folders = [carried / TOKENIZER] if carried else []
    folders += [home / "models" / EMBEDDED_NAME for home in (find_home(), PROJECT)]
    return next((str(path.absolute()) for path in folders if (path / "tokenizer.json").is_file()), None)


def has_gpu() -> bool:
    """Whether torch finds a GPU; it is only asked for their number, so that this process opens none."""
    import torch

    return torch.cuda.is_available()


def main(arguments: list[str]) -> None:
    """Measures what the command line asks for."""
    start = time.monotonic()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # so that all processes are ended
    options = parse_options(arguments)
    parts = pick_parts(options.part)
    out = (options.out or find_home() / "runs").absolute()
    out.mkdir(parents=True, exist_ok=True)
    log_path = out / "gpu-benchmark.log"
    with ExitStack() as stack:
        log = stack.enter_context(log_path.open("a", encoding="utf-8"))
        scratch = stack.enter_context(tempfile.TemporaryDirectory(prefix="gpu-benchmark-"))
        workers = Workers(log)
        stack.callback(workers.close)
        on_gpu = has_gpu()  # it imports torch, as the first worker does meanwhile
        workers.keep = not on_gpu
        awaited = [part.waits_for for part in parts if part.waits_for] if on_gpu else []
        compiler = Compiler(awaited, log)
        stack.callback(compiler.close)
        tokenizer = find_tokenizer(options.carried)
        facts = {"minutes": options.minutes, "tokenizer": tokenizer or "made on the spot"}
        report = Report(out, **facts)
        if report.missing:
            print(f"Not installed, so that what needs them is left out: {', '.join(report.missing)}")
        common = {
            "scratch": scratch,
            "out": str(out),
            "tokenizer": tokenizer,
            "carried": str(options.carried.absolute()) if options.carried else None,
            "unsloth_python": options.unsloth_python,
        }
        deadline = start + 60 * options.minutes - END
        Run(report, workers, compiler, common).measure(parts, deadline)
        print(f"{report.stem}.md, {report.stem}.json, log: {log_path}")


if __name__ == "__main__":
    sys.exit(run_command(main))
