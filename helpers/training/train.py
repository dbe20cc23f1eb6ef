"""Rows in, a saved LoRA out; helpers.training.trainer makes the trainer that does the work.

What is saved appears in loras/NAME/ only when training ended well: PEFT's files, `training_parameters.json` (the WebUI's names) and
`run.json` (what was measured).
"""

import os
import shutil
from collections.abc import Sequence
from pathlib import Path

import torch
from transformers import TrainerCallback
from transformers.integrations import TensorBoardCallback

from helpers.common.paths import find_home
from helpers.loading.model import LoadedModel
from helpers.tasks.rows import Row
from helpers.tasks.template import Template
from helpers.training.checkpoints import open_checkpoints
from helpers.training.guards import explain_memory
from helpers.training.runs import open_adapter_folder, record_run, refuse_unwritable
from helpers.training.settings import TrainingSettings
from helpers.training.trainer import make_trainer

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
