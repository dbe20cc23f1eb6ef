"""What a lesson says about its own work: checkpoints, a guess beside what was found, published results.

The checkpoints of a lesson's artefacts (weights, split, training labels, LoRA) are functions here, so that
tests can show that each of them fails on a broken artefact.
"""

import math
from typing import TYPE_CHECKING

from IPython.display import display

from helpers.weights.folders import ModelFolder

# Some functions below import what they need when they are called: torch, pandas and scikit-learn take
# seconds, and the first cell of a lesson should not wait for them.
if TYPE_CHECKING:
    import torch

    from helpers.adapters.proving import Finding
    from helpers.tasks.template import Row

MIME = "application/vnd.open-llm-kit+json"  # the type of a published result in a cell's output


def confirm(passed: bool, claim: str, remedy: str) -> None:
    """A checkpoint: prints that the claim holds, or what to do. It never stops a notebook."""
    if passed:
        print(f"✅ {claim}")
    else:
        print(f"❌ not yet: {claim}. What to do: {remedy}")


def confirm_weights(folder: ModelFolder) -> None:
    """Checkpoint of a model folder: every file is complete, and the weights are those that were fetched."""
    damage = folder.find_damage()
    confirm(
        not damage,
        "the folder is complete, and its weights are as they were fetched",
        f"{damage}: delete the folder, fetch again",
    )


def confirm_split(train: "list[Row]", test: "list[Row]") -> None:
    """Checkpoint of a split: no comment of the test part is trained on.

    Comments count as the same if they differ only in case, space or punctuation.
    """
    from helpers.tasks.split import find_leaks

    confirm(
        not find_leaks(train, test),
        "no comment is on both sides of the split",
        "split by comment: tasks.split_rows",
    )


def confirm_endings(labels: "torch.Tensor", end: int) -> None:
    """Checkpoint of a training batch: in every row, the loss sees the token that ends the answer.

    `labels` has the shape (rows, tokens) and holds token ids, or -100 where the loss looks away. `end` is the
    id of the token that ends an answer.
    """
    has_end = (labels == end).any(1)
    confirm(
        bool(has_end.all()),
        "every row teaches the end of its answer",
        "the chat template must end each answer with it, and padding is known by its place, not by its token",
    )


def confirm_adapter(findings: "list[Finding]") -> None:
    """Checkpoints of a LoRA, one line for each finding of `helpers.adapters.proving.prove`.

    A finding whose `passed` is None passes: the LoRA records nothing that it could be checked against.
    """
    for finding in findings:
        confirm(finding.passed is not False, finding.claim, finding.remedy)


def compare_guess(guess: float | str | None, found: float | str, unit: str = "") -> None:
    """Prints a learner's guess beside what was found. Numbers are compared by their ratio.

    `unit` follows both numbers; with "%" they are shares between 0 and 1.
    """
    if guess is None:
        result = describe_value(found, unit)
        print(f"No guess yet. Answer: {result}. Guess first next time: you remember what surprises you.")
        return
    if isinstance(guess, str) or isinstance(found, str):
        outcome = "Right" if guess == found else "Not this time"
        print(f"Guess: {guess!r}. Answer: {found!r}. {outcome}.")
        return
    guessed, result = describe_value(guess, unit), describe_value(found, unit)
    print(f"Guess: {guessed}. Answer: {result}. {describe_distance(guess, found)}.")


def describe_distance(guess: float, found: float) -> str:
    """How far off a guess is: "Close" (within 15%), "Too low by a factor of 2.0", "Far too high"."""
    low, high = min(guess, found), max(guess, found)
    ratio = high / low if low > 0 else math.inf
    if guess == found:
        return "Right"
    if ratio <= 1.15:
        return "Close"
    side = "high" if guess > found else "low"
    return f"Too {side} by a factor of {ratio:.1f}" if ratio < 100 else f"Far too {side}"


def describe_value(value: float | str, unit: str) -> str:
    """A number with its unit, as a person writes it. With the unit "%", a share becomes a percentage."""
    if isinstance(value, str):
        return repr(value)
    if unit == "%":
        return f"{value:.1%}"
    return f"{value:,.4g} {unit}".strip()


def publish(name: str, value: object, shown: str = "") -> None:
    """Keeps `name: value` in the notebook, for `make tutorial`'s report, and shows the pair below the cell.

    `shown` is shown instead, if it is given. Names in use: answer.raw and answer.openai, whose value is a
    text; scoreboard, whose value is what Scoreboard.list_figures returns. `value` must be what JSON can hold.
    """
    display({MIME: {"name": name, "value": value}, "text/plain": shown or f"{name}: {value}"}, raw=True)
