"""TRL's SFTConfig of a training, from our settings and from what the model and the machine are."""

import sys
from pathlib import Path
from typing import TypedDict

import torch
from transformers import PreTrainedModel
from trl.trainer.sft_config import SFTConfig

from helpers.common.machine import pick_device
from helpers.common.training_settings import TrainingSettings
from helpers.loading.model import list_places
from helpers.training._private import use_one_gpu
from helpers.training.checkpoints import save_checkpoints
from helpers.training.watching import watch_validation


def make_saving_config(
    base: PreTrainedModel, settings: TrainingSettings, output: Path, progress: bool, watches: bool
) -> SFTConfig:
    """make_sft_config with checkpoints and, if the trainer `watches` validation rows, evaluations."""
    config = make_sft_config(base, settings, output, progress)
    if watches:
        watch_validation(config)
    else:
        save_checkpoints(config, settings.checkpoint_steps)
    return config


class HardwareArguments(TypedDict):
    """The arguments of SFTConfig that describe_hardware chooses."""

    bf16: bool
    fp16: bool
    use_cpu: bool
    gradient_checkpointing: bool
    dataloader_pin_memory: bool
    logging_steps: float
    logging_nan_inf_filter: bool
    save_strategy: str
    report_to: str


def describe_hardware(model: PreTrainedModel) -> HardwareArguments:
    """The arguments of SFTConfig that follow from machine and dtype, and those that keep it quiet."""
    device = pick_device().value
    on_gpu = device == "cuda"
    return {
        "bf16": model.dtype == torch.bfloat16,
        "fp16": model.dtype == torch.float16,
        "use_cpu": device == "cpu",
        "gradient_checkpointing": on_gpu,  # saves memory and costs time, of which a CPU has less to spare
        "dataloader_pin_memory": on_gpu,
        "logging_steps": 1,
        "logging_nan_inf_filter": False,  # otherwise a loss that is not a number is hidden in the logs
        "save_strategy": "no",
        "report_to": "none",
    }


def make_sft_config(
    model: PreTrainedModel, settings: TrainingSettings, output: Path, progress: bool = True
) -> SFTConfig:
    """TRL's SFTConfig. The loss covers the completion only, its end-of-turn token included.

    No checkpoints are written; make_trainer adds them. Of several GPUs, a single process uses one, which is
    said.
    """
    config = SFTConfig(
        output_dir=str(output),
        num_train_epochs=settings.epochs,
        per_device_train_batch_size=settings.batch_size,
        gradient_accumulation_steps=settings.accumulation,
        max_length=settings.max_length,
        completion_only_loss=True,
        learning_rate=settings.learning_rate,
        lr_scheduler_type=settings.schedule,
        warmup_steps=settings.warmup_ratio,
        weight_decay=settings.weight_decay,
        max_grad_norm=settings.max_grad_norm,
        optim=settings.optimizer,
        seed=settings.seed,
        disable_tqdm=not progress,
        **describe_hardware(model),
    )
    say_unused(use_one_gpu(config), list_places(model))
    return config


def say_unused(gpus: int, places: list[str]) -> None:
    """Prints, to stderr, that so many GPUs are not used, and what would use them.

    Nothing for none, and for a model that is spread over several `places`.
    """
    if gpus and len(places) < 2:
        words = f"One GPU is trained on, and {gpus} more would be free: `accelerate launch` uses all"
        print(f"{words} (launch/README.md).", file=sys.stderr)
