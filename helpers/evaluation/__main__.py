"""`python -m helpers.evaluation`: judges a model, a LoRA or a server on the rows of a CSV."""

import argparse
import json
from pathlib import Path

from helpers.adapters.attaching import attach_adapter
from helpers.adapters.card import add_to_run
from helpers.adapters.chat_template import find_recorded, pick_for_all
from helpers.adapters.folders import find_adapter
from helpers.adapters.parts import check_attachable
from helpers.clients.openai_chat import ask_openai, make_openai_client
from helpers.common.command import CommandParser, run_command
from helpers.common.errors import UsageError
from helpers.common.files import write_json
from helpers.evaluation.judging import evaluate, evaluate_over_url
from helpers.evaluation.metrics import Evaluation
from helpers.loading.chat_templates import CHAT_TEMPLATE_HELP, OWN, say_template
from helpers.loading.model import load_model
from helpers.tasks.data import TaskData, hash_rows, load_task_data
from helpers.tasks.rows import open_data, read_rows
from helpers.tasks.split import Split
from helpers.tasks.template import Row, Template
from helpers.weights.folders import find_model

MAX_TOKENS = 32  # of a server's reply; the answers of a label template are short


def read_data(options: argparse.Namespace) -> TaskData:
    """The rows to judge as `test`: all of the file, or those that training with this split held out."""
    if options.split == "test":
        return load_task_data(options.data, options.template, Split(options.seed, options.test_size))
    table, template = open_data(options.data, options.template)
    return TaskData(template, train=[], test=read_rows(table, template))


def judge(options: argparse.Namespace, data: TaskData, rows: list[Row]) -> Evaluation:
    """The evaluation of the model, LoRA or server that the command line names."""
    template = data.template
    if not isinstance(template, Template) or template.kind != "labels":
        raise UsageError("Only labels can be judged.", "Give a template with `label`.")
    if options.url:
        client = make_openai_client(options.url)
        settings = {"model": options.model, "temperature": 0, "max_tokens": MAX_TOKENS}
        return evaluate_over_url(lambda messages: ask_openai(client, messages, **settings), rows, template)
    trained = [find_adapter(options.lora)] if options.lora else []
    chat_template = pick_for_all(options.chat_template, trained)
    for lora in trained:
        check_attachable(lora, find_model(options.model))
    loaded = load_model(options.model, purpose="judging", chat_template=chat_template)
    say_template(loaded.chat_template)
    if options.lora:
        attach_adapter(loaded, options.lora)
    return evaluate(loaded, rows, template)


def record_accuracy(options: argparse.Namespace, data: TaskData, result: Evaluation) -> None:
    """Adds the accuracy to the LoRA's run.json and card.

    It does so only if the LoRA was trained on the split's other rows, with this template and chat template.
    """
    folder = find_adapter(options.lora)
    if options.chat_template not in (None, find_recorded(folder) or OWN):
        return
    recorded = (folder.run.get("rows_sha256"), folder.run.get("template_sha256"))
    if recorded == (hash_rows(data.train), data.template.sha256):
        add_to_run(folder, evaluation={**folder.run.get("evaluation", {}), "lora": result})


def print_result(result: Evaluation) -> None:
    """One line with the figures, one with the confusion matrix."""
    low, high = result.interval
    accuracy = f"accuracy {result.accuracy:.3f} [{low:.3f}, {high:.3f}]"
    majority = f"majority {result.majority_accuracy:.3f}"
    print(f"rows {result.rows}  {accuracy}  {majority}  macro-F1 {result.macro_f1:.3f}")
    print(json.dumps({"confusion": result.confusion}))


def main(arguments: list[str]) -> None:
    """`python -m helpers.evaluation`: judges, prints, and records the figures where they belong."""
    options = parse_arguments(arguments)
    data = read_data(options)
    rows = data.test[: options.limit]
    result = judge(options, data, rows)
    print_result(result)
    if options.json:
        write_json(Path(options.json), result)
    if options.lora and options.split == "test" and not options.limit:
        record_accuracy(options, data, result)


def parse_arguments(arguments: list[str]) -> argparse.Namespace:
    """The command line of helpers.evaluation."""
    description = "Label accuracy on the rows of a CSV, with an interval."
    parser = CommandParser(prog="python -m helpers.evaluation", description=description)
    parser.add_argument("--model", required=True, help="folder below models/, or the model's name at --url")
    parser.add_argument("--lora", metavar="NAME", help="LoRA below loras/")
    words = "ask this OpenAI-style server instead of loading the model, such as http://127.0.0.1:5001/v1"
    parser.add_argument("--url", help=words)
    parser.add_argument("--data", required=True, metavar="CSV")
    parser.add_argument("--template", required=True, metavar="YAML")
    parser.add_argument("--chat-template", metavar="NAME|FILE", help=CHAT_TEMPLATE_HELP)
    words = "all rows, or those that training with this seed held out (default: all)"
    parser.add_argument("--split", choices=("all", "test"), default="all", help=words)
    words = f"share of the comments that is held out (default: {Split.test_size})"
    parser.add_argument("--test-size", type=float, default=Split.test_size, help=words)
    words = f"of the split (default: {Split.seed})"
    parser.add_argument("--seed", type=int, default=Split.seed, help=words)
    parser.add_argument("--limit", type=int, metavar="N", help="judge only the first N of these rows")
    parser.add_argument("--json", metavar="FILE", help="also write the result there")
    options = parser.parse_args(arguments)
    if options.limit is not None and options.limit < 1:
        raise UsageError(f"--limit {options.limit} leaves no row.", "Give a number above 0.")
    if options.url and options.lora:
        raise UsageError("--lora goes with a local model.", "With --url, name the LoRA as --model.")
    if options.url and options.chat_template:
        problem = "--chat-template goes with a local model."
        raise UsageError(problem, "Start the server at --url with it.")
    return options


if __name__ == "__main__":
    raise SystemExit(run_command(main))
