"""Environments of their own for other people's clients, made below runs/clients/ when they are first used.

The clients are pinned with their hashes beside the scripts that use them, in tests/clients/real/. They are
no extra of the kit: `make setup` installs none of them, and some do not go together with its versions.
"""

import hashlib
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

from helpers.common.paths import PROJECT

REAL = PROJECT / "tests" / "clients" / "real"
FOLDER = PROJECT / "runs" / "clients"
OLDEST_NODE = 20
INSTALL_S = 1500
USE_S = 1200
# What pip and npm say when they cannot reach an index.
UNREACHABLE = re.compile(
    r"connection broken by|NewConnectionError|EAI_AGAIN|ENOTFOUND|ECONN\w+|ETIMEDOUT|ENETUNREACH"
)


class CannotInstall(Exception):
    """The clients cannot be had here: there is no Node.js, or no way to PyPI or npm."""


def find_python(requirements: Path) -> Path:
    """The Python of an environment that has these packages. Raises CannotInstall."""
    folder = name_folder(requirements)
    python = folder / ("Scripts" if os.name == "nt" else "bin") / "python"
    if not is_complete(folder):
        subprocess.run([sys.executable, "-m", "venv", "--clear", str(folder)], check=True)
        pip = [str(python), "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
        pinned = ["--require-hashes", "--no-deps", "--only-binary", ":all:", "-r", str(requirements)]
        install("PyPI", [*pip, *pinned])
        mark_complete(folder)
    return python


def find_node_folder() -> Path:
    """A folder with the scripts and packages of tests/clients/real/npm. Raises CannotInstall."""
    check_node()
    source = REAL / "npm"
    folder = name_folder(source / "package-lock.json")
    shutil.copytree(source, folder, dirs_exist_ok=True, ignore=shutil.ignore_patterns("node_modules"))
    if not is_complete(folder):
        install("npm", ["npm", "ci", "--no-audit", "--no-fund", "--ignore-scripts"], cwd=folder)
        mark_complete(folder)
    return folder


def check_node() -> None:
    """Raises CannotInstall without Node.js, or with one that is too old."""
    if not (shutil.which("node") and shutil.which("npm")):
        raise CannotInstall("Node.js or npm is not installed")
    version = subprocess.run(["node", "--version"], capture_output=True, text=True).stdout.strip()
    if int(version.removeprefix("v").split(".")[0]) < OLDEST_NODE:
        raise CannotInstall(f"Node.js is {version}; the clients need {OLDEST_NODE}")


def name_folder(pins: Path) -> Path:
    """The folder of an environment: another one for other pins or another Python."""
    content = sys.version.encode() + pins.read_bytes()
    return FOLDER / f"{pins.stem}-{hashlib.sha256(content).hexdigest()[:12]}"


def is_complete(folder: Path) -> bool:
    """Whether everything was installed."""
    return (folder / "complete").exists()


def mark_complete(folder: Path) -> None:
    """Notes that everything was installed."""
    (folder / "complete").touch()


def install(index: str, command: list[str], cwd: Path | None = None) -> None:
    """Runs a command that may need the index. Raises CannotInstall if it cannot reach it."""
    done = subprocess.run(command, cwd=cwd, capture_output=True, text=True, timeout=INSTALL_S)
    said = done.stdout + done.stderr
    if done.returncode and UNREACHABLE.search(said):
        raise CannotInstall(f"{index} cannot be reached")
    assert done.returncode == 0, said[-2000:]


def use(command: list[str | Path]) -> None:
    """Runs the script of a client, which must end well."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("PYTHON", "OPENAI_"))}
    done = subprocess.run(
        [*map(str, command)],
        env={**kept, "NO_PROXY": "127.0.0.1", "no_proxy": "127.0.0.1"},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=USE_S,
    )
    assert done.returncode == 0, (done.stdout + done.stderr)[-4000:]
