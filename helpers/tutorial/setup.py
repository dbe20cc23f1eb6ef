"""The set-up that begins every notebook: says that all packages are here, or, in Colab, installs what is missing and moves nothing that is.

Made from the standard library and from what every Jupyter kernel brings (packaging, psutil): it runs before anything is installed.
"""

import importlib
import os
import shutil
import subprocess
import sys
import tempfile
import time
import tomllib
from importlib import metadata
from pathlib import Path

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from helpers.common.errors import KitError
from helpers.common.paths import PROJECT

KEPT = ("torch", "numpy")  # what else a machine has is built against these two


NOT_IN_COLAB = ("jupyterlab",)  # Colab is a notebook program of its own


DRIVE = Path("/content/drive/MyDrive")  # where Colab mounts Google Drive


Versions = dict[str, str]  # canonical name of a distribution -> version


def set_up() -> None:
    """What the first cell of a notebook calls; prints what it found and what it did. KitError when packages are missing outside of Colab."""
    installed, colab = read_installed(), "COLAB_RELEASE_TAG" in os.environ
    missing = find_missing(read_requirements("llamacpp" if colab else None), installed)
    if missing and not colab:
        names = ", ".join(requirement.name for requirement in missing)
        raise KitError(
            f"This kernel's Python lacks {names}.",
            "Take the kernel of `make lab`, or install the kit: pip install --editable KIT_FOLDER",
        )
    if canonicalize_name("open-llm-kit") not in installed:  # a server that a lesson starts finds the kit too
        os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, (str(PROJECT), os.environ.get("PYTHONPATH"))))
    if missing:
        print(install(missing, installed))
    print("All packages that the lessons need are here.")
    if colab and shutil.which("nvidia-smi"):
        print(add_gptq(find_fixed(read_installed())))
    if colab:
        print(choose_home())


def read_requirements(extra: str | None = None) -> list[Requirement]:
    """What the lessons cannot do without, the base of pyproject.toml, and what an extra adds, for this system."""
    lines = [*(read_extra(extra) if extra else []), *map(Requirement, read_project()["dependencies"])]
    return [
        line
        for line in lines
        if line.name not in NOT_IN_COLAB and (line.marker is None or line.marker.evaluate())
    ]


def read_project() -> dict:
    """The table [project] of pyproject.toml."""
    return tomllib.loads((PROJECT / "pyproject.toml").read_text(encoding="utf-8"))["project"]


def read_extra(name: str) -> list[Requirement]:
    """An extra of pyproject.toml."""
    return [Requirement(line) for line in read_project()["optional-dependencies"][name]]


def read_installed() -> Versions:
    """Every installed distribution; the first one of a name on the path counts."""
    return {
        canonicalize_name(found.name): found.version for found in reversed(list(metadata.distributions()))
    }


def find_missing(requirements: list[Requirement], installed: Versions) -> list[Requirement]:
    """Those that are not installed, or in a version outside their range."""
    found = [
        (requirement, installed.get(canonicalize_name(requirement.name))) for requirement in requirements
    ]
    return [
        requirement
        for requirement, version in found
        if version is None or not requirement.specifier.contains(version, prereleases=True)
    ]


def find_fixed(installed: Versions) -> Versions:
    """What must stay as it is: torch, numpy, and every distribution of which this kernel has imported something."""
    owners = metadata.packages_distributions()
    imported = {
        canonicalize_name(owner) for name in sys.modules if "." not in name for owner in owners.get(name, ())
    }
    return {name: installed[name] for name in sorted(imported.union(KEPT) & installed.keys())}


def install(missing: list[Requirement], installed: Versions) -> str:
    """Installs `missing` and nothing else, in the versions that are tested where they fit; returns what it did, in words.

    KitError when something that must stay is in the way, and when pip finds no way.
    """
    fixed, begun = find_fixed(installed), time.monotonic()
    for requirement in missing:
        if version := fixed.get(canonicalize_name(requirement.name)):
            problem = f"This runtime has {requirement.name} {version}; the kit needs {requirement}, and it is in use."
            raise KitError(problem, "Choose another runtime version: Runtime, Change runtime type.")
    print(
        f"Installing {', '.join(requirement.name for requirement in missing)} (a few minutes) ...", flush=True
    )
    tested = read_tested(missing, installed)
    if trouble := run_pip(missing, fixed | tested) and run_pip(missing, fixed):
        raise KitError(
            f"pip found no way to install what is missing: {trouble}",
            "Take a fresh runtime: Runtime, Disconnect and delete.",
        )
    importlib.invalidate_caches()
    return describe_change(installed, read_installed(), time.monotonic() - begun)


def read_tested(missing: list[Requirement], installed: Versions) -> Versions:
    """The lines of constraints.txt for what is missing and for what the machine has not at all."""
    wanted, tested = {canonicalize_name(requirement.name) for requirement in missing}, {}
    for line in (PROJECT / "constraints.txt").read_text(encoding="utf-8").splitlines():
        name, _, version = line.partition("==")
        if version and (canonicalize_name(name) in wanted or canonicalize_name(name) not in installed):
            tested[canonicalize_name(name)] = version
    return tested


def run_pip(missing: list[Requirement], constraints: Versions, *options: str) -> str:
    """Installs into this Python, held to exact versions by name; returns the last line of pip's complaint, empty when all went well."""
    with tempfile.TemporaryDirectory() as scratch:
        file = Path(scratch, "constraints.txt")
        file.write_text(
            "".join(f"{name}=={version}\n" for name, version in constraints.items()), encoding="utf-8"
        )
        words = [f"{requirement.name}{requirement.specifier}" for requirement in missing]
        command = [
            sys.executable,
            "-m",
            "pip",
            "install",
            "--quiet",
            "--disable-pip-version-check",
            "--constraint",
            str(file),
            *options,
            *words,
        ]
        found = subprocess.run(command, capture_output=True, text=True)
    return (found.stderr.strip().splitlines() or ["it gave no reason"])[-1] if found.returncode else ""


def describe_change(before: Versions, after: Versions, seconds: float) -> str:
    """What an installation changed, in words; KitError when it moved torch or numpy."""
    moved = {
        name: f"{name} {version} (before: {before[name]})"
        for name, version in after.items()
        if before.get(name, version) != version
    }
    if wrong := [words for name, words in moved.items() if name in KEPT]:
        raise KitError(
            f"The installation moved {', '.join(wrong)}.",
            "Take a fresh runtime: Runtime, Disconnect and delete.",
        )
    kept = ", ".join(f"{name} {after[name]}" for name in KEPT)
    lines = [
        f"Installed in {seconds:.0f} s: {len(after.keys() - before.keys())} packages. As they were: {kept}."
    ]
    return "\n".join(
        [
            *lines,
            *([f"In another version than before: {', '.join(moved.values())}."] if moved else []),
            "No restart is needed.",
        ]
    )


def add_gptq(fixed: Versions) -> str:
    """What reads GPTQ weights on a GPU, its dependencies left aside, since gptqmodel asks for one exact numpy; then those that are not here at all.

    One layer is run. Where something fails, the lane becomes tiny. Returns what came out, in words.
    """
    wanted = read_extra("gptq")
    trouble = run_pip(wanted, fixed, "--no-deps")
    importlib.invalidate_caches()
    trouble = (
        trouble
        or ((absent := find_absent(wanted, read_installed())) and run_pip(absent, fixed))
        or try_gptq()
    )
    if not trouble:
        return "gptqmodel is here and has run a layer: GPTQ weights can be loaded."
    os.environ.setdefault("KIT_LANE", "tiny")
    return f"GPTQ weights cannot be loaded here, so the lane is {os.environ['KIT_LANE']}: {trouble}"


def find_absent(requirements: list[Requirement], installed: Versions) -> list[Requirement]:
    """What `requirements`, installed themselves, depend on without their extras, and what is not `installed` in any version."""
    lines = [line for one in requirements for line in metadata.requires(one.name) or []]
    needed = [
        line for line in map(Requirement, lines) if line.marker is None or line.marker.evaluate({"extra": ""})
    ]
    return [line for line in needed if canonicalize_name(line.name) not in installed]


def try_gptq() -> str:
    """Runs a layer in a process of its own; the last line of its complaint, empty when it ran."""
    command = [sys.executable, "-c", "from helpers.weights.gptq import try_layer; try_layer()"]
    found = subprocess.run(command, capture_output=True, text=True, cwd=PROJECT)
    return (found.stderr.strip().splitlines() or ["it gave no reason"])[-1] if found.returncode else ""


def choose_home() -> str:
    """Where models/, loras/ and runs/ lie in Colab: $OPEN_LLM_KIT_HOME, else Google Drive where it is mounted, else the kit's folder; in words."""
    if os.environ.get("OPEN_LLM_KIT_HOME") in (None, "", str(PROJECT)):
        os.environ["OPEN_LLM_KIT_HOME"] = str(DRIVE / "open-llm-kit" if DRIVE.is_dir() else PROJECT)
    home = Path(os.environ["OPEN_LLM_KIT_HOME"])
    if home == PROJECT:
        return "Models and LoRAs go when this session ends; the lessons make them anew. To keep them, mount Google Drive and run this cell again."
    kept = [
        f"{kind}/{path.name}" for kind in ("models", "loras") for path in sorted((home / kind).glob("[!.]*"))
    ]
    return f"Models and LoRAs are kept in {home}; there already: {', '.join(kept) or 'nothing'}."
