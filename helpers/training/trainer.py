"""Rows and settings become a trainer: the one place where rows become batches and a loss.

TRL's SFTTrainer does the work, in a form that computes what rows share once (helpers.training.prefix_trainer).
"""

import contextlib
import warnings
from collections.abc import Iterator
from pathlib import Path

import torch
from datasets import Dataset, are_progress_bars_disabled, disable_progress_bars, enable_progress_bars
from peft import LoraConfig, PeftModel
from trl import SFTConfig, SFTTrainer

from helpers.common.errors import KitError
from helpers.loading.model import LoadedModel
from helpers.tasks.data import TaskData
from helpers.tasks.rows import Row
from helpers.tasks.split import keep_short
from helpers.tasks.template import Template
from helpers.training.branches import find_obstacle
from helpers.training.checkpoints import describe_checkpoints
from helpers.training.guards import LossGuard
from helpers.training.prefix_trainer import SharedPrefixTrainer
from helpers.training.settings import TrainingSettings


def build_dataset(rows: list[Row], template: Template, settings: TrainingSettings) -> Dataset:
    """The rows as TRL takes them: columns `prompt` and `completion`, each a list of messages; shuffled. settings.max_rows limits them."""
    kept = keep_short(rows, settings.max_rows, settings.seed) if settings.max_rows else rows
    examples = [template.build_example(row) for row in kept]
    return Dataset.from_list(
        [{"prompt": e["prompt"], "completion": e["completion"]} for e in examples]
    ).shuffle(seed=settings.seed)


def list_targets(model: torch.nn.Module) -> list[str]:
    """Names of the linear layers inside the decoder blocks (q_proj, up_proj ...), sorted: what a LoRA is put on."""
    return sorted(
        {
            name.rsplit(".", 1)[-1]
            for name, module in model.named_modules()
            if ".layers." in name and is_linear(module)
        }
    )


def is_linear(module: torch.nn.Module) -> bool:
    """True for a linear layer, also a quantised one (gptqmodel's layers say in_features too)."""
    return hasattr(module, "in_features") and hasattr(module, "out_features") and not list(module.children())


def make_lora_config(model: torch.nn.Module, settings: TrainingSettings) -> LoraConfig:
    """PEFT's LoraConfig, on the layers that `settings.targets` names."""
    return LoraConfig(
        r=settings.lora_r,
        lora_alpha=settings.lora_alpha,
        lora_dropout=settings.lora_dropout,
        target_modules=list_targets(model)
        if settings.targets == "all-linear"
        else settings.targets.split(","),
        task_type="CAUSAL_LM",
    )


def describe_hardware(model: torch.nn.Module) -> dict[str, object]:
    """The arguments of SFTConfig that follow from the machine and the model's dtype, and the quiet ones."""
    on_gpu = torch.cuda.is_available()
    return {
        "bf16": model.dtype == torch.bfloat16,
        "fp16": model.dtype == torch.float16,
        "use_cpu": not on_gpu,
        "gradient_checkpointing": on_gpu,  # saves memory for time; a CPU has the memory and not the time
        "dataloader_pin_memory": on_gpu,
        "logging_steps": 1,
        "logging_nan_inf_filter": False,  # else a loss that is no number is logged as the mean of the others
        "save_strategy": "no",
        "report_to": "none",
    }


def make_sft_config(
    model: torch.nn.Module, settings: TrainingSettings, output: Path, progress: bool = True
) -> SFTConfig:
    """TRL's SFTConfig. The loss is on the completion only (prompt and completion are apart), its end-of-turn token included."""
    return SFTConfig(
        output_dir=str(output),
        num_train_epochs=settings.epochs,
        per_device_train_batch_size=settings.batch_size,
        gradient_accumulation_steps=settings.accumulation,
        max_length=settings.max_length,
        learning_rate=settings.learning_rate,
        lr_scheduler_type=settings.schedule,
        warmup_steps=settings.warmup_ratio,
        weight_decay=settings.weight_decay,
        max_grad_norm=settings.max_grad_norm,
        optim=settings.optimizer,
        seed=settings.seed,
        disable_tqdm=not progress,
        **describe_hardware(model) | describe_checkpoints(settings.checkpoint_steps),
    )


def make_trainer(
    loaded: LoadedModel,
    data: TaskData,
    settings: TrainingSettings,
    output: Path,
    progress: bool = True,
    prefix_sharing: str = "auto",
) -> SFTTrainer:
    """The trainer for these rows. A LoRA that is on `loaded.model` is taken off first.

    `prefix_sharing`: "auto" computes what rows share once where the model lets it, "on" raises a KitError where it does not, "off" takes
    TRL's own SFTTrainer.
    """
    obstacle = find_obstacle(loaded.model)
    if prefix_sharing == "on" and obstacle:
        raise KitError(f"The shared prefix cannot be used: {obstacle}.", "Leave out --prefix-sharing on.")
    torch.manual_seed(settings.seed)  # before PEFT draws the LoRA matrices
    loaded.model.state_dict()  # on a CPU a 4-bit model that has answered lets no gradient through until bitsandbytes unpacks it, as it does here
    examples = build_dataset(data.train, data.template, settings)
    kind = SFTTrainer if prefix_sharing == "off" else SharedPrefixTrainer
    with hide_bars(not progress):
        trainer = kind(
            model=loaded.model.unload() if isinstance(loaded.model, PeftModel) else loaded.model,
            args=make_sft_config(loaded.model, settings, output, progress),
            train_dataset=examples,
            processing_class=loaded.tokenizer,
            peft_config=make_lora_config(loaded.model, settings),
            callbacks=[LossGuard()],
        )
    report_long_rows(len(examples) - len(trainer.train_dataset), len(examples), settings)
    return trainer


@contextlib.contextmanager
def hide_bars(hidden: bool) -> Iterator[None]:
    """Inside the block the library datasets, which shows a bar for each of its passes over the rows, shows none when `hidden`."""
    hidden = hidden and not are_progress_bars_disabled()
    if hidden:
        disable_progress_bars()
    try:
        yield
    finally:
        if hidden:
            enable_progress_bars()


def report_long_rows(dropped: int, total: int, settings: TrainingSettings) -> None:
    """Says how many rows TRL left out since max_length cuts off their whole answer; KitError when none is left."""
    words = f"{dropped} of {total} rows are so long that max_length ({settings.max_length} tokens) leaves nothing of their answers"
    if dropped == total:
        raise KitError(f"{words}.", "Raise max_length, or shorten the texts.")
    if dropped:
        warnings.warn(f"{words}: they are not trained on.", stacklevel=2)
