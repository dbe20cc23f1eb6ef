"""Writes constraints.txt and constraints.hashes.txt from what is in .venv: `make constraints`.

constraints.txt has the versions that were tested here. constraints.hashes.txt adds what other systems and a
CUDA build of torch need, with the hashes of all files of each version, as uv finds them on PyPI.
"""

import re
import subprocess
import sys
import tempfile
from pathlib import Path

from helpers.common.command import CommandParser, run_command
from helpers.common.errors import ServerError
from helpers.common.files import write_text
from helpers.common.paths import PROJECT
from helpers.common.pins import HASHES, Pin, read_pins
from tools.files import read_source, read_toml

EXTRAS = ("dev", "lab", "llamacpp", "gptq")  # of the kit that `make setup` installs
PYTHON = "3.11.5"  # the oldest that the tested versions take; soupsieve asks for it
TORCH_CPU = "https://download.pytorch.org/whl/cpu"  # PyTorch's own index has builds that PyPI lacks
ALL_SYSTEMS = "(sys_platform == 'darwin' or sys_platform == 'linux' or sys_platform == 'win32')"
SUPPORTED = "python_full_version < '3.14'"  # as the environments in pyproject.toml say

HEADER = """\
# The versions of constraints.txt and what they need on Linux, macOS and Windows, with the SHA-256 of every
# file that is allowed. `make setup` fetches nothing else; `make constraints` writes this file.
"""


def main(arguments: list[str]) -> None:
    """`python -m tools.pins`."""
    CommandParser(
        prog="python -m tools.pins",
        description=f"Writes constraints.txt and {HASHES} from what this Python has.",
    ).parse_args(arguments)
    constraints = PROJECT / "constraints.txt"
    header = re.match(r"(?:#.*\n)*", read_source(constraints))
    freeze = run(sys.executable, "-m", "pip", "freeze", "--exclude-editable")
    versions = re.sub(r"\+.*", "", freeze)  # without the build of torch, such as +cpu
    write_text(constraints, (header[0] if header else "") + versions)
    write_text(PROJECT / HASHES, build_hashes(versions, read_pins().get("torch")))


def build_hashes(versions: str, torch: Pin | None) -> str:
    """The text of constraints.hashes.txt for these lines NAME==VERSION.

    Hashes that an older file has of the same version of torch (`torch`) stay: PyTorch's index cannot be
    reached from everywhere.
    """
    project = read_toml(PROJECT / "pyproject.toml")
    with tempfile.TemporaryDirectory() as scratch:
        tested, build = Path(scratch, "tested.txt"), Path(scratch, "build.in")
        tested.write_text(versions, encoding="utf-8")
        build.write_text("\n".join(project["build-system"]["requires"]), encoding="utf-8")
        extras = [word for extra in EXTRAS for word in ("--extra", extra)]
        text = compile_pins("pyproject.toml", str(build), "--constraint", str(tested), *extras)
    text = text.replace(f"{SUPPORTED} and ", "").replace(f" ; {ALL_SYSTEMS}", "")
    version = re.search(r"^torch==(\S+)", text, flags=re.MULTILINE)
    if version:
        known = torch.hashes if torch and torch.version == version[1] else frozenset()
        text = add_hashes(text, "torch", known | find_cpu_hashes(version[1]))
    return HEADER + text


def find_cpu_hashes(version: str) -> frozenset[str]:
    """The hashes of torch's CPU builds in PyTorch's own index; none, and a message, if it is out of reach."""
    with tempfile.TemporaryDirectory() as scratch:
        wanted = Path(scratch, "torch.in")
        wanted.write_text(f"torch=={version}+cpu\n", encoding="utf-8")
        try:
            text = compile_pins(str(wanted), "--no-deps", "--default-index", TORCH_CPU)
        except ServerError as error:
            print(f"Only the known hashes of torch's CPU builds: {error}", file=sys.stderr)
            return frozenset()
    return frozenset(re.findall(r"sha256:([0-9a-f]{64})", text))


def compile_pins(*words: str) -> str:
    """What uv finds for these inputs and options: packages for all systems, with their hashes."""
    options = ("--universal", "--python-version", PYTHON, "--generate-hashes", "--quiet")
    output = ("--no-annotate", "--no-header")
    return run(sys.executable, "-m", "uv", "pip", "compile", *options, *output, *words)


def add_hashes(text: str, name: str, hashes: frozenset[str]) -> str:
    """The text, with `hashes` added in order to those of the package `name`."""
    entry = re.search(rf"^({name}==.*?)((?: \\\n    --hash=\S+)+)$", text, flags=re.MULTILINE)
    if not entry:
        return text
    every = sorted(hashes | set(re.findall(r"sha256:([0-9a-f]{64})", entry[2])))
    lines = "".join(f" \\\n    --hash=sha256:{found}" for found in every)
    return text[: entry.start(2)] + lines + text[entry.end(2) :]


def run(*command: str) -> str:
    """A command's output. Raises ServerError with the last line of its errors if it fails."""
    done = subprocess.run(command, cwd=PROJECT, capture_output=True, text=True)
    if done.returncode:
        said = done.stderr.strip().splitlines() or ["it gave no reason"]
        raise ServerError(
            f"{' '.join(command[2:5])} failed: {said[-1]}", "Look at the network and at pip's settings."
        )
    return done.stdout


if __name__ == "__main__":
    raise SystemExit(run_command(main))
