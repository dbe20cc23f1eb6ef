"""The processes that measure: each has a context on the GPU and a peak of memory of its own.

A process needs a quarter of a minute to import its libraries. So others are kept that do so while one
measures, and then wait for a job. Each is the first of a process group, which is killed as a
whole. Results come as lines of JSON through a pipe of their own; what libraries print goes to the log.
"""

import contextlib
import json
import os
import queue
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, TextIO

from helpers.common.paths import PROJECT

CACHES = Path(tempfile.gettempdir()) / "open-llm-kit-benchmark"  # what is compiled, for the next call as well

SPARES = 2  # processes that wait: some jobs are shorter than an import


def describe_environment() -> dict[str, str]:
    """The environment of all processes: offline, and caches in the folder for temporary files."""
    caches = {
        "GPTQMODEL_TORCH_EXTENSIONS_DIR": "gptqmodel",
        "TRITON_CACHE_DIR": "triton",
        "HF_DATASETS_CACHE": "datasets",
    }
    return {
        **{name: str(CACHES / folder) for name, folder in caches.items()},
        **os.environ,
        "PYTHONPATH": os.pathsep.join([str(PROJECT), os.environ.get("PYTHONPATH", "")]).rstrip(os.pathsep),
        "HF_HUB_OFFLINE": "1",
        "PYTHONUNBUFFERED": "1",
    }


class Process:
    """A program of ours that prints JSON lines."""

    def __init__(self, module: str, log: TextIO, *arguments: str, **environment: str):
        reading, writing = os.pipe()
        self.popen = subprocess.Popen(
            [sys.executable, "-m", module, str(writing), *arguments],
            stdin=subprocess.PIPE,
            stdout=log,
            stderr=log,
            pass_fds=[writing],
            env=describe_environment() | environment,
            cwd=PROJECT,
            start_new_session=True,
            text=True,
        )
        os.close(writing)
        self.lines: queue.Queue[dict[str, Any] | None] = queue.Queue()  # None: the process has ended
        self.ready = False  # whether it has said so, or will not
        threading.Thread(target=self._read, args=[reading], daemon=True).start()

    def _read(self, pipe: int) -> None:
        with os.fdopen(pipe, encoding="utf-8") as stream:
            for line in stream:
                with contextlib.suppress(ValueError):  # a line that a kill has cut
                    self.lines.put(json.loads(line))
        self.lines.put(None)

    def send(self, job: dict[str, Any]) -> None:
        """Gives a job to a worker, which may still be importing."""
        assert self.popen.stdin
        with contextlib.suppress(OSError):  # it has died, which `read` finds
            self.popen.stdin.write(json.dumps(job) + "\n")
            self.popen.stdin.flush()

    def wait(self, deadline: float) -> None:
        """Waits until it is ready for a job, or has died, or until the deadline."""
        if not self.ready:
            with contextlib.suppress(TimeoutError, ChildProcessError):
                next(self.read(deadline))
            self.ready = True

    def read(self, deadline: float) -> Iterator[dict[str, Any]]:
        """Yields what arrives, up to {"done": true}. TimeoutError at the deadline, ChildProcessError before.

        `deadline` is on the clock of time.monotonic.
        """
        while True:
            try:
                line = self.lines.get(timeout=max(deadline - time.monotonic(), 0.01))
            except queue.Empty:
                raise TimeoutError from None
            if line is None:
                self.lines.put(None)  # for whoever reads next
                raise ChildProcessError
            if line.get("done"):
                return
            yield line

    def kill(self) -> int | None:
        """Kills the process and all that it has started; returns its exit code, if there is one by then."""
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(self.popen.pid, signal.SIGKILL)
        with contextlib.suppress(subprocess.TimeoutExpired):
            self.popen.wait(5)
        return self.popen.returncode


class Workers:
    """The process that measures, and those that wait. `keep`: one process for all jobs, as a CPU has it."""

    def __init__(self, log: TextIO, keep: bool = False, module: str = "benchmarks.gpu.worker"):
        self.log, self.keep, self.module = log, keep, module
        self.current: Process | None = None
        self.spares = [Process(module, log)]

    def wait(self, deadline: float) -> float:
        """Waits until the next process has imported its libraries, or the deadline; returns the seconds."""
        start = time.monotonic()
        if not (self.keep and self.current):
            if not self.spares:
                self.spares.append(Process(self.module, self.log))
            self.spares[0].wait(deadline)
        return time.monotonic() - start

    def begin(self, job: dict[str, Any], later: int) -> Process:
        """A process with this job. Others begin to import for the jobs that follow, `later` of them."""
        if not (self.keep and self.current):
            self.current = self.spares.pop(0) if self.spares else Process(self.module, self.log)
        while not self.keep and len(self.spares) < min(later, SPARES):
            self.spares.append(Process(self.module, self.log))
        self.current.send(job)
        return self.current

    def end(self, failed: bool) -> int | None:
        """Ends the process that measured, unless it is kept and has not failed; its exit code."""
        if self.current and (failed or not self.keep):
            code, self.current = self.current.kill(), None
            return code
        return None

    def close(self) -> None:
        """Ends all."""
        for process in (self.current, *self.spares):
            if process:
                process.kill()


class Compiler:
    """The process that compiles gptqmodel's kernels for CUDA in the background, and what it said so far."""

    def __init__(self, names: list[str], log: TextIO):
        jobs = str(max(1, (os.cpu_count() or 2) // 2))
        self.process = Process("benchmarks.gpu.compiling", log, *names, MAX_JOBS=jobs) if names else None
        self.found: dict[str, dict[str, Any]] = {}

    def poll(self, seconds: float = 0) -> list[dict[str, Any]]:
        """The new lines, each about an extension; waits for `seconds` at most."""
        new = []
        with contextlib.suppress(TimeoutError, ChildProcessError):
            for line in self.process.read(time.monotonic() + seconds) if self.process else ():
                new.append(line)
                self.found[line["extension"]] = line
        return new

    def has(self, name: str | None) -> bool:
        """True if the extension is compiled, or will not be, or none is meant."""
        return (
            name is None
            or self.process is None
            or name in self.found
            or self.process.popen.poll() is not None
        )

    @property
    def busy(self) -> bool:
        """Whether it is compiling, on half of the cores: what is measured meanwhile may be slower for it."""
        return self.process is not None and self.process.popen.poll() is None

    def close(self) -> None:
        """Ends it."""
        if self.process:
            self.process.kill()
