"""What a LoRA learns of facts: free answers to questions in new words, and to questions about unseen facts.

    python -m benchmarks.free_answers [--seeds 0 1 2] [--settings tiny] [--epochs 5] [--model NAME] [--record]

For each seed the rows of data/clock_house are split, a LoRA is trained on four fifths of them and judged on
the others, which ask for the same facts in other words, beside the base, the most frequent answer and the
nearest neighbour. Then it is asked for the facts of unseen.csv, of which it never saw a word. `--record`
keeps the run in benchmarks/free_answers.json, which lesson 4 shows.
"""

import argparse

import pandas as pd

from benchmarks.records import keep_record, name_record
from helpers import PROJECT
from helpers.adapters.folders import loras_folder
from helpers.common import arguments as types
from helpers.common.command import CommandParser, run_command
from helpers.common.files import write_json
from helpers.common.presets import pick_settings
from helpers.evaluation.answering import judge_answers
from helpers.evaluation.free_answers import (
    JudgedAnswers,
    judge_baselines,
    measure_answer_gains,
    summarise_answers,
)
from helpers.loading.model import load_model
from helpers.tasks.data import TaskData, load_task_data
from helpers.tasks.rows import load_rows
from helpers.tasks.split import Split
from helpers.training.train import train_lora
from helpers.weights.fetching import fetch

FOLDER = "data/clock_house"
TEMPLATE = "templates/clock_house.yaml"
RECORD = PROJECT / "benchmarks" / "free_answers.json"


def describe(what: str, seed: int, judged: JudgedAnswers, **more: object) -> dict:
    """One line of the table."""
    result = summarise_answers(judged)
    low, high = result.exact_interval
    figures = {"exact_match": result.exact_match, "low": low, "high": high, "token_f1": result.token_f1}
    line = {"seed": seed, "what": what, "rows": result.rows, **figures, "chrf": result.chrf}
    return {**line, "perplexity": result.perplexity, **more}


def describe_baselines(data: TaskData, seed: int) -> list[dict]:
    """A line for each baseline, which costs a second."""
    found = judge_baselines(data.train, data.test, data.template)
    return [
        {"seed": seed, "what": name, "rows": len(data.test), **figures} for name, figures in found.items()
    ]


def judge_seed(seed: int, options: argparse.Namespace) -> list[dict]:
    """Lines of the table: baselines, base and LoRA on the rows held out, and the LoRA on unseen facts."""
    data = load_task_data(f"{FOLDER}/dataset.csv", TEMPLATE, Split(seed))
    settings = pick_settings(options.settings)
    settings = settings.replace({"epochs": options.epochs, "seed": seed, "checkpoint_steps": 0})
    loaded = load_model(options.model, purpose="training")
    base = judge_answers(loaded, data.test, data.template)
    run = train_lora(loaded, data, settings, loras_folder() / f"clock-house-seed-{seed}", progress=False)
    tuned = judge_answers(loaded, data.test, data.template)
    low, high = measure_answer_gains(base, tuned)["exact_match"].interval
    figures = {"gain_low": low, "gain_high": high, "minutes": run["seconds"] / 60}
    rows = load_rows(f"{FOLDER}/unseen.csv", data.template)
    unseen = judge_answers(loaded, rows, data.template)
    known = {row["answer"] for row in data.train}
    mistaken = sum(answer.said in known for answer in unseen.answers) / len(rows)
    return [
        *describe_baselines(data, seed),
        describe("base", seed, base),
        describe("LoRA", seed, tuned, **figures),
        describe("LoRA, unseen facts", seed, unseen, says_another_fact=mistaken),
    ]


def main(arguments: list[str]) -> None:
    """Prints the table and writes it as JSON to runs/."""
    parser = CommandParser(prog="python -m benchmarks.free_answers", description=__doc__.splitlines()[0])
    parser.add_argument("--model", default="SmolLM2-135M-Instruct", help="folder below models/")
    parser.add_argument("--settings", default="tiny", help="a preset or a YAML file")
    parser.add_argument("--epochs", type=types.epochs, default=5)
    parser.add_argument("--seeds", type=types.seed, nargs="+", default=[0, 1, 2])
    parser.add_argument("--record", action="store_true", help=f"write {RECORD.name} too")
    options = parser.parse_args(arguments)
    path = name_record("free-answers")
    fetch("smollm2-135m-instruct")
    lines = []
    for seed in options.seeds:
        lines += judge_seed(seed, options)
        print(pd.DataFrame(lines).to_string(index=False, float_format="{:.3f}".format), flush=True)
    record = keep_record(path, options, table=lines)
    if options.record:
        write_json(RECORD, record)


if __name__ == "__main__":
    raise SystemExit(run_command(main))
