"""Rows in, a saved LoRA out; helpers.trainers makes the trainer that does the work.

What is saved appears in loras/NAME/ only when training ended well: PEFT's files, `training_parameters.json` (the WebUI's names) and
`run.json` (what was measured).
"""

import argparse
import os
import shutil
from collections.abc import Sequence
from pathlib import Path

import torch
from transformers import TrainerCallback
from transformers.integrations import TensorBoardCallback

from helpers import CommandParser, KitError, find_home, resolve_inside, run_command
from helpers.dataset import Row, load_rows, split_rows
from helpers.loading import LoadedModel, load_model
from helpers.lora_folders import find_adapter, loras_folder
from helpers.machine import Lane, pick_lane
from helpers.records import open_adapter_folder, open_checkpoints, record_run, refuse_unwritable
from helpers.settings import PRESETS, TrainingSettings, pick_settings
from helpers.templating import Task, Template, load_template
from helpers.trainers import explain_memory, make_trainer

CHECKPOINT_STEPS = 50  # from a terminal: a minute or two on a CPU


def train_lora(
    loaded: LoadedModel,
    rows: list[Row],
    template: Template,
    settings: TrainingSettings,
    output: Path,
    facts: dict | None = None,
    progress: bool = True,
    resume: bool = False,
    prefix_sharing: str = "auto",
    callbacks: Sequence[TrainerCallback] = (),
) -> dict:
    """Trains a LoRA on `rows` and saves it as the folder `output`; returns what is in its run.json ({} in all processes but the first).

    `facts` (paths of data and template, split) go into run.json too, the loss of every step as TensorBoard's events into
    runs/tensorboard/NAME. With settings.checkpoint_steps, what is killed can go on with `resume`; a training that one of `callbacks` ends
    early is saved as far as it came. On return the adapter is on `loaded.model`. Raises KitError when the loss is no number or runs away,
    and when memory runs out.
    """
    refuse_unwritable(output)
    checkpoints, last = open_checkpoints(output.name, rows, settings, resume)
    with explain_memory(settings):
        trainer = make_trainer(loaded, rows, template, settings, checkpoints, progress, prefix_sharing)
        for callback in (log_to_tensorboard(output.name), *callbacks):
            trainer.add_callback(callback)
        trainer.train(resume_from_checkpoint=str(last) if last else None)
    run = {}
    if trainer.is_world_process_zero():  # the only one, unless `accelerate launch` started more
        with open_adapter_folder(output) as fresh:
            trainer.model.save_pretrained(fresh)
            run = record_run(trainer, loaded, fresh, rows, template, settings, facts)
        shutil.rmtree(checkpoints)
    loaded.model = trainer.model.eval()
    return run


def log_to_tensorboard(name: str) -> TensorBoardCallback:
    """transformers' callback that writes TensorBoard's events, with runs/tensorboard/NAME as its folder."""
    callback = TensorBoardCallback()
    callback.logging_dir = str(find_home() / "runs" / "tensorboard" / name)
    return callback


def pick_own_device() -> str | None:
    """Where this process loads the model, when `accelerate launch` started several: its own GPU, or the CPU, from where FSDP spreads it."""
    if not torch.cuda.is_available() or "LOCAL_RANK" not in os.environ:
        return None
    return "cpu" if os.environ.get("ACCELERATE_USE_FSDP") == "true" else f"cuda:{os.environ['LOCAL_RANK']}"


def ensure_adapter(task: Task, lane: Lane) -> Path:
    """The folder of the task's LoRA; when it is missing, a small one is trained first (about a minute)."""
    folder = loras_folder() / task.adapter
    if not folder.exists():
        template, split = load_template(task.template), {"seed": 0, "test_size": 0.2}
        train, _ = split_rows(load_rows(task.data, template), **split)
        settings = pick_settings(lane.name).replace({"max_rows": 120})
        facts = {"data": task.data, "template_file": task.template, "split": split}
        train_lora(load_model(lane.folder, purpose="training"), train, template, settings, folder, facts, progress=False)
    return find_adapter(task.adapter)


def name_output(name: str) -> Path:
    """The folder below loras/ that a LoRA will get; KitError for a name that cannot be one."""
    folder = resolve_inside(loras_folder(), name.removeprefix("loras/"), "LoRA")
    if "." in folder.name:
        raise KitError(f"PEFT cannot attach a LoRA with a dot in its name ('{folder.name}').", "Choose another name, such as my-lora.")
    return folder


def parse_arguments(arguments: list[str]) -> argparse.Namespace:
    """The command line of helpers.training; `output` as the folder it names."""
    parser = CommandParser(prog="python -m helpers.training", description="Train a LoRA on a CSV with a YAML template.")
    parser.add_argument("--model", required=True, metavar="NAME", help="folder below models/")
    parser.add_argument("--data", required=True, metavar="CSV")
    parser.add_argument("--template", required=True, metavar="YAML")
    parser.add_argument("--output", required=True, metavar="loras/NAME", help="the adapter's folder below loras/")
    parser.add_argument("--settings", metavar="YAML", help=f"a file, or one of {', '.join(PRESETS)}; without it the lane's")
    parser.add_argument("--epochs", type=float, metavar="N")
    parser.add_argument("--seed", type=int, default=0, metavar="N", help="of the split and the training (default: 0)")
    parser.add_argument("--test-size", type=float, default=0.2, help="share of the comments held out (default: 0.2)")
    parser.add_argument("--prefix-sharing", choices=("on", "off", "auto"), default="auto", help="compute what rows share once (default: auto)")
    parser.add_argument("--resume", action="store_true", help="go on from the last checkpoint of a training that was interrupted")
    options = parser.parse_args(arguments)
    options.output = name_output(options.output)
    return options


def main(arguments: list[str]) -> None:
    """`python -m helpers.training`: trains a LoRA on the rows of a CSV that the split does not hold out."""
    options = parse_arguments(arguments)
    template = load_template(options.template)
    train, test = split_rows(load_rows(options.data, template), options.test_size, options.seed)
    settings = pick_settings(options.settings or pick_lane().value.name)
    settings = settings.replace({"seed": options.seed} | ({"epochs": options.epochs} if options.epochs else {}))
    settings = settings.replace({"checkpoint_steps": settings.checkpoint_steps or CHECKPOINT_STEPS})
    facts = {"data": str(options.data), "template_file": str(options.template), "split": {"seed": options.seed, "test_size": options.test_size}}
    loaded = load_model(options.model, purpose="training", device_map=pick_own_device())
    how = {"resume": options.resume, "prefix_sharing": options.prefix_sharing}
    run = train_lora(loaded, train, template, settings, options.output, facts, **how)
    if run:
        words = f"{run['rows']} rows in {run['seconds']:.0f} s, loss {run['loss'][0]:.2f} -> {run['loss'][-1]:.2f}"
        print(f"{options.output}: {words}, {len(test)} rows held out")


if __name__ == "__main__":
    raise SystemExit(run_command(main))
