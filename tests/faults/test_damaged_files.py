"""Every command on a home of which one file is damaged at random: it works, or ends in one line.

KIT_RANDOM_SEED repeats a run, KIT_RANDOM_MINUTES sets the length of the slow form.
"""

import contextlib
import logging
import os
import random
import shutil
import signal
import sys
import time
from pathlib import Path

import pytest
from support.damage import damage, repair
from support.unprivileged import without_overrides
from support.whole_home import CHATS, CHECK, DATA, JUDGE, SETTINGS, TRAIN, run

# Which files a command reads, the command, and how often it is run.
COMMANDS = (
    ("models", "weights list --json", 4),
    ("models/tiny/", "weights size tiny", 4),
    ("models/tiny/", "weights export tiny --for webui-2023", 6),
    ("models/parts/", "weights size parts", 3),
    ("models/parts/", "weights export parts --for webui-2023", 3),
    ("models/gptq/", "weights size gptq", 4),
    ("models/gptq/", "weights export gptq --for webui-2023", 4),
    ("models/wide/", "weights gptq wide", 2),
    ("models/tiny-GGUF/", "weights size tiny-GGUF", 2),
    ("models/tiny-GGUF/", "adapters export mine --for llama.cpp", 4),
    ("models/", "adapters list", 6),
    ("loras/", "adapters list", 16),
    ("loras/mine", "adapters export mine --for webui", 6),
    ("loras/mine", "adapters export mine --for webui-2023", 6),
    ("loras/mine", "adapters export mine --for llama.cpp", 4),
    ("loras/mine", "adapters export mine --for vllm", 4),
    ("loras/old", "adapters export old --for webui", 3),
    ("loras/old", "adapters export old --for llama.cpp", 3),
    ("data/rows", CHECK, 2),
    ("data/rows", f"tasks suggest {DATA}", 2),
    ("data/chats", f"tasks check {CHATS} --model tiny", 2),
    ("templates/", CHECK.replace("check", "preview"), 4),
    ("templates/settings", f"{CHECK} {SETTINGS}", 2),
    ("models/tiny/", CHECK.replace("check", "preview"), 4),
    ("models/tiny/", "adapters prove mine", 2),
    ("loras/mine", "adapters prove mine", 5),
    ("loras/old", "adapters prove old --model tiny", 2),
    ("loras/mine", "adapters merge mine --output new", 3),
    ("models/tiny/", "adapters merge mine --output new", 2),
    ("models/tiny/", f"{JUDGE} --limit 2", 1),
    ("loras/mine", f"{JUDGE} --lora mine --split test --limit 1 --json runs/found.json", 2),
    ("models/tiny/", CHECK, 2),
    ("models/tiny/", "load tiny", 2),
    ("models/tiny-GGUF/", "load tiny-GGUF", 2),
    ("models/gptq/", "load gptq", 1),
    ("loras/mine", "load tiny mine", 2),
    ("templates/", f"{TRAIN}new", 1),
    ("models/tiny/", f"{TRAIN}new", 1),
)  # fmt: skip
MADE = ("models/new", "models/wide-GPTQ", "loras/new", "runs")  # by the commands, beside the home's own files


def list_files(home: Path) -> dict[Path, tuple[bytes, int]]:
    """{file: content and mode} of all that the commands must leave alone."""
    files = (path for path in sorted(home.rglob("*")) if path.is_file() and not path.is_symlink())
    kept = (path for path in files if not str(path.relative_to(home)).startswith(MADE))
    return {path: (path.read_bytes(), path.stat().st_mode) for path in kept}


def try_example(home: Path, files: dict[Path, tuple[bytes, int]], chance: random.Random, capfd) -> str:
    """Damages a file, runs a command, repairs the file; returns what is wrong, in words, or nothing."""
    reads, command, _ = chance.choices(COMMANDS, [often for *_, often in COMMANDS])[0]
    path = chance.choice([path for path in files if str(path.relative_to(home)).startswith(reads)])
    what = damage(path, chance)
    shown = f"{command}: {path.relative_to(home)} {what}"
    capfd.readouterr()
    try:
        with without_overrides():
            code = run(command)
        problem = find_problem(code, command, capfd.readouterr().err)
    except Exception as error:
        trace = error.__traceback__
        while trace and trace.tb_next:
            trace = trace.tb_next
        where = f"{trace.tb_frame.f_code.co_filename}:{trace.tb_lineno}" if trace else ""
        problem = f"{type(error).__name__}: {str(error)[:200]} ({where})"
    for name in MADE:
        shutil.rmtree(home / name, ignore_errors=True)
    (home / "runs").mkdir()
    repair(path, *files[path])
    left = list_files(home)
    if left != files:
        problem = f"{problem} changed: {[str(path) for path in files.keys() ^ left.keys()]}"
        for path, content in files.items():
            repair(path, *content)
        for path in left.keys() - files.keys():
            path.unlink()
    return f"{shown}: {problem}" if problem else ""


def find_problem(code: int, command: str, errors: str) -> str:
    """What is wrong with how a command ended, or nothing."""
    # What takes a while shows a progress bar before it ends: "scoring:  50%|████ ...". One that stands below
    # another goes up a line afterwards.
    lines = [line for line in errors.replace("\x1b[A", "").splitlines() if line.strip() and "%|" not in line]
    if "Traceback" in errors or "panicked" in errors:
        return errors
    verdict = (code == 1 and "tasks check" in command) or (code == 2 and "prove" in command and not lines)
    if code == 0 or verdict:  # a verdict is printed, and no error
        return ""
    if code != 2 or len(lines) != 1 or not lines[0].startswith("error: "):
        return f"exit code {code}, stderr: {errors}"
    return ""


@contextlib.contextmanager
def logs_to(stream):
    """Inside the block, the log handlers of libraries write there, and not where they did at first."""
    loggers = [logging.getLogger(), *map(logging.getLogger, logging.root.manager.loggerDict)]
    handlers = {one for logger in loggers for one in logger.handlers if type(one) is logging.StreamHandler}
    before = {handler: handler.setStream(stream) for handler in handlers}
    try:
        yield
    finally:
        for handler, old in before.items():
            handler.setStream(old or sys.__stderr__)


@contextlib.contextmanager
def limit_seconds(seconds: int):
    """A TimeoutError if the block takes longer."""

    def stop(*_):
        raise TimeoutError

    before = signal.signal(signal.SIGALRM, stop)
    signal.alarm(seconds)
    try:
        yield
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)


def try_examples(home: Path, capfd, count: int, minutes: float) -> None:
    """At least `count` examples and so many minutes."""
    seed = int(os.environ.get("KIT_RANDOM_SEED") or time.time_ns() % 2**32)
    files, start, done, found = list_files(home), time.monotonic(), 0, []
    while done < count or time.monotonic() - start < 60 * minutes:
        with limit_seconds(60), logs_to(sys.stderr):
            if problem := try_example(home, files, random.Random(f"{seed} {done}"), capfd):
                found.append(f"{done}: {problem}")
        done += 1
    print(
        f"KIT_RANDOM_SEED={seed}: {done} examples in {time.monotonic() - start:.0f} s, {len(found)} problems"
    )
    assert not found, f"KIT_RANDOM_SEED={seed}\n" + "\n".join(found)


@pytest.mark.random
def test_command_on_a_damaged_file_works_or_ends_in_one_line(whole_home, capfd):
    try_examples(whole_home, capfd, 500, 0)


@pytest.mark.random
@pytest.mark.slow
def test_command_on_a_damaged_file_works_or_ends_in_one_line_for_long(whole_home, capfd):
    try_examples(whole_home, capfd, 500, float(os.environ.get("KIT_RANDOM_MINUTES", "60")))
