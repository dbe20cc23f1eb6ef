"""Another process that holds a name, as a training, a download or a merge would."""

import contextlib
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

HOLD = """
import sys, time
from helpers.common.locks import hold
with hold(sys.argv[1], sys.argv[2]):
    print("held", flush=True)
    time.sleep(60)
"""


@contextlib.contextmanager
def hold_elsewhere(path: Path, doing: str = "a training") -> Iterator[subprocess.Popen]:
    """The process, which holds `path` by now; it is killed (SIGKILL) at the end of the block."""
    command = [sys.executable, "-c", HOLD, str(path), doing]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    try:
        assert process.stdout is not None
        assert process.stdout.readline() == "held\n"
        yield process
    finally:
        process.kill()
        process.communicate()
