"""What was found, as JSON and as Markdown tables; both are written again after every figure."""

import platform
import subprocess
import time
from importlib import metadata
from pathlib import Path
from typing import Any

from helpers.common.files import write_json
from helpers.common.paths import find_commit

PACKAGES = (
    "torch transformers trl peft accelerate triton gptqmodel optimum llguidance liger-kernel bitsandbytes "
    "flash-attn datasets"
).split()
MISSING = "not installed"
FIRST = ("part", "contestant")
LAST = ("seconds", "error")


def list_versions() -> dict[str, str]:
    """The versions of the packages that are installed, of those that matter."""
    versions = {}
    for name in PACKAGES:
        try:
            versions[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            versions[name] = MISSING
    return versions


def ask_used() -> float | None:
    """GB of the first GPU's memory that are in use by all programs; None without nvidia-smi."""
    found = ask_nvidia("memory.used", ",nounits")
    return int(found) * 2**20 / 1e9 if found.isdecimal() else None


def ask_nvidia(facts: str = "name,memory.total,driver_version", form: str = "") -> str:
    """What nvidia-smi says of the first GPU: name, memory and driver, or other facts; "" without it."""
    command = ["nvidia-smi", f"--query-gpu={facts}", f"--format=csv,noheader{form}"]
    try:
        found = subprocess.run(command, capture_output=True, text=True, timeout=20)
    except (OSError, subprocess.TimeoutExpired):
        return ""
    return next(iter(found.stdout.splitlines()), "") if found.returncode == 0 else ""


class Report:
    """All results so far, and the files that show them."""

    def __init__(self, folder: Path, **facts: Any):
        self.stem = folder / f"gpu-{time.strftime('%Y-%m-%d_%H-%M-%S')}"
        self.facts = {
            "date": time.strftime("%Y-%m-%d %H:%M"),
            "card": ask_nvidia() or f"none ({platform.processor() or platform.machine()})",
            "python": platform.python_version(),
            "commit": find_commit(),
            "packages": list_versions(),
            **facts,
        }
        self.start = time.monotonic()
        self.results: list[dict[str, Any]] = []
        folder.mkdir(parents=True, exist_ok=True)
        self.write()

    @property
    def missing(self) -> list[str]:
        """The packages that are not installed."""
        return [name for name, version in self.facts["packages"].items() if version == MISSING]

    def add(self, part: str, result: dict[str, Any]) -> None:
        """Adds a result of a part, prints it, and writes both files."""
        at = round(time.monotonic() - self.start, 1)
        result = {"part": part, **result, "at_s": at}
        self.results.append(result)
        numbers = ", ".join(f"{key} {show(value)}" for key, value in result.items() if key not in FIRST)
        print(f"[{part}] {result.get('contestant', '')}: {numbers}", flush=True)
        self.write()

    def write(self) -> None:
        """Writes the JSON and the Markdown file."""
        write_json(self.stem.with_suffix(".json"), {**self.facts, "results": self.results})
        self.stem.with_suffix(".md").write_text(self.render(), encoding="utf-8")

    def render(self) -> str:
        """The facts and a table for each part."""
        lines = ["# Measured on a GPU", ""]
        lines += [f"- {name}: {show(value)}" for name, value in self.facts.items()]
        for part in dict.fromkeys(result["part"] for result in self.results):
            lines += ["", f"## {part}", "", *draw_table([r for r in self.results if r["part"] == part])]
        return "\n".join(lines) + "\n"


def draw_table(results: list[dict[str, Any]]) -> list[str]:
    """The lines of a Markdown table: a column for each name that a result has."""
    names = [*dict.fromkeys(name for result in results for name in result if name not in (*FIRST, *LAST))]
    columns = ["contestant", *names, *LAST]
    lines = ["| " + " | ".join(columns) + " |", "|" + "---|" * len(columns)]
    for result in results:
        cells = (show(result.get(name, "")).replace("|", "/") for name in columns)
        lines.append("| " + " | ".join(cells) + " |")
    return lines


def show(value: Any) -> str:
    """A value in a table: numbers with four significant digits."""
    if isinstance(value, float):
        return f"{value:.4g}" if abs(value) < 10_000 else f"{value:.0f}"
    if isinstance(value, dict):
        return ", ".join(f"{name} {show(one)}" for name, one in value.items())
    if isinstance(value, list):
        return " ".join(map(show, value))
    return "" if value is None else str(value)
