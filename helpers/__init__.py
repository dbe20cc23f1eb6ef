"""Open LLM Kit: the code that the five notebooks share.

Promise of this file: what every module needs and nothing else: the error that names its remedy, the project's folders, files that
are complete or absent, and how a command reads its words and ends. It imports no module of the kit.
"""

import argparse
import contextlib
import dataclasses
import json
import logging
import os
import shutil
import subprocess
import sys
import tempfile
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil

# OpenMP's threads wait for each other after every operation. Those that sleep at once train at 0.6 of the speed; those that look for long
# (GCC's runtime: 300,000 times) take the cores from every other busy process, and it from them. Both are read when torch is imported.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
os.environ.setdefault("GOMP_SPINCOUNT", "3000")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
# torchao (a dependency of gptqmodel) warns at import of CUDA libraries that a CPU build of torch cannot load; none of them is used here.
# bitsandbytes says with every layer, again and again, that 8-bit layers compute in float16.
for noisy in ("torchao", "torch.utils._pytree", "bitsandbytes"):
    logging.getLogger(noisy).setLevel(logging.ERROR)

# TRL 1.16 and PEFT 0.21 use a name that transformers has renamed since: nothing that a user of the kit can mend.
warnings.filterwarnings("ignore", message="`(is_)?gradient_checkpointing` is deprecated", category=FutureWarning)

PROJECT = Path(__file__).resolve().parent.parent


class KitError(Exception):
    """A mistake that the user can mend: says what is wrong and what to do about it, each in one sentence."""

    def __init__(self, problem: str, remedy: str):
        super().__init__(f"{problem} {remedy}")
        self.problem, self.remedy = problem, remedy


def find_home() -> Path:
    """Folder that holds models/, loras/ and runs/: $OPEN_LLM_KIT_HOME, else the nearest parent of the working folder with notebooks/.

    Raises KitError where there is neither.
    """
    if os.environ.get("OPEN_LLM_KIT_HOME"):
        return Path(os.environ["OPEN_LLM_KIT_HOME"]).expanduser().resolve()
    here = Path.cwd().resolve()
    for folder in (here, *here.parents):
        if (folder / "notebooks").is_dir():
            return folder
    raise KitError(f"No folder with notebooks/ at or above {here}.", "Run this inside the kit's folder, or set OPEN_LLM_KIT_HOME.")


def find_file(path: str | Path, what: str) -> Path:
    """An input file as the user named it: as it stands, else below the home, else below the project.

    `what` names the kind of file in the KitError raised when it is nowhere.
    """
    path = Path(path).expanduser()
    for candidate in (path, find_home() / path, PROJECT / path):
        if candidate.is_file():
            return candidate
    raise KitError(f"No {what} at {path}.", f"Give the path of an existing {what} (tried here, in {find_home()} and in {PROJECT}).")


def resolve_inside(base: Path, name: str, what: str) -> Path:
    """`base`/`name`, refused with a KitError when the name is empty or leads out of `base`."""
    folder = (base / name).resolve()
    if not name or folder == base.resolve() or not folder.is_relative_to(base.resolve()):
        raise KitError(f"'{name}' is no name for a {what}.", f"Use a plain folder name; it lies in {base}.")
    return folder


@contextlib.contextmanager
def replace_when_complete(target: Path) -> Iterator[Path]:
    """Gives a temporary path beside `target` to write to (a file or a folder); it takes the place of `target` when the block ends well.

    When the block fails or is interrupted, what was written is removed and an older `target` stays as it was.
    """
    target.parent.mkdir(parents=True, exist_ok=True)
    for abandoned in target.parent.glob(f".{target.name}.*.part"):  # of a process that was killed
        if not psutil.pid_exists(int(abandoned.name.split(".")[-2])):
            shutil.rmtree(abandoned, ignore_errors=True)
    workspace = Path(tempfile.mkdtemp(prefix=f".{target.name}.", suffix=f".{os.getpid()}.part", dir=target.parent))
    try:
        fresh = workspace / target.name
        yield fresh
        if target.is_dir():
            target.rename(workspace / "old")
        os.replace(fresh, target)
    finally:
        shutil.rmtree(workspace, ignore_errors=True)


def write_json(path: Path, value: object) -> Path:
    """Writes `value` as indented UTF-8 JSON, whole or not at all; dataclasses in it become objects. Returns the path."""
    with replace_when_complete(Path(path)) as fresh:
        fresh.write_text(json.dumps(value, indent=2, ensure_ascii=False, default=dataclasses.asdict) + "\n", encoding="utf-8")
    return Path(path)


def find_commit() -> str:
    """The project's git commit, short, with -dirty for uncommitted changes; "unknown" outside a git checkout."""
    command = ["git", "-C", str(PROJECT), "describe", "--always", "--dirty", "--abbrev=12", "--exclude=*"]
    try:
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return "unknown"


class CommandParser(argparse.ArgumentParser):
    """argparse's parser; a wrong command line is a KitError, one line like every other, with the way to the help."""

    def error(self, message: str):
        """Raises the KitError in place of argparse's usage lines."""
        raise KitError(f"{message[:1].upper()}{message[1:]}.", f"See {self.prog} --help.")


def run_command(main: Callable[[list[str]], int | None], arguments: list[str] | None = None) -> int:
    """Runs a command's main function: its exit code, or 2 after one line on stderr for a KitError, 130 for Ctrl-C."""
    logging.getLogger("httpx").setLevel(logging.WARNING)
    try:
        return main(sys.argv[1:] if arguments is None else arguments) or 0
    except KitError as error:
        print(f"error: {' '.join(str(error).split())}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("stopped", file=sys.stderr)
        return 130
