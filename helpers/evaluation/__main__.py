"""Label accuracy with an interval, against the base model and the majority class; local or over a URL.

A verdict is the answer to which the model gives the highest probability, its end-of-turn token included; nothing is generated
(helpers.evaluation.scoring).
"""

import argparse
import json
from pathlib import Path

from helpers.adapters.attaching import attach_adapter
from helpers.adapters.folders import find_adapter, read_run
from helpers.common.command import CommandParser, run_command
from helpers.common.errors import KitError
from helpers.common.files import write_json
from helpers.evaluation.judging import evaluate, evaluate_over_url
from helpers.evaluation.metrics import Evaluation
from helpers.loading.model import load_model
from helpers.tasks.rows import load_rows
from helpers.tasks.split import split_rows
from helpers.tasks.template import load_template


def main(arguments: list[str]) -> None:
    """`python -m helpers.evaluation`: judges a model, an adapter or a server on the rows of a CSV."""
    options = parse_arguments(arguments)
    template = load_template(options.template)
    rows = load_rows(options.data, template)
    if options.split == "test":
        rows = split_rows(rows, options.test_size, options.seed)[1]
    rows = rows[: options.limit]
    if options.url:
        from helpers.clients.openai_chat import ask_openai, make_openai_client

        client = make_openai_client(options.url)
        result = evaluate_over_url(
            lambda messages: ask_openai(client, messages, model=options.model, temperature=0, max_tokens=32),
            rows,
            template,
        )
    else:
        loaded = load_model(options.model)
        if options.lora:
            attach_adapter(loaded, options.lora)
        result = evaluate(loaded, rows, template)
        if options.lora and options.split == "test" and not options.limit:
            record_accuracy(options, result)
    if options.json:
        write_json(Path(options.json), result)
    low, high = result.interval
    print(
        f"rows {result.rows}  accuracy {result.accuracy:.3f} [{low:.3f}, {high:.3f}]  majority {result.majority_accuracy:.3f}",
        end="  ",
    )
    print(f"macro-F1 {result.macro_f1:.3f}")
    print(json.dumps({"confusion": result.confusion}))


def record_accuracy(options: argparse.Namespace, result: Evaluation) -> None:
    """Adds the accuracy to the LoRA's run.json and model card, when these rows are what its training held out of the same file."""
    from helpers.training.runs import add_to_run

    folder, split = find_adapter(options.lora), {"seed": options.seed, "test_size": options.test_size}
    run = read_run(folder)
    if run.get("split") == split and run.get("data") == options.data:
        add_to_run(folder, evaluation={**run.get("evaluation", {}), "lora": result})


def parse_arguments(arguments: list[str]) -> argparse.Namespace:
    """The command line of helpers.evaluation."""
    parser = CommandParser(
        prog="python -m helpers.evaluation", description="Label accuracy on the rows of a CSV."
    )
    parser.add_argument("--model", required=True, help="folder below models/, or the model's name at --url")
    parser.add_argument("--lora", metavar="NAME", help="adapter below loras/")
    parser.add_argument(
        "--url",
        help="ask this OpenAI-style server instead of loading the model, such as http://127.0.0.1:5001/v1",
    )
    parser.add_argument("--data", required=True, metavar="CSV")
    parser.add_argument("--template", required=True, metavar="YAML")
    parser.add_argument(
        "--split",
        choices=("all", "test"),
        default="all",
        help="all rows, or those that training with this seed held out",
    )
    parser.add_argument(
        "--test-size", type=float, default=0.2, help="share of the comments held out (default: 0.2)"
    )
    parser.add_argument("--seed", type=int, default=0, help="of the split (default: 0)")
    parser.add_argument("--limit", type=int, metavar="N", help="judge the first N of these rows only")
    parser.add_argument("--json", metavar="FILE", help="also write the result there")
    options = parser.parse_args(arguments)
    if options.limit is not None and options.limit < 1:
        raise KitError(f"--limit {options.limit} leaves no row.", "Give a number above 0.")
    if options.url and options.lora:
        raise KitError("--lora goes with a local model.", "With --url, name the adapter as --model.")
    return options


if __name__ == "__main__":
    raise SystemExit(run_command(main))
