"""How fast rows are judged: the kit's packed scoring against generating an answer for each row; and whether it changes a verdict.

    python -m benchmarks.evaluation [--rounds 3] [--rows 64] [--check 100] [--lora NAME]

Both take turns in one process, in the machine's best dtype. `--check` rows are then scored in float32, packed and one whole sequence
at a time, and their verdicts compared.
"""

import argparse
import random
import statistics
import time

import torch

from helpers import find_home, write_json
from helpers.attaching import attach_adapter
from helpers.dataset import load_rows, split_rows
from helpers.evaluation import score_answers, score_plainly, tokenize_row
from helpers.loading import LoadedModel, chat, load_model
from helpers.machine import name_device
from helpers.templating import load_template
from helpers.weights import fetch


def load(dtype: str | None, lora: str | None) -> LoadedModel:
    """The embedded model, with an adapter when one is named."""
    loaded = load_model("SmolLM2-135M-Instruct", dtype=dtype)
    if lora:
        attach_adapter(loaded, lora)
    return loaded


def time_call(function, *arguments) -> float:
    """Seconds of a call."""
    start = time.perf_counter()
    function(*arguments)
    return time.perf_counter() - start


def count_changed_verdicts(loaded: LoadedModel, rows: list, template) -> int:
    """How many rows get another verdict from packed scoring than from one whole sequence at a time."""
    changed = 0
    with torch.inference_mode():
        for row, packed in zip(rows, score_answers(loaded, rows, template, progress=False), strict=True):
            plain = score_plainly(loaded, *tokenize_row(loaded, row, template))
            changed += max(packed, key=packed.get) != max(plain, key=plain.get)
    return changed


def measure_rates(loaded: LoadedModel, rows: list, template, rounds: int) -> dict[str, float]:
    """Rows a second of each way, medians of rounds in which they take turns."""
    seconds: dict[str, list[float]] = {"scoring": [], "generating": []}
    for _ in range(rounds):
        seconds["scoring"].append(time_call(score_answers, loaded, rows, template, 16, False))
        seconds["generating"].append(time_call(lambda: [chat(loaded, template.build_messages(row), max_new_tokens=16) for row in rows]))
    return {name: len(rows) / statistics.median(times) for name, times in seconds.items()}


def main() -> None:
    """Prints the figures and writes them as JSON to runs/."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--rows", type=int, default=64)
    parser.add_argument("--check", type=int, default=100)
    parser.add_argument("--lora")
    options = parser.parse_args()
    fetch("smollm2-135m-instruct")
    template = load_template("templates/college_preferences.yaml")
    test = split_rows(load_rows("data/college_preferences/dataset.csv", template))[1]
    rows = random.Random(0).sample(test, min(options.rows, len(test)))  # the file has its longest comments first
    rates = measure_rates(load(None, options.lora), rows, template, options.rounds)
    changed = count_changed_verdicts(load("float32", options.lora), test[: options.check], template)
    print(f"scoring {rates['scoring']:.2f} rows a second, generating {rates['generating']:.2f}: {rates['scoring'] / rates['generating']:.1f}x")
    print(f"verdicts changed by packing, float32: {changed} of {len(test[: options.check])}")
    record = {"date": time.strftime("%Y-%m-%d"), "device": name_device(), **vars(options), "rows_per_second": rates, "changed": changed}
    print(write_json(find_home() / "runs" / f"benchmark-evaluation-{time.strftime('%Y-%m-%d_%H-%M-%S')}.json", record))


if __name__ == "__main__":
    main()
