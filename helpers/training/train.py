"""Rows in, a saved LoRA out, in one call: what lesson 4 does step by step."""

import contextlib
import importlib.util
import os
import shutil
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from transformers import TrainerCallback

from helpers.adapters.attaching import remove_lora_layers
from helpers.adapters.folders import AdapterFolder
from helpers.common.paths import find_home
from helpers.loading.model import LoadedModel
from helpers.tasks.data import TaskData
from helpers.training.checkpoints import open_checkpoints
from helpers.training.guards import explain_memory
from helpers.training.runs import refuse_unwritable, save_run
from helpers.training.settings import TrainingSettings
from helpers.training.trainer import make_trainer


def train_lora(
    loaded: LoadedModel,
    data: TaskData,
    settings: TrainingSettings,
    output: Path,
    progress: bool = True,
    resume: bool = False,
    prefix_sharing: str = "auto",
    callbacks: Sequence[TrainerCallback] = (),
) -> dict[str, Any]:
    """Trains a LoRA on the training rows of `data` and saves it as the folder `output`; returns its run.json.

    With settings.checkpoint_steps, a training that was killed can continue with `resume`; one that a
    callback ends early is saved as far as it came. If tensorboard is installed, the loss of every step goes
    to runs/tensorboard/NAME. On return the LoRA is attached to `loaded.model`. Processes other than the
    first return {}.

    Raises TrainingError if the loss is not a number or diverges, ResourceError if memory runs out.
    """
    refuse_unwritable(output)
    _ = loaded.folder.hashes  # a damaged record of the base should fail now, not after the training
    checkpoints, last = open_checkpoints(output.name, data.train, settings, resume)
    with explain_memory(settings), give_back_base(loaded):
        trainer = make_trainer(loaded, data, settings, checkpoints, progress, prefix_sharing)
        loggers = log_to_tensorboard(output.name) if trainer.is_world_process_zero() else []
        for callback in (*loggers, *callbacks):
            trainer.add_callback(callback)
        trainer.train(resume_from_checkpoint=str(last) if last else None)
    model: Any = trainer.model
    loaded.model = model.eval()
    if not trainer.is_world_process_zero():  # `accelerate launch` started several processes
        return {}
    with save_run(trainer, loaded, data, settings, output) as fresh:
        model.save_pretrained(fresh)
    shutil.rmtree(checkpoints)
    return AdapterFolder(output).run


@contextlib.contextmanager
def give_back_base(loaded: LoadedModel) -> Iterator[None]:
    """If the block fails, `loaded` has the plain base again, ready for another training or for answers."""
    try:
        yield
    except BaseException:
        loaded.model = remove_lora_layers(loaded.model).eval()
        raise


def log_to_tensorboard(name: str) -> list[TrainerCallback]:
    """The callback that writes TensorBoard's events to runs/tensorboard/NAME; [] without tensorboard."""
    if not importlib.util.find_spec("tensorboard"):
        return []
    from torch.utils.tensorboard import SummaryWriter
    from transformers.integrations.integration_utils import TensorBoardCallback

    return [TensorBoardCallback(SummaryWriter(str(find_home() / "runs" / "tensorboard" / name)))]


def pick_own_device() -> str | None:
    """Where this process loads the model if `accelerate launch` started several; None for a single process.

    It is the process's own GPU, or the CPU with FSDP, which spreads the model from there.
    """
    if not torch.cuda.is_available() or "LOCAL_RANK" not in os.environ:
        return None
    uses_fsdp = os.environ.get("ACCELERATE_USE_FSDP") == "true"
    return "cpu" if uses_fsdp else f"cuda:{os.environ['LOCAL_RANK']}"
