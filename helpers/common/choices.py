"""What the kit chose for a model and a machine, with the reasons: as lines to show, and as a record."""

import sys
from collections.abc import Mapping
from typing import Any

from helpers.common.arguments import escape
from helpers.common.machine import Choice

Choices = Mapping[str, Choice[Any]]  # by what was chosen, such as "kernel"
WORDS = {True: "on", False: "off", None: "left open"}


def describe_choices(choices: Choices) -> list[str]:
    """A line for each choice, such as "cuda_graphs off: the model is on several devices"."""
    return [
        f"{name} {WORDS.get(choice.value, choice.value)}: {choice.reason}" for name, choice in choices.items()
    ]


def say_choices(choices: Choices) -> None:
    """Prints the lines to stderr."""
    for line in describe_choices(choices):
        print(escape(line), file=sys.stderr, flush=True)


def record_choices(choices: Choices) -> dict[str, dict[str, Any]]:
    """{what was chosen: {"value", "reason"}}, as run.json has it."""
    return {name: choice._asdict() for name, choice in choices.items()}
