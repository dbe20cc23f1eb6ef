"""`python -m helpers.training`: trains a LoRA on the rows of a table that the split does not hold out."""

import argparse

from helpers.adapters.folders import name_output
from helpers.common import arguments as types
from helpers.common.command import CommandParser, run_command
from helpers.common.lanes import pick_lane
from helpers.common.presets import PRESETS, pick_settings
from helpers.common.training_settings import TrainingSettings
from helpers.loading.chat_templates import CHAT_TEMPLATE_HELP, say_template
from helpers.loading.model import load_model
from helpers.tasks.data import TaskData, load_task_data
from helpers.tasks.split import Split
from helpers.training.train import check_training, pick_own_device, train_lora
from helpers.training.watching import say_watching


def parse_arguments(arguments: list[str]) -> argparse.Namespace:
    """The command line of helpers.training; `output` as the folder that it names."""
    description = "Train a LoRA on your own rows: a table with a YAML template, or chats."
    parser = CommandParser(prog="python -m helpers.training", description=description)
    parser.add_argument("--model", required=True, metavar="NAME", help="folder below models/")
    words = "CSV, TSV, JSON, JSON lines, Parquet, xlsx or a data set folder"
    parser.add_argument("--data", required=True, metavar="FILE", help=words)
    words = "how rows become prompts and answers; chats need none"
    parser.add_argument("--template", metavar="YAML", help=words)
    words = "the LoRA's folder below loras/"
    parser.add_argument("--output", required=True, metavar="loras/NAME", help=words)
    words = f"a file, or one of {', '.join(PRESETS)} (default: the lane's)"
    parser.add_argument("--settings", metavar="YAML", help=words)
    parser.add_argument("--epochs", type=types.epochs, metavar="N", help="default: the settings'")
    words = "rows in a forward pass, or auto: chosen for model, rows and memory (default: the settings')"
    parser.add_argument("--batch-size", type=types.count_or_auto, metavar="N|auto", help=words)
    words = f"of the split (default: {Split.seed}) and of the training (default: the settings')"
    parser.add_argument("--seed", type=types.seed, metavar="N", help=words)
    add_split_sizes(parser)
    parser.add_argument("--chat-template", metavar="NAME|FILE", help=CHAT_TEMPLATE_HELP)
    words = "compute what rows share once (default: auto)"
    choices = ("on", "off", "auto")
    parser.add_argument("--prefix-sharing", choices=choices, default="auto", help=words)
    words = "continue from the last checkpoint of a training that was interrupted"
    parser.add_argument("--resume", action="store_true", help=words)
    options = parser.parse_args(arguments)
    options.output = name_output(options.output)
    return options


def add_split_sizes(parser: argparse.ArgumentParser) -> None:
    """The shares of the rows that are not trained on."""
    words = f"share of the texts that is held out for a test (default: {Split.test_size})"
    parser.add_argument("--test-size", type=types.share, default=Split.test_size, metavar="S", help=words)
    words = (
        "share of the texts that is watched: the training ends when their loss no longer falls, and the best "
        f"state is kept (default: {Split.validation_size:.0f}, none)"
    )
    size = Split.validation_size
    parser.add_argument("--validation-size", type=types.share_or_none, default=size, metavar="S", help=words)


def read_settings(options: argparse.Namespace) -> TrainingSettings:
    """The settings of the preset or file, with what the command line says."""
    settings = pick_settings(options.settings or pick_lane().value.name)
    given = {"seed": options.seed, "epochs": options.epochs, "batch_size": options.batch_size}
    return settings.replace(
        {key: value for key, value in given.items() if value is not None}, "the command line"
    )


def describe_data(data: TaskData, settings: TrainingSettings) -> list[str]:
    """What was found out about the file, and what is learned of it."""
    learned = {
        "labels": "the answer of each row's label",
        "answers": "the answer of each row",
        "chats": f"{'all turns' if settings.turns == 'all' else 'the last turn'} of the assistant",
    }
    parts = [f"{len(data.train)} rows to train on", f"{len(data.test)} held out"]
    parts += [f"{len(data.validation)} to watch"] if data.validation else []
    return [*data.notes, f"{', '.join(parts)}; learned: {learned[data.template.kind]}."]


def main(arguments: list[str]) -> None:
    """`python -m helpers.training`: trains, shows the progress, and prints one line about the result."""
    options = parse_arguments(arguments)
    seed = Split.seed if options.seed is None else options.seed
    split = Split(seed, options.test_size, options.validation_size)
    data = load_task_data(options.data, options.template, split)
    settings = read_settings(options)
    check_training(options.model, data, settings, options.output, options.resume)
    print("\n".join(describe_data(data, settings)), flush=True)
    loaded = load_model(
        options.model,
        purpose="training",
        device_map=pick_own_device(),
        chat_template=options.chat_template,
    )
    say_template(loaded.chat_template)
    run = train_lora(
        loaded,
        data,
        settings,
        options.output,
        resume=options.resume,
        prefix_sharing=options.prefix_sharing,
    )
    if run:
        loss = f"loss {run['loss'][0]:.2f} -> {run['loss'][-1]:.2f}"
        words = f"{run['rows']} rows in {run['seconds']:.0f} s, {loss}, {len(data.test)} rows held out"
        print(f"{options.output}: {words}")
        if "validation" in run:
            print(say_watching(run["validation"], run["planned_steps"]))


if __name__ == "__main__":
    raise SystemExit(run_command(main))
