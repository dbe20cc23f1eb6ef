"""`python -m helpers.weights`: catalogue, branches, sizes, fetching, quantising and exporting."""

import argparse
import json
from collections.abc import Iterator
from dataclasses import asdict
from typing import Any

from helpers.common import arguments as types
from helpers.common.arguments import escape
from helpers.common.command import CommandParser, run_command
from helpers.common.training_settings import ALL_LINEAR, AUTO
from helpers.weights.catalogue import CATALOGUE
from helpers.weights.exporting import PROGRAMS, export_model
from helpers.weights.fetching import fetch
from helpers.weights.folders import list_models, models_folder
from helpers.weights.gptq import quantize
from helpers.weights.sizes import CONTEXT, Size, describe_branches, measure_size
from helpers.weights.step_memory import OPTIMIZER_BYTES
from helpers.weights.terms import add_up

FULL_PRECISION = {"bits": 16, "group_size": None, "act_order": None}


def build_parser() -> CommandParser:
    """The commands and their options."""
    description = "Where weights come from, what they cost, and bringing them here."
    parser = CommandParser(prog="python -m helpers.weights", description=description)
    commands = parser.add_subparsers(dest="command", required=True)
    commands.add_parser("list", help="the catalogue, and what is in models/ already")
    branches = commands.add_parser("branches", help="the variants of a repository, one branch each")
    branches.add_argument("name", metavar="REPO")
    words = "Disk and memory, to run and to train a LoRA with helpers.training. TRL's own trainer takes more."
    size = commands.add_parser("size", help="disk and memory, to run and to train a LoRA", description=words)
    size.add_argument("name", metavar="REPO|FOLDER")
    add_size_options(size)
    fetching = commands.add_parser("fetch", help="bring a model into models/")
    fetching.add_argument("name", metavar="NAME|REPO")
    fetching.add_argument(
        "--file", metavar="NAME", help="the one GGUF model to take, if a repository has several"
    )
    words = "allow weights in pickles, which can run any code when they are loaded"
    fetching.add_argument("--pickle", action="store_true", help=words)
    gptq = commands.add_parser("gptq", help="make a 4-bit GPTQ folder from a full-precision one")
    gptq.add_argument("name", metavar="NAME")
    words = "weights that share a scale (default: 32)"
    gptq.add_argument("--group-size", type=types.count, default=32, metavar="N", help=words)
    words = "quantise the columns that matter most first (desc_act)"
    gptq.add_argument("--act-order", action="store_true", help=words)
    export = commands.add_parser("export", help="a model folder as another program takes it")
    export.add_argument("name", metavar="NAME")
    export.add_argument("--for", dest="program", required=True, choices=PROGRAMS)
    words = "where to (default: runs/exports/PROGRAM/models/NAME)"
    export.add_argument("--output", type=types.path, metavar="FOLDER", help=words)
    for command in (size, fetching):
        words = "branch of the repository (default: main)"
        command.add_argument("--revision", default="main", metavar="R", help=words)
    for command in commands.choices.values():
        command.add_argument("--json", action="store_true", help="print JSON")
    return parser


def add_size_options(parser: argparse.ArgumentParser) -> None:
    """What `size` can be asked for: the length of a conversation, and the training."""
    numbers = {
        "context": (CONTEXT, "tokens of prompt and answer together"),
        "r": (16, "rank of the LoRA"),
        "length": (512, "tokens in a row"),
    }
    for name, (default, words) in numbers.items():
        words = f"{words} (default: {default})"
        parser.add_argument(f"--{name}", type=types.count, default=default, metavar="N", help=words)
    words = "rows in a training step, or auto: the most that fit here (default: 4)"
    parser.add_argument("--batch", type=types.count_or_auto, default=4, metavar="N|auto", help=words)
    words = "layers with a LoRA: upper-linear, or names such as q_proj,v_proj (default: all-linear)"
    parser.add_argument("--targets", default=ALL_LINEAR, metavar="T", help=words)
    default = "adamw_torch_fused"
    parser.add_argument("--optimizer", default=default, choices=OPTIMIZER_BYTES, help=f"default: {default}")


def list_catalogue(options: argparse.Namespace) -> object:
    """The catalogue, and the folders that are here."""
    if not options.json:
        for source in CATALOGUE:
            facts = f"{source.origin:5} {source.download_gb:7.2f} GB  {source.access:6} {source.note}"
            print(f"{source.name:37} {facts}")
        print(escape(f"In {models_folder()}: {', '.join(list_models()) or 'nothing yet'}"))
    return {"catalogue": CATALOGUE, "here": list_models()}


def list_branches(options: argparse.Namespace) -> object:
    """The branches of a repository as a table."""
    branches = describe_branches(options.name)
    if not options.json:
        head = f"{'bits':>4} {'group':>5} {'act order':>9} {'disk GB':>8} {'memory GB':>9}  fits here"
        print(f"{'branch':40} {head}")
        for branch in branches:
            kind = branch.quantization or FULL_PRECISION
            bits, group, order = ("-" if value is None else str(value) for value in kind.values())
            numbers = f"{branch.disk_bytes / 1e9:8.2f} {branch.memory_bytes / 1e9:9.2f}"
            fits = "yes" if branch.fits else "no"
            print(f"{escape(branch.name):40} {bits:>4} {group:>5} {order:>9} {numbers}  {fits}")
    return branches


def show_size(options: argparse.Namespace) -> object:
    """Disk and memory with their formulas."""
    training: dict[str, Any] = {
        name: getattr(options, name) for name in ("r", "targets", "optimizer", "batch", "length")
    }
    size = measure_size(options.name, options.revision, options.context, **training)
    if not options.json:
        print(f"on disk {size.disk_bytes / 1e9:.2f} GB; free memory here {size.free_bytes / 1e9:.2f} GB")
        for title, terms in (("to run", size.running), ("to train a LoRA", size.training)):
            print(f"{title}: {add_up(terms) / 1e9:.2f} GB")
            for term in terms:
                print(f"  {term.bytes / 1e9:7.3f}  {term.name}: {term.formula}")
        print("\n".join(describe_cards(size, options)))
    return size


def describe_cards(size: Size, options: argparse.Namespace) -> Iterator[str]:
    """What fits the usual GPUs, as a table."""
    if options.batch == AUTO:
        yield f"batch {size.batch}: {size.batch_reason}"
    rows = f"{size.batch} rows of {options.length} tokens"
    yield f"on one GPU, GB: to run {options.context} tokens; to train with {rows}; the most rows that fit"
    yield "  (with gradient checkpointing / without; 0 = nothing fits; * = too much)"
    yield f"  {'card':12} {'weights':14} {'dtype':9} {'run':>7} {'train':>17} {'most rows':>11}"
    for fit in size.cards:
        run, *train = (
            f"{needed / 1e9:.1f}{' ' if needed <= fit.free_bytes else '*'}"
            for needed in (fit.running_bytes, fit.training_bytes, fit.plain_bytes)
        )
        most = f"{fit.rows} / {fit.plain_rows}"
        yield f"  {fit.card:12} {fit.weights:14} {fit.dtype:9} {run:>7} {' / '.join(train):>17} {most:>11}"


def fetch_model(options: argparse.Namespace) -> object:
    """Fetches a model and prints its folder."""
    folder = fetch(options.name, options.revision, not options.json, options.file, options.pickle)
    if not options.json:
        print(folder.path)
    return {"folder": str(folder.path)}


def make_gptq(options: argparse.Namespace) -> object:
    """Quantises a model and prints the folder."""
    folder = quantize(options.name, options.group_size, options.act_order)
    if not options.json:
        print(folder.path)
    return {"folder": str(folder.path)}


def export_folder(options: argparse.Namespace) -> object:
    """Exports a model and prints the folder."""
    folder = export_model(options.name, options.program, options.output)
    if not options.json:
        print(folder)
    return {"folder": str(folder)}


COMMANDS = {
    "list": list_catalogue,
    "branches": list_branches,
    "size": show_size,
    "fetch": fetch_model,
    "gptq": make_gptq,
    "export": export_folder,
}


def main(arguments: list[str]) -> None:
    """`python -m helpers.weights list | branches | size | fetch | gptq | export`, each with --json."""
    options = build_parser().parse_args(arguments)
    result = COMMANDS[options.command](options)
    if options.json:
        print(json.dumps(result, indent=2, default=asdict))


if __name__ == "__main__":
    raise SystemExit(run_command(main))
