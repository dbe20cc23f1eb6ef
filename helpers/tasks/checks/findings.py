"""What a check finds: what is wrong or worth knowing, what to do, and in which rows."""

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Literal

LISTED = 20  # places that a finding names
Level = Literal["stops", "warns", "hints"]  # a training cannot start; it learns something wrong; look at it
LEVELS: tuple[Level, ...] = ("stops", "warns", "hints")


@dataclass(frozen=True)
class Finding:
    """One kind of thing that was found."""

    code: str  # its stable name
    level: Level
    problem: str
    remedy: str
    count: int = 0  # rows
    places: list[str] = field(default_factory=list)  # of the first of them


def make_finding(code: str, level: Level, places: Iterable[str], problem: str, remedy: str) -> list[Finding]:
    """A finding in a list, or [] if there are no places; {count} in the problem becomes their number."""
    listed = list(places)
    if not listed:
        return []
    words = problem.replace("{count}", f"{len(listed):,}")
    return [Finding(code, level, words, remedy, len(listed), listed[:LISTED])]


def sort_findings(findings: Iterable[Finding]) -> list[Finding]:
    """The most urgent first."""
    return sorted(findings, key=lambda finding: LEVELS.index(finding.level))
