"""What the kit may fetch: constraints.hashes.txt has a version of each package, and the hashes of its files.

It imports the standard library only, because it is needed before anything is installed.
"""

import re
from dataclasses import dataclass
from pathlib import Path

from helpers.common.paths import PROJECT

HASHES = "constraints.hashes.txt"
# PyPI has these as source packages only: gptqmodel's authors publish no wheels. They are built here, after
# their hashes were checked, with the setuptools that is in the list and without fetching anything else.
SOURCES = ("defuser", "device-smi", "gptqmodel", "logbar", "pypcre", "tokenicer")


@dataclass(frozen=True)
class Pin:
    """One package of constraints.hashes.txt."""

    name: str  # canonical: lower case, words separated by hyphens
    version: str
    line: str  # as pip takes it: the version, the systems that it is for, and its hashes
    hashes: frozenset[str]  # SHA-256 in hexadecimal of every file that is allowed


def read_pins(project: Path = PROJECT) -> dict[str, Pin]:
    """The packages of constraints.hashes.txt by name; none if the file is not there."""
    path = project / HASHES
    if not path.is_file():
        return {}
    lines = path.read_text(encoding="utf-8").replace("\\\n", "").splitlines()
    pins = [read_pin(line) for line in lines if line and not line.startswith("#")]
    return {pin.name: pin for pin in pins}


def read_pin(line: str) -> Pin:
    """The package that a line NAME==VERSION --hash=sha256:DIGITS names."""
    name, _, rest = line.partition("==")
    hashes = frozenset(re.findall(r"--hash=sha256:([0-9a-f]{64})", line))
    name = re.sub(r"[-_.]+", "-", name.strip()).lower()
    return Pin(name, rest.split()[0], " ".join(line.split()), hashes)
