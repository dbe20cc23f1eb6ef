"""`python -m helpers.evaluation`: judges a model, a LoRA or a server on rows of labels, answers or chats."""

import argparse
import contextlib
import functools
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

from helpers.adapters.attaching import attach_adapter
from helpers.adapters.card import add_to_run
from helpers.adapters.chat_template import find_recorded, pick_for_all
from helpers.adapters.folders import find_adapter
from helpers.adapters.parts import check_attachable
from helpers.clients.openai_chat import ask_openai, make_openai_client
from helpers.common import arguments as types
from helpers.common.command import CommandParser, run_command
from helpers.common.errors import KitError, ServerError, UsageError
from helpers.common.files import write_json
from helpers.common.http import check_address
from helpers.common.outputs import check_output, refuse_kept
from helpers.common.paths import find_file
from helpers.evaluation.free_answers import JudgedAnswers
from helpers.evaluation.kinds import Judge, make_judge
from helpers.evaluation.report import Report, is_result
from helpers.loading.chat_templates import CHAT_TEMPLATE_HELP, OWN, say_template
from helpers.loading.model import load_model
from helpers.server.keys import KEY_VARIABLE, find_key
from helpers.tasks.data import TaskData, hash_rows, load_task_data
from helpers.tasks.rows import open_data, read_rows
from helpers.tasks.split import Split
from helpers.tasks.template import Row
from helpers.weights.folders import find_model

DESCRIPTION = """How well the rows of a table are answered, with intervals.

Labels: right answers, and right sides if two of the answers are options. Free answers and chats: exact match,
token F1, chrF and perplexity."""


def read_data(options: argparse.Namespace) -> TaskData:
    """The rows to judge as `test`: all of the file, or those that training with this split held out."""
    if options.split == "test":
        return load_task_data(options.data, options.template, Split(options.seed, options.test_size))
    table, template = open_data(options.data, options.template)
    return TaskData(template, train=[], test=read_rows(table, template))


def run_judge(options: argparse.Namespace, judge: Judge) -> Report:
    """Judges the model, LoRA or server that the command line names."""
    if options.url:
        client = make_openai_client(options.url, options.api_key or "none")
        settings = {"model": options.model, "temperature": 0, "max_tokens": judge.reply_tokens}
        with name_key_options():
            ask = functools.partial(ask_openai, client, **settings)
            return make_report(judge, judge.ask(ask))
    trained = [find_adapter(options.lora)] if options.lora else []
    chat_template = pick_for_all(options.chat_template, trained)
    for lora in trained:
        check_attachable(lora, find_model(options.model))
    loaded = load_model(options.model, purpose="judging", chat_template=chat_template)
    say_template(loaded.chat_template)
    base = judge.judge(loaded) if options.base else None
    if options.lora:
        attach_adapter(loaded, options.lora)
    return make_report(judge, judge.judge(loaded), base)


@contextlib.contextmanager
def name_key_options() -> Iterator[None]:
    """Lets the error of a server that wants a key name the options of this command."""
    try:
        yield
    except ServerError as error:
        if error.status != 401:
            raise
        remedy = f"Give its key: set {KEY_VARIABLE}, or add --api-key-file FILE or --api-key K."
        raise ServerError(error.problem, remedy, error.status) from None


def make_report(judge: Judge, found: Any, base: Any = None) -> Report:
    """The report on what the judge found, and on what it found for the base, if it was asked to."""
    result, answers, cut = judge.summarise(found), [], 0
    if isinstance(found, JudgedAnswers):
        answers, cut = found.answers, found.cut or 0
    if base is None:
        return Report(result, answers=answers, cut=cut)
    return Report(result, judge.summarise(base), judge.measure_gains(base, found), answers, cut)


def record_results(options: argparse.Namespace, data: TaskData, judge: Judge, report: Report) -> None:
    """Adds the figures to the LoRA's run.json and card; some answers too, if rows may be shown.

    It does so only if the LoRA was trained on the split's other rows, with this template and chat template.
    """
    folder = find_adapter(options.lora)
    run = folder.run
    if options.chat_template not in (None, find_recorded(folder) or OWN):
        return
    recorded = (run.get("rows_sha256"), run.get("template_sha256"))
    if recorded == (hash_rows(find_trained(run, data)), data.template.sha256):
        examples = report.list_examples(data.template) if options.show_rows else {}
        lora = asdict(report.result) | ({"examples": examples} if examples else {})
        found = {**run.get("evaluation", {}), **({"base": report.base} if report.base else {}), "lora": lora}
        facts = {"evaluation": found, "gain": report.gains, "baselines": judge.measure_baselines()}
        add_to_run(folder, **{name: value for name, value in facts.items() if value})


def find_trained(run: dict[str, Any], data: TaskData) -> list[Row]:
    """The rows that the split leaves for training, without those that the LoRA's training only watched."""
    validation_size = (run.get("split") or {}).get("validation_size", 0)
    try:
        split = Split(data.split.seed, data.split.test_size, validation_size) if data.split else Split()
        return split.take_validation(data.train, data.template)[0]
    except KitError:  # it was trained with another split, whose validation part is too large for this one
        return []


def check_json(options: argparse.Namespace) -> None:
    """Decides before the work whether --json can be written; errors as check_output and refuse_kept."""
    path = check_output(options.json, "file", is_result, remedy="Give another name with --json.")
    given = (
        (options.data, "table"),
        (options.template, "template"),
        (options.chat_template, "chat template"),
    )
    read = []
    for name, what in given:
        with contextlib.suppress(KitError):  # what is not there is refused where it is read
            read += [find_file(name, what, or_folder=True)] if name else []
    refuse_kept(path, read)


def main(arguments: list[str]) -> None:
    """`python -m helpers.evaluation`: judges, prints, and records the figures where they belong."""
    options = parse_arguments(arguments)
    if options.json is not None:
        check_json(options)
    data = read_data(options)
    if options.show_rows and data.template.kind == "labels":
        problem = "--show-rows and --worst go with free answers, and this template has labels."
        raise UsageError(problem, "Leave them out.")
    rows = data.test[: options.limit]
    judge = make_judge(data.template, rows, data.train)
    judged = find_adapter(options.lora) if options.lora else None
    report = run_judge(options, judge)
    print("\n".join([*report.list_lines(), *report.list_worst(options.worst, data.template)]), flush=True)
    if options.json is not None:
        write_json(Path(options.json), report.to_json(options.show_rows), is_result)
    if judged and options.split == "test" and not options.limit:
        judged.refuse_replaced()
        record_results(options, data, judge, report)


def parse_arguments(arguments: list[str]) -> argparse.Namespace:
    """The command line of helpers.evaluation."""
    parser = CommandParser(prog="python -m helpers.evaluation", description=DESCRIPTION)
    parser.add_argument("--model", required=True, help="folder below models/, or the model's name at --url")
    parser.add_argument("--lora", metavar="NAME", help="LoRA below loras/")
    words = "ask this OpenAI-style server instead of loading the model, such as http://127.0.0.1:5001/v1"
    parser.add_argument("--url", type=types.text, help=words)
    add_key_options(parser)
    parser.add_argument("--base", action="store_true", help="judge the base too, and say what the LoRA gains")
    parser.add_argument("--data", required=True, metavar="FILE", help="a table or chats")
    parser.add_argument("--template", metavar="YAML", help="for all but chats")
    parser.add_argument("--chat-template", metavar="NAME|FILE", help=CHAT_TEMPLATE_HELP)
    words = "all rows, or those that training with this seed held out (default: all)"
    parser.add_argument("--split", choices=("all", "test"), default="all", help=words)
    words = f"share of the comments that is held out (default: {Split.test_size})"
    parser.add_argument("--test-size", type=types.share, default=Split.test_size, help=words)
    words = f"of the split (default: {Split.seed})"
    parser.add_argument("--seed", type=types.seed, default=Split.seed, help=words)
    parser.add_argument("--limit", type=types.count, metavar="N", help="judge only the first N of these rows")
    words = "also show the N worst free answers; needs --show-rows"
    parser.add_argument("--worst", type=types.count_or_none, default=0, metavar="N", help=words)
    words = "allow texts of rows in what is printed and written; rows may be private"
    parser.add_argument("--show-rows", action="store_true", help=words)
    parser.add_argument("--json", type=types.new_file, metavar="FILE", help="also write the result there")
    options = parser.parse_args(arguments)
    check_server(options)
    if options.url and options.lora:
        raise UsageError("--lora goes with a local model.", "With --url, name the LoRA as --model.")
    if options.base and not options.lora:
        raise UsageError("--base goes with --lora.", "Without a LoRA, the base is what is judged.")
    if options.worst and not options.show_rows:
        problem = "--worst shows texts of rows, which may be private."
        raise UsageError(problem, "Add --show-rows if they may be seen.")
    return options


def add_key_options(parser: argparse.ArgumentParser) -> None:
    """The options for a server that asks for a key."""
    keys = parser.add_mutually_exclusive_group()
    words = f"the key of the server at --url; {KEY_VARIABLE} or a file keep it from the list of processes"
    keys.add_argument("--api-key", type=types.text, metavar="K", help=words)
    words = "a file with the key and no more"
    keys.add_argument("--api-key-file", type=types.path, metavar="FILE", help=words)


def check_server(options: argparse.Namespace) -> None:
    """Reads the key of a server, and raises the errors of `find_key`; a UsageError for an odd address."""
    if not options.url:
        if options.api_key or options.api_key_file:
            raise UsageError("A key goes with --url.", "Leave it out for a local model.")
        return
    check_address(options.url)
    options.api_key = find_key(options.api_key, options.api_key_file)
    if options.chat_template:
        problem = "--chat-template goes with a local model."
        raise UsageError(problem, "Start the server at --url with it.")


if __name__ == "__main__":
    raise SystemExit(run_command(main))
