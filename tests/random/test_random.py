"""Settings, templates and command lines made at random: they are taken, or refused in one line.

What failed is printed with the seed: `KIT_RANDOM_SEED=N python -m pytest tests/random` makes the same again.
`make test-slow` does it for an hour, or KIT_RANDOM_MINUTES, each round with the next seed.
"""

import os
import subprocess
import sys
import time

import hypothesis
import pytest
from hypothesis import HealthCheck, given
from support import random_commands as kit

from helpers import tasks
from helpers.common.errors import KitError
from helpers.common.training_settings import TrainingSettings

# Examples of each command, in this process and in one of their own, by what its imports cost.
INSIDE = {
    "helpers.tasks": 120, "helpers.weights": 120, "helpers.adapters": 60, "helpers.server": 120,
    "helpers.training": 60, "helpers.evaluation": 60, "helpers.tutorial.formats": 20, "helpers.tutorial": 30,
    "benchmarks.gpu": 50, "benchmarks.learning": 30, "tools.slides": 30, "tools.rooms": 20,
}  # fmt: skip
APART = {
    "tools.rooms": 12, "benchmarks.gpu": 20, "helpers.weights": 12, "helpers.server": 3, "helpers.tasks": 1,
    "helpers.tutorial": 1, "helpers.training": 1,
}  # fmt: skip


def check_many(check, strategy, count: int, seed: int) -> None:
    """Calls `check` with `count` examples; what fails is made as small as possible, and printed."""
    print(f"KIT_RANDOM_SEED={seed}")
    options = hypothesis.settings(
        max_examples=count,
        deadline=None,
        database=None,
        suppress_health_check=list(HealthCheck),
        report_multiple_bugs=False,
    )

    def check_and_tell(example):
        try:
            check(example)
        except BaseException as error:
            error.add_note(f"KIT_RANDOM_SEED={seed}, example: {ascii(example)}")
            raise

    hypothesis.seed(seed)(options(given(strategy)(check_and_tell)))()


def check_settings_file(home):
    """A function that reads a file as settings and as a template."""

    def check(content):
        (home / "random.yaml").write_bytes(content)
        for read in (TrainingSettings.from_yaml, tasks.load_template):
            try:
                read(home / "random.yaml")
            except KitError as error:
                str(error).encode()

    return check


def check_settings(values):
    """Settings are taken or refused."""
    try:
        TrainingSettings().replace(values)
    except KitError as error:
        assert len(str(error)) < 1000
        str(error).encode()


def check_inside(module):
    """A function that runs a command in this process."""

    def check(line):
        code, _, err = kit.run(module, line)
        assert not kit.find_fault(module, code, err)

    return check


def check_apart(module):
    """A function that runs a command in a process of its own."""

    def check(line):
        command = [sys.executable, "-m", module, *line]
        run = subprocess.run(command, capture_output=True, text=True, errors="replace", timeout=120)
        assert not kit.find_fault(module, run.returncode, run.stderr)

    return check


def apart(module):
    """Command lines that an operating system passes on: without NUL and most halves of characters."""
    return kit.command_lines(module).filter(can_be_passed)


def can_be_passed(line):
    """Whether the operating system takes these arguments."""
    try:
        return not any(b"\0" in os.fsencode(part) for part in line)
    except UnicodeEncodeError:
        return False


@pytest.mark.random
def test_settings_are_taken_or_refused(seed):
    check_many(check_settings, kit.settings_values(), 400, seed)


@pytest.mark.random
def test_settings_and_template_files_are_taken_or_refused(hollow_home, seed):
    check_many(check_settings_file(hollow_home), kit.yaml_texts(), 400, seed)


@pytest.mark.random
@pytest.mark.parametrize("module", INSIDE)
def test_command_line_ends_without_a_traceback(hollow_home, seed, module):
    check_many(check_inside(module), kit.command_lines(module), INSIDE[module], seed)


@pytest.mark.random
@pytest.mark.parametrize("module", APART)
def test_command_line_in_a_process_of_its_own_ends_without_a_traceback(hollow_home, seed, module):
    check_many(check_apart(module), apart(module), APART[module], seed)


@pytest.mark.slow
@pytest.mark.timeout(24 * 3600)
def test_nothing_made_at_random_ends_in_a_traceback(hollow_home, seed, minutes):
    end = time.monotonic() + 60 * minutes
    rounds = 0
    while time.monotonic() < end:
        print(f"KIT_RANDOM_SEED={seed + rounds}", flush=True)
        check_many(check_settings, kit.settings_values(), 400, seed + rounds)
        check_many(check_settings_file(hollow_home), kit.yaml_texts(), 400, seed + rounds)
        for module, count in INSIDE.items():
            check_many(check_inside(module), kit.command_lines(module), count, seed + rounds)
        rounds += 1
    assert rounds
