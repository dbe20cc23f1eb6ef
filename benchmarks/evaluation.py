"""How fast rows are judged: the kit's packed scoring against generating an answer for each row.

It also says whether packing changes a prediction.

    python -m benchmarks.evaluation [--rounds 3] [--rows 64] [--check 100] [--lora NAME]

All ways take turns in one process, in the machine's best dtype: only as much as the predictions need, as
`evaluate` does; the scores of all answers, as the lesson does; an answer generated a row by transformers
and PEFT as they come, with the batch sizes 1, 8 and 16, and one at a time with the kit's LoRA layers.
`--check` rows are then judged in float32, packed and one whole sequence at a time, and their predictions
compared.
"""

import random
import statistics
import time

import torch
from peft import PeftModel

from benchmarks.records import keep_record, name_record
from helpers.adapters.attaching import attach_adapter
from helpers.adapters.folders import find_adapter
from helpers.common import arguments as types
from helpers.common.command import CommandParser, run_command
from helpers.evaluation.metrics import pick_predictions
from helpers.evaluation.scoring import score_answers, score_plainly, tokenize_row
from helpers.loading.model import LoadedModel, load_model
from helpers.loading.tokenizer import make_chat_tokenizer
from helpers.tasks.rows import load_rows
from helpers.tasks.split import split_rows
from helpers.tasks.template_file import load_template
from helpers.weights.fetching import fetch


def load(dtype: str | None, lora: str | None) -> LoadedModel:
    """The embedded model, with an adapter when one is named."""
    loaded = load_model("SmolLM2-135M-Instruct", dtype=dtype)
    if lora:
        attach_adapter(loaded, lora)
    return loaded


def time_call(function) -> float:
    """Seconds of a call."""
    start = time.perf_counter()
    function()
    return time.perf_counter() - start


def count_changed_predictions(loaded: LoadedModel, rows: list, template) -> int:
    """How many rows get another prediction from packed scoring than from one whole sequence at a time."""
    packed = pick_predictions(score_answers(loaded, rows, template, progress=False, every=False))
    chat = make_chat_tokenizer(loaded.tokenizer)
    with torch.inference_mode():
        plain = pick_predictions([score_plainly(loaded, tokenize_row(chat, row, template)) for row in rows])
    return sum(one != other for one, other in zip(packed, plain, strict=True))


def generate_answers(loaded: LoadedModel, rows: list, template, batch_size: int) -> None:
    """Generates up to 16 tokens for each row, transformers' usual way: in batches, padded on the left."""
    for start in range(0, len(rows), batch_size):
        chats = [template.build_messages(row) for row in rows[start : start + batch_size]]
        inputs = loaded.tokenizer.apply_chat_template(
            chats,
            add_generation_prompt=True,
            return_tensors="pt",
            return_dict=True,
            padding=True,
            tokenizer_kwargs={"padding_side": "left"},
        )
        with torch.inference_mode():
            loaded.model.generate(
                **inputs.to(loaded.model.device),
                max_new_tokens=16,
                do_sample=False,
                temperature=None,
                top_p=None,
            )


def load_stock(lora: str | None) -> LoadedModel:
    """The embedded model, with an adapter put on as PEFT does it when nothing is said."""
    loaded = load(None, None)
    if lora:
        loaded.model = PeftModel.from_pretrained(loaded.model, find_adapter(lora).path)
    return loaded


def measure_rates(
    loaded: LoadedModel, stock: LoadedModel, rows: list, template, rounds: int
) -> dict[str, float]:
    """Rows a second of each way, medians of rounds in which they take turns."""
    ways = {
        "predictions": lambda: score_answers(loaded, rows, template, progress=False, every=False),
        "all scores": lambda: score_answers(loaded, rows, template, progress=False),
        "generating, 1 at a time": lambda: generate_answers(stock, rows, template, 1),
        "the same, the kit's LoRA": lambda: generate_answers(loaded, rows, template, 1),
        "generating, 8 at a time": lambda: generate_answers(stock, rows, template, 8),
        "generating, 16 at a time": lambda: generate_answers(stock, rows, template, 16),
    }
    seconds = [{name: time_call(way) for name, way in ways.items()} for _ in range(rounds)]
    return {name: len(rows) / statistics.median(found[name] for found in seconds) for name in ways}


def main(arguments: list[str]) -> None:
    """Prints the figures and writes them as JSON to runs/."""
    parser = CommandParser(prog="python -m benchmarks.evaluation", description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=types.count, default=3)
    parser.add_argument("--rows", type=types.count, default=64)
    parser.add_argument("--check", type=types.count, default=100)
    parser.add_argument("--lora")
    options = parser.parse_args(arguments)
    path = name_record("evaluation")
    fetch("smollm2-135m-instruct")
    template = load_template("templates/college_preferences.yaml")
    test = split_rows(load_rows("data/college_preferences/dataset.csv", template))[1]
    # Drawn at random: the file has its longest comments first.
    rows = random.Random(0).sample(test, min(options.rows, len(test)))
    rates = measure_rates(load(None, options.lora), load_stock(options.lora), rows, template, options.rounds)
    changed = count_changed_predictions(load("float32", options.lora), test[: options.check], template)
    for name, rate in rates.items():
        times = rates["predictions"] / rate
        print(f"{name:24} {rate:6.2f} rows a second; predictions are {times:.1f} times as fast")
    print(f"predictions changed by packing, float32: {changed} of {len(test[: options.check])}")
    keep_record(path, options, rows_per_second=rates, changed=changed)


if __name__ == "__main__":
    raise SystemExit(run_command(main))
