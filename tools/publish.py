"""Puts the address of a published repository, pinned to a commit, into every place that names one.

`python -m tools.publish --repository https://HOST/OWNER/NAME --revision TAG` writes pyproject.toml, the
set-up cells and badges of the lessons, their text pairs, README.md and the guide: all of them or none. Until
then the kit names no address, so that nobody runs what a stranger may have put there.
"""

import difflib
import os
import re
import subprocess
import sys
from pathlib import Path

from helpers.common.command import CommandParser, run_command
from helpers.common.errors import MismatchError, NotFoundError, UsageError
from helpers.common.paths import PROJECT
from tools.files import differs, read_source, update_all
from tools.publication import Publication, put_into_pyproject
from tools.tidy_notebooks import build_files

ADDRESS = re.compile(r"https://[A-Za-z0-9][A-Za-z0-9.-]*(?::\d+)?/[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*")
REVISION = re.compile(r"[A-Za-z0-9][\w./+-]*")  # of a tag, no more than what every place can hold
HALF = """\
The lessons of this commit do not name the address yet, so the badges open lessons that cannot fetch the kit.
Commit what was written, tag that commit, push it, and run this once more with the new tag."""


def main(arguments: list[str]) -> None:
    """`python -m tools.publish (--repository URL --revision TAG | --remove) [--dry-run]`."""
    parser = CommandParser(
        prog="python -m tools.publish",
        description="Puts the address of the published repository, pinned to a commit, where it belongs.",
    )
    parser.add_argument("--repository", metavar="URL", help="https://HOST/OWNER/NAME")
    parser.add_argument("--revision", metavar="TAG", help="a tag or commit of this checkout that is pushed")
    parser.add_argument("--remove", action="store_true", help="take the address out of every place")
    parser.add_argument("--dry-run", action="store_true", help="show what would change, and write nothing")
    options = parser.parse_args(arguments)
    if options.remove == bool(options.repository or options.revision):
        parser.error("give --repository and --revision, or --remove")
    if not options.remove and not (options.repository and options.revision):
        parser.error("--repository and --revision belong together")
    publication = None
    if not options.remove:
        publication = check_publication(options.repository, options.revision)
    publish(publication, dry_run=options.dry_run)


def publish(publication: Publication | None, project: Path = PROJECT, dry_run: bool = False) -> list[Path]:
    """Writes the publication, or none, into every place; prints and returns the files that change."""
    pyproject = project / "pyproject.toml"
    files = {pyproject: put_into_pyproject(read_source(pyproject), publication)}
    files |= build_files(project, publication)
    changed = {path: text for path, text in files.items() if differs(path, text)}
    if not dry_run:
        update_all(changed)
    for path, text in changed.items():
        print(path.relative_to(project))
        if dry_run:
            print(describe_change(path, text), end="")
    if publication and not names_address(publication, project):
        print(HALF, file=sys.stderr)
    return list(changed)


def check_publication(
    repository: str,
    revision: str,
    project: Path = PROJECT,
    address: re.Pattern[str] = ADDRESS,
) -> Publication:
    """The publication of a revision of this checkout.

    Raises UsageError if the address or the revision is malformed, NotFoundError if the revision is not in
    this checkout, and MismatchError if the repository does not have it as the same commit.
    """
    repository = repository.removesuffix("/").removesuffix(".git")
    if not address.fullmatch(repository):
        raise UsageError(
            f"'{repository}' is not the address of a repository.", "Give https://HOST/OWNER/NAME."
        )
    commit = ask_git(
        project, "rev-parse", "--verify", "--quiet", "--end-of-options", f"{revision}^{{commit}}"
    )
    if not commit or not REVISION.fullmatch(revision):
        raise NotFoundError(
            f"This checkout has no revision '{revision}'.", "Make it: git tag TAG, then push it."
        )
    check_remote(repository, revision, commit, project)
    return Publication(repository, revision, commit)


def check_remote(repository: str, revision: str, commit: str, project: Path) -> None:
    """Raises MismatchError if the repository answers and does not have `revision` as `commit`.

    A commit that no branch and no tag of the repository points to cannot be looked up: that is said.
    """
    listing = ask_git(project, "ls-remote", "--", repository)
    if listing is None:
        print(f"{repository} cannot be asked now: push {revision} before you publish this.", file=sys.stderr)
        return
    found = {name: value for value, name in (line.split("\t") for line in listing.splitlines())}
    name = f"refs/tags/{revision}"
    theirs = found.get(f"{name}^{{}}", found.get(name))  # ^{} is the commit of a tag with a message
    if theirs not in (None, commit):
        problem = f"{repository} has {revision} as commit {theirs[:12]}; here it is {commit[:12]}."
        raise MismatchError(problem, "Push the tag of this checkout, or fetch theirs.")
    if commit not in found.values():
        problem = f"{repository} has no branch or tag at commit {commit[:12]} ({revision})."
        raise MismatchError(problem, f"Push it: git push {repository} {revision}")


def ask_git(project: Path, *words: str) -> str | None:
    """What git prints in this checkout; None if it fails. It asks for no password."""
    environment = {**os.environ, "GIT_TERMINAL_PROMPT": "0"}
    command = ["git", "-C", str(project), *words]
    try:
        done = subprocess.run(command, capture_output=True, text=True, env=environment, timeout=60)
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout.strip() if done.returncode == 0 else None


def names_address(publication: Publication, project: Path) -> bool:
    """True if the lessons of the published commit name its repository themselves."""
    text = ask_git(project, "show", f"{publication.commit}:pyproject.toml") or ""
    return f'\nRepository = "{publication.repository}"\n' in text


def describe_change(path: Path, text: str) -> str:
    """The lines that leave the file and those that come into it."""
    before = read_source(path).splitlines()
    lines = difflib.unified_diff(before, text.splitlines(), lineterm="", n=0)
    return "".join(f"  {line}\n" for line in list(lines)[2:] if not line.startswith("@@"))


if __name__ == "__main__":
    raise SystemExit(run_command(main))
