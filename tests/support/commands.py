"""Runs the kit's commands in another process, several after one another: `python -m support.commands FILE`.

FILE holds a JSON list of command lines. Each of them gets the answer {"code", "out", "err"}, in a list on the
last line of stdout. Importing torch once for all of them saves seconds each.
"""

import json
import os
import subprocess
import sys
import tempfile
import traceback
from importlib import import_module
from pathlib import Path

PROJECT = Path(__file__).resolve().parents[2]


def run_elsewhere(
    before: list[str], lines: list[list[str]], told: list[str] | None = None, **environment: str | None
) -> list[dict]:
    """The answers to the command lines, run by Python after the program `before` (unshare, setpriv ...).

    A variable that is None is not set there. `told` takes the lines that `before` itself writes to stderr.
    """
    known = {**os.environ, "PYTHONPATH": f"{PROJECT}:{PROJECT / 'tests'}", "KIT_LANE": "tiny", **environment}
    known = {name: value for name, value in known.items() if value is not None}
    command = [*before, sys.executable, "-m", "support.commands", json.dumps(lines)]
    done = subprocess.run(command, env=known, capture_output=True, text=True, errors="replace", cwd=PROJECT)
    if not done.stdout.strip():
        raise AssertionError(f"exit code {done.returncode}: {done.stderr}")
    if told is not None:
        told += done.stderr.splitlines()
    return json.loads(done.stdout.splitlines()[-1])


def run_line(line: list[str]) -> dict:
    """Runs a command with stdout and stderr in files; the exit code is 1 for a traceback, as in a shell."""
    from helpers.common.command import run_command

    room, *arguments = line
    with tempfile.TemporaryFile(dir="/dev/shm") as out, tempfile.TemporaryFile(dir="/dev/shm") as err:
        sys.stdout.flush()
        kept = os.dup(1), os.dup(2)
        os.dup2(out.fileno(), 1)
        os.dup2(err.fileno(), 2)
        try:
            code = run_command(import_module(room).main, arguments)
        except Exception:
            traceback.print_exc()
            code = 1
        sys.stdout.flush()
        sys.stderr.flush()
        for number, old in zip((1, 2), kept, strict=True):
            os.dup2(old, number)
            os.close(old)
        return {"code": code, "out": read(out), "err": read(err)}


def read(file) -> str:
    """All that was written."""
    file.seek(0)
    return file.read().decode(errors="replace")


if __name__ == "__main__":
    print("\n" + json.dumps([run_line(line) for line in json.loads(sys.argv[1])]))
