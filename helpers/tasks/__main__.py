"""`python -m helpers.tasks`: checks a table before a training, suggests a template, shows rows as tokens."""

import argparse
import dataclasses
import json
import os
from dataclasses import asdict

from helpers.common import arguments as types
from helpers.common.command import CommandParser, run_command
from helpers.common.errors import AlreadyThereError
from helpers.common.files import write_text
from helpers.common.lanes import pick_lane
from helpers.common.outputs import check_output, refuse_kept
from helpers.common.presets import PRESETS, pick_settings
from helpers.common.training_settings import TrainingSettings, check_optimizer
from helpers.tasks.checks.checking import check_data
from helpers.tasks.checks.previewing import Preview, preview_rows
from helpers.tasks.checks.showing import describe_check
from helpers.tasks.checks.suggesting import Suggestion, suggest_template
from helpers.tasks.split import Split

SET = {  # options of `check`: setting of the training, type, help
    "epochs": (types.epochs, "passes over the rows"),
    "batch_size": (types.count_or_auto, "rows in a step, or auto"),
    "max_length": (types.count, "tokens that are kept of a row"),
}


def build_parser() -> CommandParser:
    """The commands and their options."""
    description = "Look at your own data before a training."
    parser = CommandParser(prog="python -m helpers.tasks", description=description)
    commands = parser.add_subparsers(dest="command", required=True)
    words = "what stops or spoils a training, and what it will take; the exit code is 1 if it would stop"
    check = commands.add_parser("check", help=words, description=words[:1].upper() + words[1:] + ".")
    suggest = commands.add_parser("suggest", help="a first template for a table")
    preview = commands.add_parser("preview", help="rows as the model sees them; what is learned in [[...]]")
    for command in (check, suggest, preview):
        command.add_argument("data", metavar="FILE", help="a table or chats")
    for command in (check, preview):
        words = "the template (default: the one that `suggest` writes; chats need none)"
        command.add_argument("--template", metavar="YAML", help=words)
        words = "folder below models/ whose tokenizer is taken (default: the lane's)"
        command.add_argument("--model", metavar="NAME", help=words)
    add_check_options(check)
    words = "write it there; a file that is there already is left alone"
    suggest.add_argument("--output", type=types.new_file, metavar="YAML", help=words)
    preview.add_argument(
        "--rows", type=types.count, default=3, metavar="N", help="the first N rows (default: 3)"
    )
    words = "which turns of a chat are learned (default: all)"
    preview.add_argument("--turns", choices=("all", "last"), default="all", help=words)
    for command in (check, suggest, preview):
        command.add_argument("--json", action="store_true", help="print JSON")
    return parser


def add_check_options(parser: argparse.ArgumentParser) -> None:
    """The settings of the training, and its split."""
    words = f"settings of the training: a file, or one of {', '.join(PRESETS)} (default: the lane's)"
    parser.add_argument("--settings", metavar="YAML", help=words)
    for name, (kind, words) in SET.items():
        option = f"--{name.replace('_', '-')}"
        parser.add_argument(option, type=kind, metavar="N", help=f"{words} (default: the settings')")
    words = f"share of the texts that is held out (default: {Split.test_size})"
    parser.add_argument("--test-size", type=types.share, default=Split.test_size, metavar="S", help=words)
    parser.add_argument("--seed", type=types.seed, default=Split.seed, metavar="N", help="of the split")
    words = "let errors show what is in the cells"
    parser.add_argument("--show-rows", action="store_true", help=words)


def read_settings(options: argparse.Namespace) -> TrainingSettings:
    """The settings of the preset or file, with what the command line says."""
    settings = pick_settings(options.settings or pick_lane().value.name)
    given = {name: getattr(options, name) for name in SET if getattr(options, name) is not None}
    return settings.replace(given, "the command line")


def check(options: argparse.Namespace) -> int:
    """Prints the check; returns 1 if a training would be refused."""
    settings = read_settings(options)
    check_optimizer(settings)
    found = check_data(
        options.data,
        options.template,
        options.model,
        settings,
        Split(options.seed, options.test_size),
        options.show_rows,
        progress=not options.json,
    )
    print(dump(found) if options.json else types.escape("\n".join(describe_check(found))))
    return 0 if found.trainable else 1


def suggest(options: argparse.Namespace) -> int:
    """Prints the suggested template, or writes it."""
    if options.output is not None:
        refuse_kept(options.output, [])
        if os.path.lexists(check_output(options.output, "file")):
            problem = f"{options.output} is there already, and would be overwritten."
            raise AlreadyThereError(problem, "Give another name with --output.")
    found = suggest_template(options.data)
    written = options.output if found.text else None
    if written:
        write_text(written, found.text)
    if options.json:
        facts = {name: value for name, value in shallow(found).items() if name != "template"}
        print(dump({**facts, "output": written and str(written)}))
    elif written:
        print(types.escape(str(written)))
    else:
        print(found.text.rstrip() or types.escape(f"# {options.data} holds chats: it needs no template."))
    return 0


def preview(options: argparse.Namespace) -> int:
    """Prints the rows."""
    found = preview_rows(options.data, options.template, options.model, options.rows, options.turns)
    if options.json:
        rows = [
            {"place": row.place, "text": row.text, "tokens": [token._asdict() for token in row.tokens]}
            for row in found.rows
        ]
        print(dump({**shallow(found), "rows": rows}))
        return 0
    for row in found.rows:
        learned = sum(token.learned for token in row.tokens)
        print(f"--- {row.place}: {len(row.tokens):,} tokens, {learned:,} learned\n{types.escape(row.text)}")
    return 0


def shallow(value: Preview | Suggestion) -> dict[str, object]:
    """The fields of a dataclass, as they are."""
    return {field.name: getattr(value, field.name) for field in dataclasses.fields(value)}


def dump(value: object) -> str:
    """JSON; dataclasses become objects."""
    return json.dumps(value, indent=2, ensure_ascii=False, default=asdict)


COMMANDS = {"check": check, "suggest": suggest, "preview": preview}


def main(arguments: list[str]) -> int:
    """`python -m helpers.tasks check | suggest | preview`, each with --json."""
    options = build_parser().parse_args(arguments)
    return COMMANDS[options.command](options)


if __name__ == "__main__":
    raise SystemExit(run_command(main))
