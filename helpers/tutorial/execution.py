"""The whole tutorial in one command: every notebook run in order, each in a fresh kernel, and a report of what came out.

The report is a folder, complete or absent: the executed notebooks, report.html to read, report.json to compute with.
"""

import concurrent.futures
import copy
import os
import sys
import time
from pathlib import Path

import nbformat
import psutil
from jupyter_client import AsyncKernelManager
from jupyter_client.kernelspec import KernelSpecManager
from nbclient import NotebookClient
from nbclient.exceptions import CellExecutionError, DeadKernelError
from nbformat import NotebookNode
from tqdm import tqdm
from traitlets import default

from helpers.common import lanes
from helpers.common.errors import KitError
from helpers.common.files import replace_when_complete
from helpers.common.paths import PROJECT, find_home
from helpers.tutorial import records
from helpers.tutorial.notebook_files import clean_notebook
from helpers.tutorial.report import (
    Execution,
)
from helpers.weights import folders


class OwnKernel(AsyncKernelManager):
    """Starts kernels in the Python that runs this, whatever kernels are installed for the user and whatever is activated."""

    @default("kernel_spec_manager")
    def _no_installed_kernels(self) -> KernelSpecManager:
        return KernelSpecManager(kernel_dirs=[])


def find_notebooks(only: list[str]) -> list[Path]:
    """The notebooks 0*.ipynb of the home, else of the project, in order; `only` keeps those whose names begin with one of its entries."""
    folder = next(
        (f for f in (find_home() / "notebooks", PROJECT / "notebooks") if any(f.glob("0*.ipynb"))), None
    )
    if folder is None:
        raise KitError(
            f"No notebook 0*.ipynb in {find_home() / 'notebooks'}.", "Run this inside the kit's folder."
        )
    paths = sorted(folder.glob("0*.ipynb"))
    for start in only:
        if not any(path.name.startswith(start) for path in paths):
            raise KitError(
                f"No notebook begins with '{start}'.", f"There are {', '.join(path.stem for path in paths)}."
            )
    return [path for path in paths if not only or path.name.startswith(tuple(only))]


def build_environment() -> dict[str, str]:
    """Environment of a kernel: shell commands find this Python; no hub once the lane's model is there."""
    environment = {}
    if lanes.pick_lane().value.folder in folders.list_models():
        environment["HF_HUB_OFFLINE"] = "1"
    return {
        **environment,
        **os.environ,
        "PATH": os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", "")]),
    }


def execute_notebook(path: Path) -> Execution:
    """Runs one notebook in its own folder and a fresh kernel; a failing cell ends it and is named in `problem`.

    Ctrl-C kills the kernel with its children before it goes on.
    """
    notebook = nbformat.read(path, as_version=4)
    metadata, begun, peak, start, clock = (
        copy.deepcopy(notebook.metadata),
        [],
        0,
        time.monotonic(),
        time.time(),
    )
    total = sum(cell.cell_type == "code" and bool(cell.source.strip()) for cell in notebook.cells)
    bar = tqdm(
        total=total, desc=path.stem, bar_format="{desc}: cell {n_fmt} of {total_fmt}, {elapsed}", disable=None
    )

    def show_cell(cell: NotebookNode, cell_index: int) -> None:
        begun.append(cell)
        bar.update()

    client = NotebookClient(
        notebook, timeout=None, kernel_name="python3", kernel_manager_class=OwnKernel, resources={"metadata": {"path": str(path.parent)}},
        record_timing=False, store_widget_state=False, coalesce_streams=True, on_cell_execute=show_cell,
        extra_arguments=["--log-level=ERROR"],  # ipykernel warns that it listens without encryption; it listens on this computer only
    )  # fmt: skip
    with bar, concurrent.futures.ThreadPoolExecutor(1) as pool:
        running = pool.submit(client.execute, env=build_environment())
        try:
            while not running.done():
                peak = max(peak, sum(memory_of(process) for process in list_processes(client)))
                bar.refresh()
                concurrent.futures.wait([running], timeout=0.5)  # seconds between two looks at the memory
        finally:
            while not running.done():
                stop_kernel(client)
                concurrent.futures.wait([running], timeout=0.5)
    problem = describe_problem(path.stem, begun, running.exception())
    clean_notebook(notebook, metadata)
    return Execution(
        path,
        notebook,
        round((time.monotonic() - start) / 60, 2),
        int(peak / 1e6),
        int(records.measure_disk(clock) / 1e6),
        problem,
    )


def list_processes(client: NotebookClient) -> list[psutil.Process]:
    """The kernel's process and all below it; none before it has started and after it has ended."""
    provisioner = client.km and client.km.provisioner
    try:
        kernel = psutil.Process(provisioner.pid) if provisioner and provisioner.pid else None
        return [kernel, *kernel.children(recursive=True)] if kernel else []
    except psutil.NoSuchProcess:
        return []


def memory_of(process: psutil.Process) -> int:
    """Resident memory, bytes; 0 for a process that has just ended."""
    try:
        return process.memory_info().rss
    except psutil.Error:
        return 0


def stop_kernel(client: NotebookClient) -> None:
    """Kills the kernel and what it started, such as a server."""
    for process in list_processes(client):
        try:
            process.kill()
        except psutil.NoSuchProcess:
            continue


def describe_problem(name: str, begun: list[NotebookNode], error: BaseException | None) -> str:
    """Names notebook, cell (counted as In [k] counts), the cell's first line and the error; empty without one."""
    if error is None:
        return ""
    where = (
        f"{name}, cell {len(begun)} ({begun[-1].source.strip().splitlines()[0]})"
        if begun
        else f"{name}, before the first cell"
    )
    if isinstance(error, CellExecutionError):
        return f"{where}: {error.ename}: {error.evalue}"
    if isinstance(error, DeadKernelError):
        return f"{where}: the kernel died, most often for want of memory"
    return f"{where}: {type(error).__name__}: {error}"


def keep_outputs(executions: list[Execution]) -> None:
    """Writes the executed notebooks back to where they came from, for committing."""
    for execution in executions:
        with replace_when_complete(execution.path) as fresh:
            nbformat.write(execution.notebook, fresh)
