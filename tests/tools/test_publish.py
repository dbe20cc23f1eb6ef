"""An address is nowhere until it is published; then it is pinned to a commit, which a set-up cell checks."""

import re
import subprocess
import sys
import sysconfig
from pathlib import Path

import nbformat
import pytest
from support.lessons import NOTEBOOKS, PATHS, list_code_cells, read_notebook

from helpers.common.command import run_command
from helpers.common.errors import MismatchError, NotFoundError, UsageError
from helpers.common.paths import PROJECT
from tools.files import update_all
from tools.publication import PAGES, Publication, build_setup_cell, put_badge, read_publication
from tools.publish import check_publication, main, publish

LOCAL = re.compile(r"file://\S+")  # the tests' repositories are folders on this disk
SITE = sysconfig.get_paths()["purelib"]
# Runs a cell in IPython. -S and the path by hand: this Python has the kit, and the cell must not see it.
SHELL = f"""
import sys; sys.path.append({SITE!r})
from IPython.core.interactiveshell import InteractiveShell
InteractiveShell.colors = "nocolor"
InteractiveShell.instance().run_cell(sys.argv[1])
"""


def git(folder: Path, *words: str) -> str:
    """What git prints in a folder."""
    identity = ("-c", "user.name=tester", "-c", "user.email=tester@localhost")
    command = ["git", "-C", str(folder), *identity, *words]
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()


def commit(folder: Path, tag: str) -> str:
    """Commits everything and tags it with a message; returns the commit."""
    git(folder, "add", "--all")
    git(folder, "commit", "--quiet", "--message", tag)
    git(folder, "tag", "--annotate", "--message", tag, tag)
    return git(folder, "rev-parse", "HEAD")


@pytest.fixture
def kit(tmp_path):
    """A checkout with what an address goes into, and a set-up that says that it ran; its tag v1 is pushed."""
    folder = tmp_path / "kit"
    for path in (PROJECT / "pyproject.toml", *(PROJECT / page for page in PAGES), *PATHS):
        copy = folder / path.relative_to(PROJECT)
        copy.parent.mkdir(parents=True, exist_ok=True)
        copy.write_text(path.read_text(encoding="utf-8"), encoding="utf-8")
    (folder / "notebooks" / "text").mkdir()
    for path in sorted((NOTEBOOKS / "text").glob("*.py")):
        text = path.read_text(encoding="utf-8")
        (folder / "notebooks" / "text" / path.name).write_text(text, encoding="utf-8")
    (folder / "helpers" / "tutorial").mkdir(parents=True)
    (folder / "helpers" / "__init__.py").touch()
    (folder / "helpers" / "tutorial" / "__init__.py").touch()
    write_setup(folder, "def set_up(): print('set up')")
    subprocess.run(["git", "init", "--quiet", "--initial-branch", "main", folder], check=True)
    commit(folder, "v1")
    git(folder, "clone", "--quiet", "--bare", str(folder), str(tmp_path / "remote"))
    return folder


@pytest.fixture
def remote(kit, tmp_path):
    """The address of the repository to which the kit was pushed."""
    return f"file://{tmp_path / 'remote'}"


def write_setup(folder: Path, code: str) -> None:
    """Gives a kit this code as the module that the set-up cell imports."""
    (folder / "helpers" / "tutorial" / "setup.py").write_text(code, encoding="utf-8")


def read_files(folder: Path) -> dict[Path, str]:
    """The text files of a checkout, without git's own."""
    paths = [path for path in sorted(folder.rglob("*")) if path.is_file() and ".git" not in path.parts]
    return {path: path.read_text(encoding="utf-8") for path in paths}


def run_cell(kit: Path, here: Path) -> str:
    """What the set-up cell of the first lesson prints in the folder `here`."""
    here.mkdir(exist_ok=True)
    source = list_code_cells(nbformat.read(kit / "notebooks" / PATHS[0].name, as_version=4))[0].source
    command = [sys.executable, "-S", "-c", SHELL, source]
    done = subprocess.run(command, cwd=here, capture_output=True, text=True, env=clean_environment(here))
    return done.stdout + done.stderr


def clean_environment(home: Path) -> dict[str, str]:
    """An environment without a PYTHONPATH and without anybody's settings."""
    return {"PATH": "/usr/local/bin:/usr/bin:/bin", "HOME": str(home), "IPYTHONDIR": str(home / ".ipython")}


@pytest.mark.skipif(read_publication() is not None, reason="this checkout names a published repository")
def test_unpublished_kit_names_no_address_and_clones_nothing():
    texts = [path.read_text(encoding="utf-8") for path in (*PATHS, *(PROJECT / page for page in PAGES))]
    assert not [text for text in texts if re.search(r"git clone \S*https?://\S+ open-llm-kit", text)]
    assert not [text for text in texts if "colab.research.google.com/github" in text]
    assert "git" not in build_setup_cell(None)


def test_set_up_cell_without_a_kit_stops_with_one_line(kit, tmp_path):
    printed = run_cell(kit, tmp_path / "elsewhere").strip()
    assert "OPEN_LLM_KIT_HOME" in printed and len(printed.splitlines()) == 1, printed
    assert not (tmp_path / "elsewhere" / "open-llm-kit").exists()


@pytest.mark.parametrize("here", [".", "notebooks", "above"])
def test_set_up_cell_finds_the_kit_here_above_and_beside_it(kit, tmp_path, here):
    folder = kit / here
    if here == "above":  # a folder in which somebody put the kit as open-llm-kit
        folder = tmp_path / here
        folder.mkdir()
        kit.rename(folder / "open-llm-kit")
        kit = folder / "open-llm-kit"
    assert run_cell(kit, folder).strip() == "set up"


def test_published_address_is_pinned_in_every_place(kit, remote):
    publication = check_publication(remote, "v1", kit, LOCAL)
    assert publication.commit == git(kit, "rev-parse", "HEAD")
    publish(publication, kit)
    assert read_publication(kit) == publication
    texts = read_files(kit)
    for name in ("pyproject.toml", *PAGES, *(f"notebooks/{path.name}" for path in PATHS)):
        assert remote in texts[kit / name] and publication.commit in texts[kit / name], name
    for path in PATHS:
        assert publication.commit in texts[kit / "notebooks" / "text" / f"{path.stem}.py"]


def test_another_address_replaces_the_first_and_removing_it_leaves_no_trace(kit):
    before = read_files(kit)
    first, second = (Publication(f"https://github.com/{name}/kit", "v1", "0" * 40) for name in ("one", "two"))
    publish(first, kit)
    publish(second, kit)
    assert not [path for path, text in read_files(kit).items() if "github.com/one/kit" in text]
    publish(None, kit)
    assert read_files(kit) == before


def test_badge_is_pinned_and_only_where_colab_can_open_the_lesson():
    source = read_notebook(PATHS[0]).cells[0].source
    github = Publication("https://github.com/one/kit", "v1", "1" * 40)
    badge = f"/github/one/kit/blob/{'1' * 40}/notebooks/01_weights.ipynb"
    assert badge in put_badge(source, github, "01_weights")
    other = Publication("https://example.org/one/kit", "v1", "1" * 40)
    assert "colab" not in put_badge(put_badge(source, github, "01_weights"), other, "01_weights")


def test_dry_run_shows_the_change_and_writes_nothing(kit, capsys):
    before = read_files(kit)
    publish(Publication("https://github.com/one/kit", "v1", "1" * 40), kit, dry_run=True)
    assert "https://github.com/one/kit" in capsys.readouterr().out and read_files(kit) == before


def test_files_are_written_all_or_none(tmp_path):
    first, second = tmp_path / "first", tmp_path / "second"
    first.write_text("old", encoding="utf-8")
    second.write_text("old", encoding="utf-8")
    with pytest.raises(UsageError):
        update_all({first: "new", second: "\ud800"})  # half a surrogate pair cannot be written as UTF-8
    assert first.read_text(encoding="utf-8") == second.read_text(encoding="utf-8") == "old"


@pytest.mark.parametrize(
    "address",
    """http://github.com/one/kit  https://github.com/one  https://github.com/one/kit/tree/main
    https://me:secret@github.com/one/kit  https://github.com/one/kit;id  git@github.com:one/kit
    https://github.com/../kit  file:///tmp/kit""".split(),
)
def test_malformed_address_is_refused(kit, address):
    with pytest.raises(UsageError):
        check_publication(address, "v1", kit)


def test_revision_that_is_not_here_is_refused(kit, remote):
    for revision in ("v2", "--all", "", "v1^0"):
        with pytest.raises(NotFoundError):
            check_publication(remote, revision, kit, LOCAL)


def test_revision_that_is_not_pushed_or_is_another_commit_there_is_refused(kit, remote):
    (kit / "new").touch()
    commit(kit, "v2")
    with pytest.raises(MismatchError, match="Push it"):
        check_publication(remote, "v2", kit, LOCAL)
    git(kit, "tag", "--force", "v1")
    with pytest.raises(MismatchError, match="v1"):
        check_publication(remote, "v1", kit, LOCAL)


@pytest.mark.parametrize("words", [[], ["--remove", "--revision", "v1"], ["--repository", "https://a.b/c/d"]])
def test_wrong_command_line_is_one_line(words, capsys):
    assert run_command(main, words) == 2
    assert capsys.readouterr().err.count("\n") == 1


def test_first_publication_says_that_the_badges_need_a_second_one(kit, remote, capsys):
    publish(check_publication(remote, "v1", kit, LOCAL), kit)
    assert "once more" in capsys.readouterr().err
    commit(kit, "v2")
    git(kit, "push", "--quiet", remote, "main", "v2")
    publish(check_publication(remote, "v2", kit, LOCAL), kit)
    assert capsys.readouterr().err == ""


def test_published_cell_fetches_the_commit_and_runs_it_again_and_again(kit, remote, tmp_path):
    publish(check_publication(remote, "v1", kit, LOCAL), kit)
    for _ in range(2):
        assert run_cell(kit, tmp_path / "session").strip() == "set up"


def test_published_cell_refuses_another_commit(kit, remote, tmp_path):
    publish(check_publication(remote, "v1", kit, LOCAL), kit)
    other = tmp_path / "other"
    git(tmp_path, "clone", "--quiet", remote, str(other))
    write_setup(other, "print('theirs')")
    git(other, "checkout", "--quiet", "--orphan", "theirs")
    commit(other, "v9")
    remote_folder = Path(remote.removeprefix("file://"))
    remote_folder.rename(tmp_path / "gone")
    only_theirs = ("--bare", "--single-branch", "--no-tags", "--no-local")
    git(tmp_path, "clone", "--quiet", *only_theirs, str(other), str(remote_folder))
    for _ in range(2):  # what the first try left behind is not taken by the second one
        printed = run_cell(kit, tmp_path / "session")
        assert "not the published commit" in printed and "theirs" not in printed
        assert "Traceback" not in printed and "set up" not in printed


def test_published_cell_refuses_a_clone_that_was_moved_to_another_commit(kit, remote, tmp_path):
    publish(check_publication(remote, "v1", kit, LOCAL), kit)
    session = tmp_path / "session"
    run_cell(kit, session)
    write_setup(session / "open-llm-kit", "print('theirs')")
    commit(session / "open-llm-kit", "v9")
    printed = run_cell(kit, session)
    assert "not the published commit" in printed and "theirs" not in printed
