"""Commands where the environment lacks something: each works or ends in one line, and older things stay."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
from support.commands import PROJECT, run_elsewhere
from support.whole_home import DATA, JUDGE, TRAIN

# Root without its right to write everywhere; what `python` runs after it is like everybody else's.
UNPRIVILEGED = (
    ["setpriv", "--bounding-set=-dac_override,-dac_read_search,-fowner"] if os.getuid() == 0 else []
)
# A small disk in memory, seen by one process only, with a copy of the home and so many KiB free.
SMALL_DISK = """
mount -t tmpfs -o size=4m tmpfs "$MOUNT" && cp -a "$SOURCE/." "$MOUNT/" || exit 9
dd if=/dev/zero of="$MOUNT/filler" bs=1k count=$((4096 - $(du -sk "$MOUNT" | cut -f1) - FREE)) 2>/dev/null
find "$MOUNT" -type f -exec sha256sum {} + | sort > /dev/shm/before.$$
"$@"
find "$MOUNT" -type f -exec sha256sum {} + | sort > /dev/shm/after.$$
comm -23 /dev/shm/before.$$ /dev/shm/after.$$ >&2
rm /dev/shm/before.$$ /dev/shm/after.$$
"""


def list_commands(home: Path) -> list[list[str]]:
    """Commands that write something, each a module and its arguments."""
    lines = [
        f"{TRAIN}mine",
        "adapters merge mine --output new",
        *(f"adapters export mine --for {program}" for program in ("webui", "webui-2023", "llama.cpp")),
        "weights export tiny --for webui-2023",
        "weights gptq wide",
        f"{JUDGE} --limit 1 --json {home}/runs/found.json",
        f"tasks suggest {DATA} --output {home}/runs/suggested.yaml",
        "tutorial --only 01",
    ]
    split = [line.split() for line in lines]
    return [[f"helpers.{room}.__main__", *rest] for room, *rest in split] + [["tools.slides"]]


def find_faults(lines: list[list[str]], answers: list[dict]) -> list[str]:
    """The commands that ended neither with 0 nor with 2 and one line; progress bars may come before it."""
    faults = []
    for line, answer in zip(lines, answers, strict=True):
        errors = answer["err"].strip().replace("\r", "\n").splitlines()
        said = [one for one in errors if "error: " in one]  # a bar that was not finished may stand before it
        if answer["code"] != (2 if said else 0) or len(said) > 1 or "Traceback" in answer["err"]:
            faults.append(f"{' '.join(line)}: {answer['code']} {answer['err'][-500:]}")
    return faults


@pytest.fixture(scope="module")
def written(whole_home):
    """A home with a LoRA, and a model whose layers GPTQ can pack."""
    from support.tiny import make_tiny_model

    make_tiny_model(whole_home / "models" / "wide", hidden=64)
    return whole_home


@pytest.mark.long
def test_read_only_home_is_one_line(written):
    if UNPRIVILEGED and subprocess.run([*UNPRIVILEGED, "true"], capture_output=True).returncode:
        pytest.skip("this system does not let root give up its rights (setpriv)")
    lines, folders = (
        list_commands(written),
        [written, *(path for path in written.rglob("*") if path.is_dir())],
    )
    files = {path: path.read_bytes() for path in written.rglob("*") if path.is_file()}
    for folder in folders:
        folder.chmod(0o555)
    try:
        answers = run_elsewhere(UNPRIVILEGED, lines, OPEN_LLM_KIT_HOME=str(written))
    finally:
        for folder in folders:
            folder.chmod(0o755)
    assert not find_faults(lines, answers)
    assert {answer["code"] for answer in answers} == {2}
    assert {path: path.read_bytes() for path in written.rglob("*") if path.is_file()} == files


@pytest.mark.long
@pytest.mark.parametrize("free", [0, 100])  # KiB: at once, and in the midst of the work
def test_full_disk_is_one_line_and_leaves_older_things_as_they_were(written, tmp_path, free):
    if subprocess.run(["unshare", "-m", "true"], capture_output=True).returncode:
        pytest.skip("this system does not let us mount a small disk (unshare -m)")
    lines = list_commands(tmp_path)
    places = {"MOUNT": str(tmp_path), "SOURCE": str(written), "FREE": str(free)}
    shell = ["unshare", "-m", "sh", "-c", SMALL_DISK, "sh"]
    told: list[str] = []
    answers = run_elsewhere(shell, lines, told=told, OPEN_LLM_KIT_HOME=str(tmp_path), **places)
    assert not find_faults(lines, answers)
    assert any(answer["code"] == 2 for answer in answers)
    assert not [answer["err"] for answer in answers if "A file could not be written" in answer["err"]]
    changed = [line for line in told if str(tmp_path) in line and "/loras/mine/" not in line]
    assert not changed


def shell(command: str, home: Path, **environment: str) -> subprocess.CompletedProcess[str]:
    """Runs a line of a shell in which $KIT is Python with `-m helpers.`"""
    known = {**os.environ, "PYTHONPATH": str(PROJECT), "OPEN_LLM_KIT_HOME": str(home), **environment}
    command = command.replace("$KIT", f"{sys.executable} -m helpers.")
    return subprocess.run(
        ["bash", "-c", command], env=known, capture_output=True, text=True, cwd=PROJECT, timeout=120
    )


@pytest.mark.long
def test_closed_pipe_ends_a_command_without_a_word(home):
    done = shell("$KITtasks suggest data/clock_house/dataset.csv | true; echo ${PIPESTATUS[0]}", home)
    assert (done.stdout, done.stderr) == ("141\n", "")


@pytest.mark.long
def test_full_device_as_output_is_one_line(home):
    done = shell("$KITtasks suggest data/clock_house/dataset.csv > /dev/full", home)
    assert done.returncode == 2 and len(done.stderr.splitlines()) == 1


@pytest.mark.long
def test_ascii_terminal_gets_what_it_cannot_show_in_json_form(home):
    done = shell("$KITadapters prove größe→", home, PYTHONIOENCODING="ascii")
    assert done.returncode == 2 and "gr\\u00f6\\u00dfe\\u2192" in done.stderr


@pytest.mark.long
@pytest.mark.parametrize(("umask", "mode"), [("077", 0o600), ("000", 0o666)])
def test_files_have_the_mode_that_the_umask_gives(home, umask, mode):
    from support.tiny import make_tiny_model

    make_tiny_model(home / "models" / "tiny")
    done = shell(f"umask {umask}; $KITweights export tiny --for webui-2023", home)
    written = Path(done.stdout.strip()) / "config.json"
    assert written.stat().st_mode & 0o777 == mode
