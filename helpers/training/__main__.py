"""Rows in, a saved LoRA out; helpers.training.trainer makes the trainer that does the work.

What is saved appears in loras/NAME/ only when training ended well: PEFT's files, `training_parameters.json` (the WebUI's names) and
`run.json` (what was measured).
"""

import argparse

from helpers.adapters.folders import name_output
from helpers.common.command import CommandParser, run_command
from helpers.common.lanes import pick_lane
from helpers.loading.model import load_model
from helpers.tasks.rows import load_rows
from helpers.tasks.split import split_rows
from helpers.tasks.template import load_template
from helpers.training.settings import PRESETS, pick_settings
from helpers.training.train import CHECKPOINT_STEPS, pick_own_device, train_lora


def parse_arguments(arguments: list[str]) -> argparse.Namespace:
    """The command line of helpers.training; `output` as the folder it names."""
    parser = CommandParser(
        prog="python -m helpers.training", description="Train a LoRA on a CSV with a YAML template."
    )
    parser.add_argument("--model", required=True, metavar="NAME", help="folder below models/")
    parser.add_argument("--data", required=True, metavar="CSV")
    parser.add_argument("--template", required=True, metavar="YAML")
    parser.add_argument(
        "--output", required=True, metavar="loras/NAME", help="the adapter's folder below loras/"
    )
    parser.add_argument(
        "--settings", metavar="YAML", help=f"a file, or one of {', '.join(PRESETS)}; without it the lane's"
    )
    parser.add_argument("--epochs", type=float, metavar="N")
    parser.add_argument(
        "--seed", type=int, default=0, metavar="N", help="of the split and the training (default: 0)"
    )
    parser.add_argument(
        "--test-size", type=float, default=0.2, help="share of the comments held out (default: 0.2)"
    )
    parser.add_argument(
        "--prefix-sharing",
        choices=("on", "off", "auto"),
        default="auto",
        help="compute what rows share once (default: auto)",
    )
    parser.add_argument(
        "--resume",
        action="store_true",
        help="go on from the last checkpoint of a training that was interrupted",
    )
    options = parser.parse_args(arguments)
    options.output = name_output(options.output)
    return options


def main(arguments: list[str]) -> None:
    """`python -m helpers.training`: trains a LoRA on the rows of a CSV that the split does not hold out."""
    options = parse_arguments(arguments)
    template = load_template(options.template)
    train, test = split_rows(load_rows(options.data, template), options.test_size, options.seed)
    settings = pick_settings(options.settings or pick_lane().value.name)
    settings = settings.replace(
        {"seed": options.seed} | ({"epochs": options.epochs} if options.epochs else {})
    )
    settings = settings.replace({"checkpoint_steps": settings.checkpoint_steps or CHECKPOINT_STEPS})
    facts = {
        "data": str(options.data),
        "template_file": str(options.template),
        "split": {"seed": options.seed, "test_size": options.test_size},
    }
    loaded = load_model(options.model, purpose="training", device_map=pick_own_device())
    how = {"resume": options.resume, "prefix_sharing": options.prefix_sharing}
    run = train_lora(loaded, train, template, settings, options.output, facts, **how)
    if run:
        words = f"{run['rows']} rows in {run['seconds']:.0f} s, loss {run['loss'][0]:.2f} -> {run['loss'][-1]:.2f}"
        print(f"{options.output}: {words}, {len(test)} rows held out")


if __name__ == "__main__":
    raise SystemExit(run_command(main))
