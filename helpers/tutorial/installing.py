"""What pip is asked to install into a running Python: wheels, with the hash of every file.

Like helpers.tutorial.setup, which calls it, it runs before anything is installed.
"""

import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from helpers.common.paths import PROJECT
from helpers.common.pins import HASHES, SOURCES, read_pins

PIP = (sys.executable, *"-m pip install --quiet --disable-pip-version-check".split())
WHEELS = ("--only-binary", ":all:")  # a wheel runs no code while it is installed

Versions = dict[str, str]  # canonical name of a distribution -> version


def run_pip(requirements: list[Requirement], constraints: Versions, *options: str) -> str:
    """Installs wheels into this Python; what is in `constraints` in these exact versions only.

    pip first says what it would install, then does so, with the hash of every file: in a tested version it is
    one of those in constraints.hashes.txt, in another version the one that the index names. Returns the last
    line of pip's error output, or "" if all went well.
    """
    with tempfile.TemporaryDirectory() as scratch:
        file, report = Path(scratch, "constraints.txt"), Path(scratch, "report.json")
        lines = [f"{name}=={version}\n" for name, version in constraints.items()]
        file.write_text("".join(lines), encoding="utf-8")
        command = [*PIP, *WHEELS, "--dry-run", "--report", str(report), "--constraint", str(file), *options]
        command += [f"{requirement.name}{requirement.specifier}" for requirement in requirements]
        problem = run_quietly(command)
        if problem:
            return problem
        chosen = json.loads(report.read_text(encoding="utf-8"))["install"]
    return install_checked([name_hashes(entry) for entry in chosen], *WHEELS)


def name_hashes(entry: dict[str, Any]) -> str:
    """A package of pip's report, NAME==VERSION, with the hashes that its file may have."""
    name, version = canonicalize_name(entry["metadata"]["name"]), entry["metadata"]["version"]
    pin = read_pins(PROJECT).get(name)
    if pin and pin.version == version:
        return pin.line
    reported = entry["download_info"].get("archive_info", {}).get("hashes", {}).get("sha256", "")
    return f"{name}=={version} --hash=sha256:{reported}"


def install_checked(lines: list[str], *options: str, environment: dict[str, str] | None = None) -> str:
    """Installs exactly these packages, whose files must have one of their hashes. Returns as run_quietly."""
    if not lines:
        return ""
    with tempfile.TemporaryDirectory() as scratch:
        file = Path(scratch, "requirements.txt")
        file.write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")
        command = [*PIP, "--no-deps", "--require-hashes", *options, "--requirement", str(file)]
        return run_quietly(command, environment=environment)


def build_sources(requirements: list[Requirement]) -> str:
    """Installs source packages (SOURCES) in their tested versions. Returns as run_quietly.

    Their hashes are checked before their set-up scripts run. These scripts get the tested setuptools from a
    folder of their own, because this Python's own must stay as it is.
    """
    pins = read_pins(PROJECT)
    lines = [pins[canonicalize_name(requirement.name)].line for requirement in requirements]
    if not lines:
        return ""
    with tempfile.TemporaryDirectory() as tools:
        problem = install_checked([pins["setuptools"].line], *WHEELS, "--target", tools)
        if problem:
            return problem
        options = ("--no-binary", ",".join(SOURCES), "--no-build-isolation")
        return install_checked(lines, *options, environment={**os.environ, "PYTHONPATH": tools})


def run_quietly(
    command: list[str], folder: Path | None = None, environment: dict[str, str] | None = None
) -> str:
    """Runs a command in `folder`. Returns the last line of its error output, or "" if it succeeded."""
    done = subprocess.run(command, capture_output=True, text=True, cwd=folder, env=environment)
    if done.returncode == 0:
        return ""
    if "DO NOT MATCH THE HASHES" in done.stderr:
        return f"a file is not one of those in {HASHES}"
    lines = done.stderr.strip().splitlines()
    return lines[-1] if lines else "it gave no reason"


def install_mixed(requirements: list[Requirement], fixed: Versions, *options: str) -> str:
    """Installs packages of which some are source packages. Returns as run_quietly."""
    wheels = [requirement for requirement in requirements if not is_source(requirement)]
    sources = [requirement for requirement in requirements if is_source(requirement)]
    return (run_pip(wheels, fixed, *options) if wheels else "") or build_sources(sources)


def is_source(requirement: Requirement) -> bool:
    """True if the package index has no wheel of it."""
    return canonicalize_name(requirement.name) in SOURCES
