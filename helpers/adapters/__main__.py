"""`python -m helpers.adapters`: LoRAs listed, proved, merged and exported."""

import argparse

from helpers.adapters.attaching import attach_adapter
from helpers.adapters.bases import find_base
from helpers.adapters.chat_template import pick_for_all
from helpers.adapters.exporting import PROGRAMS, build_vllm_command, export_adapter
from helpers.adapters.fingerprint import list_prompts
from helpers.adapters.folders import find_adapter, list_folders, list_shipped, loras_folder
from helpers.adapters.listing import LoraFacts, describe_adapter
from helpers.adapters.merging import merge_adapter
from helpers.adapters.norms import measure_norms
from helpers.adapters.parts import check_attachable
from helpers.adapters.proving import Finding, answer_both_ways, prove
from helpers.common import arguments as types
from helpers.common.arguments import escape
from helpers.common.command import CommandParser, run_command
from helpers.common.errors import UsageError
from helpers.loading.chat_templates import say_template
from helpers.loading.model import load_model
from helpers.tasks.template_file import load_template
from helpers.weights.folders import find_model


def describe_measured(facts: LoraFacts) -> str:
    """How good a LoRA was found to be."""
    if facts.exact_match is not None:
        return f"exact match {facts.exact_match:.1%}"
    return f"accuracy {facts.accuracy:.1%}" if facts.accuracy is not None else "accuracy not measured"


def in_one_line(text: str) -> str:
    """The text as a terminal may be given it, with the line breaks in a name as \\n."""
    return escape(text).replace("\n", r"\n")


def print_list() -> None:
    """A line for each folder in loras/, broken ones with the reason, and for each LoRA of the kit."""
    names = list_folders()
    for name in names:
        print_facts(describe_adapter(name))
    if not names:
        print(f"No LoRA in {loras_folder()} yet: train one with lesson 4 or python -m helpers.training.")
    for name in list_shipped():
        if name not in names:
            print_facts(describe_adapter(name), "comes with the kit")


def print_facts(facts: LoraFacts, origin: str = "") -> None:
    """A line about a LoRA, and a second one if it cannot be attached."""
    known = [
        f"base {facts.base or 'not recorded'}",
        f"rank {facts.rank}",
        f"{facts.bytes / 1e6:.1f} MB",
        facts.targets or "",
        f"data {facts.data or 'not recorded'}",
        describe_measured(facts),
    ]
    print(in_one_line(f"{facts.name:30} {'  '.join([*known, origin]) if facts.rank else ''}"))
    if facts.problem:
        print(in_one_line(f"{'':30} cannot be attached: {facts.problem}"))


def print_proof(name: str, model: str | None, template: str | None, chat_template: str | None) -> bool:
    """Loads base and LoRA and prints norms, answers and findings; False if one of them failed."""
    folder = find_adapter(name)
    known = load_template(template) if template else None
    base = find_model(model) if model else find_base(folder)
    check_attachable(folder, base)
    loaded = attach_adapter(load_model(base.name, chat_template=pick_for_all(chat_template, [folder])), name)
    say_template(loaded.chat_template)
    print("||B A|| of each module: mean over the layers, smallest, largest")
    for module, column in measure_norms(folder).items():
        print(f"  {module:12} {column.mean():8.3f} {column.min():8.3f} {column.max():8.3f}")
    for messages in list_prompts(loaded, folder):
        base, lora = answer_both_ways(loaded, messages)
        print(f"{escape(messages[-1]['content'])}\n  base: {base!r}\n  LoRA: {lora!r}")
    findings = prove(loaded, name, known)
    print_findings(findings)
    return all(finding.passed is not False for finding in findings)


def print_findings(findings: list[Finding]) -> None:
    """A line for each finding, with the remedy if it failed."""
    for finding in findings:
        word = {True: "yes", False: "NO", None: "unknown"}[finding.passed]
        remedy = f". {finding.remedy}" if finding.passed is False else ""
        print(f"{word:8} {finding.claim}: {finding.seen}{remedy}")


def parse_arguments(arguments: list[str]) -> argparse.Namespace:
    """The command line of helpers.adapters."""
    parser = CommandParser(prog="python -m helpers.adapters", description="The LoRAs in loras/.")
    commands = parser.add_subparsers(dest="command", required=True)
    words = "base, rank, layers, size, data and accuracy of each; broken ones with the reason"
    commands.add_parser("list", help=words)
    words = "whether a LoRA loads and changes what it was trained to change"
    proof = commands.add_parser("prove", help=words)
    proof.add_argument("name")
    proof.add_argument("--model", help="the base below models/, if the LoRA records none")
    words = "the template that it will be asked with, to compare with the template of its training"
    proof.add_argument("--template", metavar="YAML", help=words)
    proof.add_argument("--chat-template", metavar="NAME|FILE", help="default: as in its training")
    merge = commands.add_parser("merge", help="base and LoRA as one model folder")
    merge.add_argument("name")
    merge.add_argument("--output", required=True, metavar="M", help="the new folder below models/")
    merge.add_argument("--base", metavar="MODEL", help="merge into this model instead of the recorded one")
    words = "of the saved weights (default: the base's own)"
    merge.add_argument("--chat-template", metavar="NAME|FILE", help="default: as in its training")
    merge.add_argument("--dtype", choices=("float32", "bfloat16", "float16"), help=words)
    export = commands.add_parser("export", help="the LoRA as another program takes it")
    export.add_argument("name", nargs="+", help="one LoRA; for vllm, several if you like")
    export.add_argument("--for", dest="program", required=True, choices=PROGRAMS)
    export.add_argument("--output", type=types.path, help="where to (default: runs/exports/PROGRAM/NAME)")
    export.add_argument("--gpus", type=types.count, default=1, help="for vllm: GPUs in each machine")
    export.add_argument("--machines", type=types.count, default=1, help="for vllm: machines, joined by Ray")
    return parser.parse_args(arguments)


def print_export(options: argparse.Namespace) -> None:
    """Exports, and prints the path or, for vLLM, the lines to type."""
    if options.program == "vllm":
        print(*build_vllm_command(options.name, options.gpus, options.machines), sep="\n")
        return
    if len(options.name) > 1:
        problem = f"{options.program} takes one LoRA at a time, not {len(options.name)}."
        raise UsageError(problem, "Export them one after the other.")
    print(export_adapter(options.name[0], options.program, options.output))


def main(arguments: list[str]) -> int:
    """`python -m helpers.adapters`; returns 2 if `prove` finds something against the LoRA."""
    options = parse_arguments(arguments)
    if options.command == "prove":
        proved = print_proof(options.name, options.model, options.template, options.chat_template)
        return 0 if proved else 2
    if options.command == "list":
        print_list()
    elif options.command == "merge":
        print(merge_adapter(options.name, options.output, options.base, options.dtype, options.chat_template))
    else:
        print_export(options)
    return 0


if __name__ == "__main__":
    raise SystemExit(run_command(main))
