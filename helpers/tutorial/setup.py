"""What the first cell of every lesson calls: it checks that all packages are installed.

In Colab it installs the missing ones and leaves every package that is already in use as it is.

It runs before anything is installed. It therefore imports the standard library, packaging (which every
Jupyter kernel brings) and helpers.common only.
"""

import importlib
import os
import shutil
import sys
import time
import tomllib
from collections.abc import Iterable
from importlib import metadata
from pathlib import Path
from typing import Any

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from helpers.common.addresses import spare_localhost
from helpers.common.errors import MismatchError, MissingPackageError, UnsupportedError
from helpers.common.paths import PROJECT
from helpers.tutorial.installing import Versions, install_mixed, run_pip, run_quietly

KEPT = ("torch", "numpy")  # the other packages of a machine are built against these two
INTERFACE = "jupyterlab"  # not needed: whoever runs a lesson has a notebook interface
DRIVE = Path("/content/drive/MyDrive")  # where Colab mounts Google Drive


def set_up() -> None:
    """Prints what it found and did. Raises MissingPackageError if a package is missing outside Colab."""
    in_colab = "COLAB_RELEASE_TAG" in os.environ
    installed = read_installed()
    extras = ("lab", "llamacpp") if in_colab else ("lab",)
    unmet = find_unmet(read_requirements(*extras), installed)
    if unmet and not in_colab:
        raise MissingPackageError(
            f"This kernel's Python lacks {join_names(unmet)}.",
            "Choose the kernel of `make lab`, or install the kit: pip install --editable 'KIT_FOLDER[lab]'",
        )
    if canonicalize_name("open-llm-kit") not in installed:
        show_kit_to_child_processes()
    if unmet:
        print(install(unmet, installed))
    spare_localhost()  # a lesson calls its own server with plain requests and the plain OpenAI client
    print("All packages that the lessons need are here.")
    if in_colab and shutil.which("nvidia-smi"):
        print(add_gptq(find_fixed(read_installed())))
    if in_colab:
        print(choose_home())


def show_kit_to_child_processes() -> None:
    """Puts the project on PYTHONPATH, so that a server that a lesson starts can import the kit."""
    paths = [str(PROJECT)]
    if os.environ.get("PYTHONPATH"):
        paths.append(os.environ["PYTHONPATH"])
    os.environ["PYTHONPATH"] = os.pathsep.join(paths)


def read_requirements(*extras: str) -> list[Requirement]:
    """What the lessons need on this system: the dependencies in pyproject.toml, and those of these extras."""
    requirements = [Requirement(line) for line in read_project()["dependencies"]]
    for extra in extras:
        requirements += read_extra(extra)
    return [
        requirement
        for requirement in requirements
        if requirement.name != INTERFACE and applies_here(requirement)
    ]


def applies_here(requirement: Requirement) -> bool:
    """True if the requirement's marker (such as sys_platform == 'linux') fits this system, without extras."""
    return requirement.marker is None or requirement.marker.evaluate({"extra": ""})


def read_project() -> dict[str, Any]:
    """The table [project] of pyproject.toml."""
    return tomllib.loads((PROJECT / "pyproject.toml").read_text(encoding="utf-8"))["project"]


def read_extra(name: str) -> list[Requirement]:
    """The requirements of one extra in pyproject.toml."""
    return [Requirement(line) for line in read_project()["optional-dependencies"][name]]


def read_installed() -> Versions:
    """Every installed distribution. Of two with the same name, the first one on the path counts."""
    installed = {}
    for distribution in metadata.distributions():
        installed.setdefault(canonicalize_name(distribution.name), distribution.version)
    return installed


def find_unmet(requirements: list[Requirement], installed: Versions) -> list[Requirement]:
    """The requirements whose package is not installed, or is installed in a version outside their range."""
    return [requirement for requirement in requirements if not is_met(requirement, installed)]


def is_met(requirement: Requirement, installed: Versions) -> bool:
    """True if the package is installed in a version within the range; pre-releases count."""
    version = installed.get(canonicalize_name(requirement.name))
    return version is not None and requirement.specifier.contains(version, prereleases=True)


def find_fixed(installed: Versions) -> Versions:
    """What must stay as it is: torch, numpy, and every distribution that this kernel has imported from."""
    owners = metadata.packages_distributions()  # top-level module -> the distributions that it may come from
    fixed: set[str] = set(KEPT)
    for module in list(sys.modules):
        if "." not in module:
            fixed.update(canonicalize_name(owner) for owner in owners.get(module, ()))
    return {name: installed[name] for name in sorted(fixed & installed.keys())}


def install(unmet: list[Requirement], installed: Versions) -> str:
    """Installs `unmet` and its dependencies, in the tested versions if they fit; returns what it did.

    Raises UnsupportedError if a package that is in use would have to change, and MissingPackageError if pip
    cannot install what is missing.
    """
    started = time.monotonic()
    fixed = find_fixed(installed)
    refuse_to_change(unmet, fixed)
    print(f"Installing {join_names(unmet)} (a few minutes) ...", flush=True)
    problem = run_pip(unmet, fixed | read_tested(unmet, installed))
    if problem:  # the tested versions may not fit what this machine has: let pip choose others
        problem = run_pip(unmet, fixed)
    if problem:
        raise MissingPackageError(
            f"pip cannot install what is missing: {problem}",
            "Start with a new runtime: Runtime, Disconnect and delete runtime.",
        )
    importlib.invalidate_caches()
    return describe_change(installed, read_installed(), time.monotonic() - started)


def refuse_to_change(unmet: list[Requirement], fixed: Versions) -> None:
    """Raises UnsupportedError if one of `unmet` is in use here in another version."""
    for requirement in unmet:
        version = fixed.get(canonicalize_name(requirement.name))
        if version:
            raise UnsupportedError(
                f"This runtime has {requirement.name} {version} in use, but the kit needs {requirement}.",
                "Choose another runtime version: Runtime, Change runtime type.",
            )


def read_tested(unmet: list[Requirement], installed: Versions) -> Versions:
    """The versions in constraints.txt of the packages in `unmet` and of those that are not installed."""
    wanted = {canonicalize_name(requirement.name) for requirement in unmet}
    tested = {}
    for line in (PROJECT / "constraints.txt").read_text(encoding="utf-8").splitlines():
        package, _, version = line.partition("==")
        name = canonicalize_name(package)
        if version and (name in wanted or name not in installed):
            tested[name] = version
    return tested


def describe_change(before: Versions, after: Versions, seconds: float) -> str:
    """What an installation changed, in words. Raises MismatchError if it changed torch or numpy."""
    changed = {name for name, version in after.items() if before.get(name, version) != version}
    described = {name: f"{name} {after[name]} (before: {before[name]})" for name in sorted(changed)}
    broken = [words for name, words in described.items() if name in KEPT]
    if broken:
        raise MismatchError(
            f"The installation changed {', '.join(broken)}.",
            "Start with a new runtime: Runtime, Disconnect and delete runtime.",
        )
    added = len(after.keys() - before.keys())
    kept = ", ".join(f"{name} {after[name]}" for name in KEPT)
    lines = [f"Installed in {seconds:.0f} s: {added} packages. As they were: {kept}."]
    if described:
        lines.append(f"In another version than before: {', '.join(described.values())}.")
    lines.append("No restart is needed.")
    return "\n".join(lines)


def add_gptq(fixed: Versions) -> str:
    """Installs what reads GPTQ weights on a GPU and tries it; returns the outcome, in words.

    If it fails, the lane becomes tiny.
    """
    problem = install_gptq(fixed)
    if not problem:
        return "gptqmodel is here and has run a layer: GPTQ weights can be loaded."
    os.environ.setdefault("KIT_LANE", "tiny")
    return f"GPTQ weights cannot be loaded here, so the lane is {os.environ['KIT_LANE']}: {problem}"


def install_gptq(fixed: Versions) -> str:
    """Installs the extra gptq and runs one layer. Returns why it failed, or "" if it did not.

    gptqmodel requires one exact version of numpy. It is therefore installed without its dependencies, and
    then those dependencies that this machine has in no version at all.
    """
    wanted = read_extra("gptq")
    problem = install_mixed(wanted, fixed, "--no-deps")
    importlib.invalidate_caches()
    return problem or install_mixed(find_absent(wanted, read_installed()), fixed) or try_gptq()


def find_absent(requirements: list[Requirement], installed: Versions) -> list[Requirement]:
    """The dependencies of `requirements` that are not installed in any version.

    The requirements themselves must be installed; their extras do not count.
    """
    absent = []
    for requirement in requirements:
        for line in metadata.requires(requirement.name) or []:
            needed = Requirement(line)
            if applies_here(needed) and canonicalize_name(needed.name) not in installed:
                absent.append(needed)
    return absent


def try_gptq() -> str:
    """Runs a GPTQ layer in a separate process. Returns the last line of its error output, or "" if it ran."""
    code = "from helpers.loading.kernel_trial import try_layer; try_layer()"
    return run_quietly([sys.executable, "-c", code], PROJECT)


def choose_home() -> str:
    """Sets OPEN_LLM_KIT_HOME, where Colab keeps models/, loras/ and runs/; returns the choice, in words.

    A value that the user has set stays. Otherwise it is Google Drive if it is mounted, or else the kit's
    folder.
    """
    if os.environ.get("OPEN_LLM_KIT_HOME") in (None, "", str(PROJECT)):
        chosen = DRIVE / "open-llm-kit" if DRIVE.is_dir() else PROJECT
        os.environ["OPEN_LLM_KIT_HOME"] = str(chosen)
    home = Path(os.environ["OPEN_LLM_KIT_HOME"])
    if home == PROJECT:
        return (
            "Models and LoRAs are deleted when this session ends; the lessons make them again. "
            "To keep them, mount Google Drive and run this cell again."
        )
    kept = []
    for kind in ("models", "loras"):
        kept += [f"{kind}/{path.name}" for path in sorted((home / kind).glob("[!.]*"))]
    return f"Models and LoRAs are kept in {home}; there already: {', '.join(kept) or 'nothing'}."


def join_names(requirements: Iterable[Requirement]) -> str:
    """The packages' names, separated by commas."""
    return ", ".join(requirement.name for requirement in requirements)
