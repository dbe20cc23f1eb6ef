"""What a notebook says about its own work: a checkpoint's green line or its remedy, a guess beside what was found, a published result.

The checkpoints of artefacts (weights, split, taught tokens, adapter) are functions here, so that tests show each of them a broken one.
"""

from typing import TYPE_CHECKING

from IPython.display import display

from helpers.weights.folders import ModelFolder

if (
    TYPE_CHECKING
):  # they bring torch, pandas and scikit-learn: seconds that a lesson's first cell need not wait
    import torch

    from helpers.adapters.proving import Finding
    from helpers.tasks.rows import Row

MIME = "application/vnd.open-llm-kit+json"


def confirm(passed: bool, claim: str, remedy: str) -> None:
    """A checkpoint: prints that the claim holds, or what to do. Never stops a notebook."""
    print(f"✅ {claim}" if passed else f"❌ not yet: {claim}. What to do: {remedy}")


def confirm_weights(folder: ModelFolder) -> None:
    """Checkpoint of a model's folder: every file is there and whole, and the weights are those that were fetched."""
    damage = folder.find_damage()
    confirm(
        not damage,
        "the folder is complete, and its weights are as they were fetched",
        f"{damage}: delete the folder, fetch again",
    )


def confirm_split(train: "list[Row]", test: "list[Row]") -> None:
    """Checkpoint of a split: no comment of the test is trained on, not even in other letters or punctuation."""
    from helpers.tasks.split import find_leaks

    confirm(
        not find_leaks(train, test),
        "no comment is on both sides of the split",
        "split by comment: dataset.split_rows",
    )


def confirm_endings(labels: "torch.Tensor", end: int) -> None:
    """Checkpoint of what the loss sees, token ids or -100 of shape (rows, tokens): in every row it sees the token that ends the answer."""
    remedy = (
        "the chat template must end each answer with it, and padding is known by its place, not by its token"
    )
    confirm(bool((labels == end).any(1).all()), "every row teaches the end of its answer", remedy)


def confirm_adapter(findings: "list[Finding]") -> None:
    """Checkpoints of a LoRA, a line for each thing that `proving.prove` looked at; one without a record to hold it against passes."""
    for finding in findings:
        confirm(finding.passed is not False, finding.claim, finding.remedy)


def compare_guess(guess: float | str | None, found: float | str, unit: str = "") -> None:
    """Sets a learner's prediction beside what was found; numbers are compared by their ratio. `unit` follows both numbers."""
    if guess is None:
        print(
            f"No guess yet; found: {describe_value(found, unit)}. Guess first next time: what surprises is remembered."
        )
    elif isinstance(guess, str) or isinstance(found, str):
        print(f"Guessed {guess!r}, found {found!r}: {'right' if guess == found else 'not so'}.")
    else:
        ratio = max(guess, found) / min(guess, found) if min(guess, found) > 0 else float("inf")
        far = f"{ratio:.1f} times" if ratio < 100 else "far"
        words = (
            "close" if ratio <= 1.15 or guess == found else f"{far} too {'high' if guess > found else 'low'}"
        )
        print(f"Guessed {describe_value(guess, unit)}, found {describe_value(found, unit)}: {words}.")


def describe_value(value: float | str, unit: str) -> str:
    """A number with its unit, as a person writes it; shares as per cent when the unit is %."""
    if isinstance(value, str):
        return repr(value)
    return f"{value:.1%}" if unit == "%" else f"{value:,.4g} {unit}".strip()


def publish(name: str, value: object) -> None:
    """Shows `name: value` below the cell, and keeps the pair in the notebook, where helpers.tutorial.execution collects it.

    `value` is what JSON can hold. Names in use: answer.raw and answer.openai (text); accuracy.majority, accuracy.base and
    accuracy.lora ({"value": share between 0 and 1, "interval": [low, high]}).
    """
    text = (
        value
        if not isinstance(value, dict)
        else f"{value['value']:.1%}, 95 % interval {value['interval'][0]:.1%} to {value['interval'][1]:.1%}"
    )
    display({MIME: {"name": name, "value": value}, "text/plain": f"{name}: {text}"}, raw=True)


def describe_accuracy(accuracy: float, rows: int) -> dict:
    """An accuracy as `publish` takes it: {"value", "interval": [low, high]}, the interval 95 % Wilson."""
    from helpers.evaluation.metrics import (
        estimate_interval,  # brings pandas and scikit-learn: seconds that a lesson's first cell need not wait
    )

    return {"value": accuracy, "interval": list(estimate_interval(round(accuracy * rows), rows))}
