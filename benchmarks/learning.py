"""What is learned: LoRAs of several seeds, judged on held-out comments, beside methods that need no LoRA.

    python -m benchmarks.learning [--settings tiny-15-minutes] [--seeds 0 1 2] [--test-size 0.25]
                                  [--data CSV ...] [--train CSV ...]
                                  [--model NAME] [--record NAME]

Each seed draws the LoRA's first matrices and the order of the rows. The split is that of seed 0 for all of
them, so that the base is the same. A LoRA is trained on the training parts of the `--train` files together
and judged on the test part of each `--data` file, a file that was not trained on included; the bag of words
is fitted on each file's own training part. For 200 rows of the first file answers are also generated, as a
server would, and counted when they are one of the possible answers and stop by themselves. `--record` keeps
the run under a name in benchmarks/learning.json, which lesson 4 shows.
"""

import argparse
import json
import random
from pathlib import Path

import pandas as pd
import torch

from benchmarks.records import keep_record, name_record
from helpers import PROJECT
from helpers.adapters.folders import loras_folder
from helpers.common import arguments as types
from helpers.common.command import CommandParser, run_command
from helpers.common.files import write_json
from helpers.common.presets import pick_settings
from helpers.common.training_settings import TrainingSettings
from helpers.evaluation.judging import summarise_scores
from helpers.evaluation.metrics import Scores, bootstrap_gain, measure_pairwise_accuracy
from helpers.evaluation.scoring import score_answers
from helpers.loading.messages import list_end_ids, tokenize_chat
from helpers.loading.model import LoadedModel, load_model
from helpers.tasks.baseline import score_bag_of_words
from helpers.tasks.data import TaskData
from helpers.tasks.rows import load_rows
from helpers.tasks.sides import find_sides
from helpers.tasks.split import split_rows
from helpers.tasks.template import Template
from helpers.tasks.template_file import load_template
from helpers.training.train import train_lora
from helpers.weights.fetching import fetch

MODEL = "SmolLM2-135M-Instruct"
RECORDS = PROJECT / "benchmarks" / "learning.json"


def name_data(path: str) -> str:
    """A data set's name: that of its folder."""
    return Path(path).resolve().parent.name


def describe(name: str, scores: list[Scores], rows: list, template: Template, **more: object) -> dict:
    """One line of the table."""
    result = summarise_scores(scores, rows, template)
    low, high = result.interval
    return {
        "what": name,
        "accuracy": result.accuracy,
        "low": low,
        "high": high,
        "macro_f1": result.macro_f1,
        "told_apart": measure_pairwise_accuracy(scores, rows, list(find_sides(template))),
        **more,
    }


def train(
    model: str, rows: list, template: Template, settings: TrainingSettings, name: str
) -> tuple[LoadedModel, dict]:
    """(model with the trained LoRA on it, figures of the training).

    The LoRA stays as loras/NAME for a closer look.
    """
    loaded = load_model(model, purpose="training")
    settings = settings.replace({"checkpoint_steps": 0})  # they would be part of the time
    run = train_lora(loaded, TaskData(template, rows), settings, loras_folder() / name, progress=False)
    return loaded, {"trained_rows": run["rows"], "minutes": run["seconds"] / 60}


def count_clean_answers(loaded: LoadedModel, rows: list, template: Template) -> float:
    """Share of the rows whose generated answer is exactly a possible one and ends within 24 tokens."""
    clean = 0
    for row in rows:
        inputs = tokenize_chat(loaded.tokenizer, template.build_messages(row)).to(loaded.model.device)
        with torch.inference_mode():
            output = loaded.model.generate(
                **inputs,
                max_new_tokens=24,
                do_sample=False,
                temperature=None,
                top_p=None,
                eos_token_id=list_end_ids(loaded),
            )
        *answer, last = output[0, inputs["input_ids"].shape[1] :].tolist()
        clean += (
            last in list_end_ids(loaded)
            and loaded.tokenizer.decode(answer) in template.build_answers(row).values()
        )
    return clean / len(rows)


def judge_without_lora(
    model: str, fit: list, test: list, template: Template
) -> tuple[dict[str, list[Scores]], list[dict]]:
    """({name: scores}, lines of the table) of what needs no LoRA."""
    known = {
        "base": score_answers(load_model(model), test, template),
        "bag of words": score_bag_of_words(fit, test),
    }
    lines = [describe(name, scores, test, template) for name, scores in known.items()]
    majority = summarise_scores(known["base"], test, template).majority_accuracy
    return known, [{"what": "majority class", "accuracy": majority}, *lines]


def parse_options(arguments: list[str]) -> argparse.Namespace:
    """The command line; `train` is the first of `data` unless it is named."""
    parser = CommandParser(prog="python -m benchmarks.learning", description=__doc__.splitlines()[0])
    parser.add_argument("--model", default=MODEL, help="folder below models/")
    parser.add_argument("--settings", default="tiny-15-minutes", help="a preset or a YAML file")
    parser.add_argument("--seeds", type=types.seed, nargs="+", default=[0, 1, 2])
    parser.add_argument("--test-size", type=types.share, default=0.25)
    parser.add_argument(
        "--data",
        nargs="+",
        default=["data/college_preferences/dataset.csv"],
        help="judged on the test part of each",
    )
    parser.add_argument(
        "--train", nargs="+", help="trained on the training parts of these (default: the first of --data)"
    )
    parser.add_argument("--template", default="templates/college_preferences.yaml")
    parser.add_argument(
        "--record", metavar="NAME", help="keep the run under this name in benchmarks/learning.json too"
    )
    options = parser.parse_args(arguments)
    options.train = options.train or options.data[:1]
    return options


def judge_lora(
    seed: int,
    options: argparse.Namespace,
    template: Template,
    parts: dict,
    rivals: dict[str, dict[str, list[Scores]]],
) -> list[dict]:
    """Lines of the table: a LoRA trained with this seed, judged on the test part of each file."""
    name = f"{name_data(options.data[0])}-seed-{seed}".replace("_", "-")
    fit = [row for path in options.train for row in parts[path][0]]
    settings = pick_settings(options.settings).replace({"seed": seed})
    loaded, figures = train(options.model, fit, template, settings, name)
    lines = []
    for path, known in rivals.items():
        test = parts[path][1]
        scores = score_answers(loaded, test, template)
        gains = {
            f"above_{name.replace(' ', '_')}": bootstrap_gain(found, scores, test, template)
            for name, found in known.items()
        }
        if path == options.data[0]:
            some = random.Random(0).sample(test, min(200, len(test)))
            figures["clean_answers"] = count_clean_answers(loaded, some, template)
        what = f"LoRA, seed {seed}"
        line = describe(what, scores, test, template, **gains, **figures)
        lines.append({"data": name_data(path), **line, "rows": len(test)})
        print(lines[-1], flush=True)
    return lines


def keep_table(path: Path, options: argparse.Namespace, lines: list[dict]) -> None:
    """Writes the table with the machine and the options to runs/, and to learning.json if it has a name."""
    names = {part: [name_data(one) for one in getattr(options, part)] for part in ("data", "train")}
    record = keep_record(path, options, **names, table=lines)
    if options.record:
        known = json.loads(RECORDS.read_text(encoding="utf-8")) if RECORDS.is_file() else {}
        write_json(RECORDS, {**known, options.record: record})


def main(arguments: list[str]) -> None:
    """Prints the table and writes it as JSON to runs/."""
    options = parse_options(arguments)
    record = name_record("learning")
    fetch("smollm2-135m-instruct")
    template = load_template(options.template)
    parts = {
        path: split_rows(load_rows(path, template), options.test_size)
        for path in dict.fromkeys([*options.data, *options.train])
    }
    rivals, lines = {}, []
    for path in options.data:
        rivals[path], found = judge_without_lora(options.model, *parts[path], template)
        lines += [{"data": name_data(path), **line, "rows": len(parts[path][1])} for line in found]
    print(pd.DataFrame(lines).to_string(), flush=True)
    for seed in options.seeds:
        lines += judge_lora(seed, options, template, parts, rivals)
    print(pd.DataFrame(lines).to_string(index=False, float_format="{:.3f}".format))
    keep_table(record, options, lines)


if __name__ == "__main__":
    raise SystemExit(run_command(main))
