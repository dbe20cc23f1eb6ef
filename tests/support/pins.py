"""Dependencies and versions, read from pyproject.toml and constraints.txt for the tests that check them."""

import tomllib

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from packaging.version import Version

from helpers import PROJECT


def read_constraints() -> dict[str, Version]:
    """constraints.txt: canonical name -> version."""
    lines = (PROJECT / "constraints.txt").read_text(encoding="utf-8").splitlines()
    pins = [line.split("==") for line in lines if not line.startswith("#")]
    return {canonicalize_name(name): Version(version) for name, version in pins}


def read_pyproject() -> dict:
    """pyproject.toml."""
    return tomllib.loads((PROJECT / "pyproject.toml").read_text(encoding="utf-8"))


def read_base() -> list[Requirement]:
    """The dependencies of the package itself."""
    return [Requirement(line) for line in read_pyproject()["project"]["dependencies"]]


def read_extras() -> dict[str, list[Requirement]]:
    """The extras by name. An extra may name others, as in open-llm-kit[lab]; those entries are left out."""
    project = read_pyproject()["project"]
    extras = {}
    for extra, lines in project["optional-dependencies"].items():
        requirements = [Requirement(line) for line in lines]
        extras[extra] = [found for found in requirements if found.name != project["name"]]
    return extras
