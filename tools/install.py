"""Installs what `make setup` installs, into the Python that runs it: `python -m tools.install`.

Every file that is fetched must have a hash that is in constraints.hashes.txt; pip compares it before it opens
the file. Only wheels are fetched, which run no code while they are installed; the exceptions are in SOURCES.
It imports the standard library only, because nothing is installed yet.
"""

import argparse
import hashlib
import subprocess
import sys
import tempfile
from collections.abc import Iterable
from dataclasses import replace
from importlib import metadata
from pathlib import Path

from helpers.common import arguments as types
from helpers.common.command import CommandParser, run_command
from helpers.common.errors import DamagedError, MissingPackageError
from helpers.common.paths import PROJECT
from helpers.common.pins import HASHES, SOURCES, Pin, read_pins

CUDA = ("cuda-", "nvidia-", "triton")  # the beginnings of what only a CUDA build of torch needs
PIP = (sys.executable, *"-m pip install -qq --disable-pip-version-check --no-deps".split())
DOWNLOAD = (sys.executable, *"-m pip download -qq --disable-pip-version-check --no-deps".split())
WHEELS = ("--only-binary", ":all:")
CHECKED = (*PIP, "--require-hashes", *WHEELS)


def parse_options(arguments: list[str]) -> argparse.Namespace:
    """The command line: `python -m tools.install [--torch-index URL]`."""
    parser = CommandParser(
        prog="python -m tools.install",
        description=f"Installs the tested packages ({HASHES}) and the kit into this Python.",
    )
    parser.add_argument(
        "--torch-index", type=types.address, metavar="URL", help="fetch torch, and only torch, from here"
    )
    return parser.parse_args(arguments)


def main(arguments: list[str]) -> None:
    """Installs in three steps, each of which is announced."""
    options = parse_options(arguments)
    torch, wheels, cuda, sources = sort_pins(read_pins().values())
    print("1/3 installing torch (a minute or two, most of it the download)", flush=True)
    index = ("--index-url", options.torch_index) if options.torch_index else ()
    install_torch(torch[0], *index)
    print("2/3 installing the other packages (about three minutes)", flush=True)
    install(wheels, *CHECKED)
    if needs_cuda():
        install(cuda, *CHECKED)
    print("3/3 building gptqmodel (Linux only) and installing the kit (a minute)", flush=True)
    install(sources, *CHECKED, "--no-binary", ",".join(SOURCES), "--no-build-isolation")
    run_pip(*PIP, "--no-build-isolation", "--editable", str(PROJECT))
    run_pip(sys.executable, "-m", "pip", "check")
    print("Installed. `make lab` opens the lessons.")


def sort_pins(pins: Iterable[Pin]) -> tuple[list[Pin], list[Pin], list[Pin], list[Pin]]:
    """torch; what comes as wheels; what only a CUDA build of torch needs; what is built from its source."""
    torch, wheels, cuda, sources = [], [], [], []
    for pin in pins:
        if pin.name == "torch":
            torch.append(pin)
        elif pin.name in SOURCES:
            sources.append(pin)
        elif pin.name.startswith(CUDA):
            cuda.append(pin)
        else:
            wheels.append(pin)
    return torch, wheels, cuda, sources


def install_torch(pin: Pin, *index: str) -> None:
    """Installs torch, unless this version is there. Raises DamagedError if the wheel has another hash.

    pip chooses as it always does, so that a wheel on this machine's disk (find-links) or a CPU build comes
    before PyPI's. With --require-hashes, it would prefer a file whose hash its index names.
    """
    if find_version("torch") == pin.version:
        return
    with tempfile.TemporaryDirectory() as scratch:
        run_pip(*DOWNLOAD, *WHEELS, *index, "--dest", scratch, f"torch=={pin.version}")
        (wheel,) = Path(scratch).glob("*.whl")
        with wheel.open("rb") as stream:
            found = hashlib.file_digest(stream, "sha256").hexdigest()
        if found not in pin.hashes:
            problem = f"{wheel.name} has the SHA-256 {found}, which is not in {HASHES}."
            raise DamagedError(problem, "Fetch torch from PyPI or from PyTorch's index of CPU builds.")
        # By version and hash rather than by path, which pip would record as a place to look in later.
        checked = replace(pin, line=f"torch=={pin.version} --hash=sha256:{found}")
        install([checked], *CHECKED, "--no-index", "--find-links", scratch)


def find_version(name: str) -> str:
    """The version of an installed package without the name of its build, such as +cpu; "" without it."""
    try:
        return metadata.version(name).partition("+")[0]
    except metadata.PackageNotFoundError:
        return ""


def needs_cuda() -> bool:
    """True if the installed torch is a build that needs NVIDIA's libraries."""
    return any(line.startswith(CUDA) for line in metadata.requires("torch") or [])


def install(pins: list[Pin], *command: str) -> None:
    """Runs pip with `command` on these packages; pip leaves out those that are for other systems."""
    with tempfile.TemporaryDirectory() as scratch:
        file = Path(scratch, "requirements.txt")
        file.write_text("".join(f"{pin.line}\n" for pin in pins), encoding="utf-8")
        run_pip(*command, "--requirement", str(file))


def run_pip(*command: str) -> None:
    """Runs a command in the project. Raises MissingPackageError if it fails; pip has then said why."""
    done = subprocess.run(command, cwd=PROJECT, stdout=subprocess.PIPE, text=True)
    if done.returncode:
        print(done.stdout, file=sys.stderr)
        raise MissingPackageError(
            "The installation failed; the reason is above.",
            "Fix it (often it is the network, or the mirror in 'pip config list'), then run this again.",
        )


if __name__ == "__main__":
    raise SystemExit(run_command(main))
