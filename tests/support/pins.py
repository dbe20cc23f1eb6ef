"""The pinned versions, as tests read them."""

from packaging.utils import canonicalize_name
from packaging.version import Version

from helpers import PROJECT


def read_constraints() -> dict[str, Version]:
    """constraints.txt: canonical name -> version."""
    lines = [
        line
        for line in (PROJECT / "constraints.txt").read_text(encoding="utf-8").splitlines()
        if not line.startswith("#")
    ]
    return {
        canonicalize_name(name): Version(version) for name, version in (line.split("==") for line in lines)
    }
