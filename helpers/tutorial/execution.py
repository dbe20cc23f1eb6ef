"""Runs notebooks: each in a new kernel, with its time, its memory, and the error that ended it, if any."""

import concurrent.futures
import copy
import os
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import nbformat
from jupyter_client.kernelspec import KernelSpecManager
from jupyter_client.manager import AsyncKernelManager
from nbclient import NotebookClient
from nbclient.exceptions import CellExecutionError, DeadKernelError
from nbformat import NotebookNode
from tqdm import tqdm

from helpers.common import lanes
from helpers.common.errors import NotFoundError, UsageError
from helpers.common.files import replace_when_complete
from helpers.common.paths import PROJECT, find_home
from helpers.tutorial.notebook_files import clean_notebook, list_lessons, read_notebook
from helpers.tutorial.processes import StartedProcesses
from helpers.tutorial.records import measure_disk
from helpers.weights.folders import list_models

WATCH_S = 0.5  # seconds between two looks at the memory


@dataclass
class Execution:
    """One notebook after its run."""

    path: Path
    notebook: NotebookNode  # with outputs, up to the cell that failed
    minutes: float
    peak_mb: int  # memory of the kernel and its child processes together, 1e6 bytes
    disk_mb: int  # the lane's model and what the notebook wrote, 1e6 bytes
    problem: str = ""  # notebook, cell and error, in words; empty if all went well


def find_notebooks(only: list[str]) -> list[Path]:
    """The notebooks 0*.ipynb in notebooks/ of the home, or else of the project, in order.

    `only` keeps those whose names begin with one of its entries. Raises NotFoundError if there is no
    notebook, UsageError if an entry fits none.
    """
    paths = list_lessons(find_home() / "notebooks", True) or list_lessons(PROJECT / "notebooks", True)
    if not paths:
        problem = f"No notebook 0*.ipynb in {find_home() / 'notebooks'}."
        raise NotFoundError(problem, "Run this inside the kit's folder.")
    for start in only:
        if not any(path.name.startswith(start) for path in paths):
            names = ", ".join(path.stem for path in paths)
            raise UsageError(f"No notebook begins with '{start}'.", f"There are {names}.")
    if not only:
        return paths
    return [path for path in paths if path.name.startswith(tuple(only))]


def execute_notebook(path: Path) -> Execution:
    """Runs one notebook in its own folder and a new kernel. A cell that fails ends it.

    Ctrl-C kills the kernel and everything it has started, before KeyboardInterrupt is raised.
    """
    notebook = read_notebook(path)
    metadata = copy.deepcopy(notebook.metadata)
    started, started_at = time.monotonic(), time.time()
    begun: list[NotebookNode] = []  # the code cells so far; the last one is running or has failed
    with show_progress(path.stem, notebook) as bar:

        def note_cell(cell: NotebookNode, cell_index: int) -> None:
            begun.append(cell)
            bar.update()

        client = make_client(notebook, path.parent, note_cell)
        peak, error = run_client(client, bar)
    clean_notebook(notebook, metadata)
    return Execution(
        path=path,
        notebook=notebook,
        minutes=round((time.monotonic() - started) / 60, 2),
        peak_mb=int(peak / 1e6),
        disk_mb=int(measure_disk(since=started_at) / 1e6),
        problem=describe_problem(path.stem, begun, error),
    )


def show_progress(name: str, notebook: NotebookNode) -> tqdm:
    """A bar that counts code cells; in a log file, it is not drawn."""
    cells = [cell for cell in notebook.cells if cell.cell_type == "code" and cell.source.strip()]
    layout = "{desc}: cell {n_fmt} of {total_fmt}, {elapsed}"
    return tqdm(total=len(cells), desc=name, bar_format=layout, disable=None)


def make_client(notebook: NotebookNode, folder: Path, on_cell: Callable[..., None]) -> NotebookClient:
    """The client that runs a notebook in `folder`. It calls on_cell(cell, cell_index) before each code cell.

    Its kernel runs in the Python that runs this, whatever kernels the user has installed.
    """
    manager = AsyncKernelManager(
        kernel_name="python3",
        kernel_spec_manager=KernelSpecManager(kernel_dirs=[]),
    )
    return NotebookClient(
        notebook,
        km=manager,
        timeout=None,
        resources={"metadata": {"path": str(folder)}},
        record_timing=False,
        store_widget_state=False,
        coalesce_streams=True,
        on_cell_execute=on_cell,
        # ipykernel warns that it listens without encryption; it listens on this computer only.
        extra_arguments=["--log-level=ERROR"],
    )


def run_client(client: NotebookClient, bar: tqdm) -> tuple[int, BaseException | None]:
    """Runs the notebook in a thread; returns the peak memory of its processes, in bytes, and its error."""
    peak = 0
    processes = StartedProcesses()
    with concurrent.futures.ThreadPoolExecutor(1) as pool:
        # cleanup_kc: nbclient ends a kernel manager that it was given only if it is asked to.
        running = pool.submit(client.execute, env=build_environment(), cleanup_kc=True)
        try:
            while not running.done():
                peak = max(peak, processes.measure_memory())
                bar.refresh()
                concurrent.futures.wait([running], timeout=WATCH_S)
        finally:
            while not running.done():  # after Ctrl-C
                processes.kill()
                concurrent.futures.wait([running], timeout=WATCH_S)
    return peak, running.exception()


def build_environment() -> dict[str, str]:
    """The environment of a kernel: shell commands find this Python.

    The hub is off if the lane's model is already there, unless the user has set HF_HUB_OFFLINE.
    """
    environment = dict(os.environ)
    if lanes.pick_lane().value.folder in list_models():
        environment.setdefault("HF_HUB_OFFLINE", "1")
    paths = [str(Path(sys.executable).parent), os.environ.get("PATH", "")]
    environment["PATH"] = os.pathsep.join(paths)
    return environment


def describe_problem(name: str, begun: list[NotebookNode], error: BaseException | None) -> str:
    """Names the notebook, the cell (counted as In [k] counts), the cell's first line and the error.

    Returns "" if there is no error.
    """
    if error is None:
        return ""
    if begun:
        first_line = begun[-1].source.strip().splitlines()[0]
        place = f"{name}, cell {len(begun)} ({first_line})"
    else:
        place = f"{name}, before the first cell"
    if isinstance(error, CellExecutionError):
        return f"{place}: {error.ename}: {error.evalue}"
    if isinstance(error, DeadKernelError):
        return f"{place}: the kernel died, most often because memory ran out"
    return f"{place}: {type(error).__name__}: {error}"


def keep_outputs(executions: list[Execution]) -> None:
    """Writes the executed notebooks back to where they came from."""
    for execution in executions:
        with replace_when_complete(execution.path) as fresh:
            nbformat.write(execution.notebook, fresh)
