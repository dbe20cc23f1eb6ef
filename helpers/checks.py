"""What a notebook says about its own work: a checkpoint's green line or its remedy, a published result, the measured cost."""

import json

from IPython.display import display

from helpers import PROJECT

MIME = "application/vnd.open-llm-kit+json"
RECORD = PROJECT / "benchmarks" / "tutorial.json"  # the report of the run whose outputs the notebooks show


def confirm(passed: bool, claim: str, remedy: str) -> None:
    """A checkpoint: prints that the claim holds, or what to do. Never stops a notebook."""
    print(f"✅ {claim}" if passed else f"❌ not yet: {claim}. What to do: {remedy}")


def compare_guess(guess: float | str | None, found: float | str, unit: str = "") -> None:
    """Sets a learner's prediction beside what was found; numbers are compared by their ratio. `unit` follows both numbers."""
    if guess is None:
        print(f"No guess yet; found: {describe_value(found, unit)}. Guess first next time: what surprises is remembered.")
    elif isinstance(guess, str) or isinstance(found, str):
        print(f"Guessed {guess!r}, found {found!r}: {'right' if guess == found else 'not so'}.")
    else:
        ratio = max(guess, found) / min(guess, found) if min(guess, found) > 0 else float("inf")
        far = f"{ratio:.1f} times" if ratio < 100 else "far"
        words = "close" if ratio <= 1.15 or guess == found else f"{far} too {'high' if guess > found else 'low'}"
        print(f"Guessed {describe_value(guess, unit)}, found {describe_value(found, unit)}: {words}.")


def describe_value(value: float | str, unit: str) -> str:
    """A number with its unit, as a person writes it; shares as per cent when the unit is %."""
    if isinstance(value, str):
        return repr(value)
    return f"{value:.1%}" if unit == "%" else f"{value:,.4g} {unit}".strip()


def publish(name: str, value: object) -> None:
    """Shows `name: value` below the cell, and keeps the pair in the notebook, where helpers.tutorial collects it.

    `value` is what JSON can hold. Names in use: answer.raw and answer.openai (text); accuracy.majority, accuracy.base and
    accuracy.lora ({"value": share between 0 and 1, "interval": [low, high]}).
    """
    text = value if not isinstance(value, dict) else f"{value['value']:.1%}, 95 % interval {value['interval'][0]:.1%} to {value['interval'][1]:.1%}"
    display({MIME: {"name": name, "value": value}, "text/plain": f"{name}: {text}"}, raw=True)


def describe_accuracy(accuracy: float, rows: int) -> dict:
    """An accuracy as `publish` takes it: {"value", "interval": [low, high]}, the interval 95 % Wilson."""
    from helpers.verdicts import estimate_interval  # brings pandas and scikit-learn: seconds that a lesson's first cell need not wait

    return {"value": accuracy, "interval": list(estimate_interval(round(accuracy * rows), rows))}


def show_cost(name: str) -> None:
    """Prints minutes and memory of a notebook as they were measured in the recorded run, and that other lanes have no record."""
    record = json.loads(RECORD.read_text(encoding="utf-8")) if RECORD.is_file() else {"notebooks": []}
    found = next((entry for entry in record["notebooks"] if entry["name"] == name), None)
    if found is None:
        print(f"No record for {name} yet: `make tutorial` measures it.")
        return
    print(f"lane {record['lane']}: {found['minutes']} minutes, {found['peak_mb'] / 1000:.1f} GB of memory")
    print(f"measured {record['date']} on {record['device']}, commit {record['commit']}; no record for the other lanes yet")
