"""Rows in, a saved LoRA out: `train_lora`, and the parts of which it and lesson 4 are made.

TRL's SFTTrainer does the work, in a form that computes shared tokens once (helpers.training.prefix_trainer).
"""

import contextlib
import dataclasses
import importlib.util
import os
import shutil
import warnings
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, TypedDict, cast

import torch
from datasets import Dataset, are_progress_bars_disabled, disable_progress_bars, enable_progress_bars
from transformers import PreTrainedModel, PreTrainedTokenizerBase, TrainerCallback
from trl.trainer.sft_config import SFTConfig
from trl.trainer.sft_trainer import SFTTrainer

from helpers.adapters.attaching import remove_lora_layers
from helpers.adapters.folders import AdapterFolder
from helpers.common.errors import UnsupportedError, UsageError
from helpers.common.paths import find_home
from helpers.loading.model import LoadedModel
from helpers.loading.tokenizer import make_chat_tokenizer
from helpers.tasks.data import TaskData
from helpers.tasks.rows import AnyTemplate
from helpers.tasks.split import keep_short
from helpers.tasks.template import Row
from helpers.training._private import unpack_4bit_weights
from helpers.training.attention import why_not_packable
from helpers.training.checkpoints import keep_checkpoints, open_checkpoints
from helpers.training.guards import LossGuard, explain_memory, explain_refusal
from helpers.training.prefix_trainer import SharedPrefixTrainer
from helpers.training.runs import refuse_unwritable, save_run
from helpers.training.settings import TrainingSettings
from helpers.training.targets import make_lora_config


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
    checkpoints, last = open_checkpoints(output.name, data, settings, resume, loaded)
    with explain_memory(settings), explain_refusal(loaded.name, settings), give_back_base(loaded):
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


def make_trainer(
    loaded: LoadedModel,
    data: TaskData,
    settings: TrainingSettings,
    output: Path,
    progress: bool = True,
    prefix_sharing: str = "auto",
) -> SFTTrainer:
    """The trainer for the training rows of `data`; checkpoints go to `output`.

    A LoRA on `loaded.model` is detached first.

    `prefix_sharing`: "auto" computes what rows share once if the model allows it, "on" raises
    UnsupportedError if it does not, "off" uses TRL's own SFTTrainer. Raises UsageError if max_length cuts
    off every row's answer.
    """
    settings = dataclasses.replace(settings, max_length=min(settings.max_length, loaded.context))
    examples = build_dataset(data.train, data.template, settings, loaded.tokenizer)
    if prefix_sharing == "on":
        refuse_unpackable(loaded.model, examples, settings)
    torch.manual_seed(settings.seed)  # before PEFT draws the LoRA matrices
    base = prepare_base(loaded)
    config = make_sft_config(base, settings, output, progress)
    keep_checkpoints(config, settings.checkpoint_steps)
    trainer_class = SFTTrainer if prefix_sharing == "off" else SharedPrefixTrainer
    with hide_bars(not progress):
        trainer = trainer_class(
            model=base,
            args=config,
            train_dataset=examples,
            processing_class=loaded.tokenizer,
            peft_config=make_lora_config(base, settings),
            callbacks=[LossGuard()],
        )
    kept = len(cast(Dataset, trainer.train_dataset))
    report_long_rows(len(examples) - kept, len(examples), settings, loaded.context)
    return trainer


def refuse_unpackable(model: PreTrainedModel, examples: Dataset, settings: TrainingSettings) -> None:
    """An UnsupportedError with the reason if the shared prefix cannot be used."""
    longest = min(settings.max_length, max(map(len, examples["input_ids"])))
    if reason := why_not_packable(model, longest):
        problem = f"The shared prefix cannot be used: {reason}."
        raise UnsupportedError(problem, "Omit --prefix-sharing on.")


def prepare_base(loaded: LoadedModel) -> PreTrainedModel:
    """The base model without a LoRA, ready for gradients."""
    model = loaded.model
    unpack_4bit_weights(model)
    return cast(PreTrainedModel, remove_lora_layers(model))


@contextlib.contextmanager
def hide_bars(hidden: bool) -> Iterator[None]:
    """If `hidden`, the library datasets does not show progress bars within the block."""
    hidden = hidden and not are_progress_bars_disabled()
    if hidden:
        disable_progress_bars()
    try:
        yield
    finally:
        if hidden:
            enable_progress_bars()


def report_long_rows(dropped: int, total: int, settings: TrainingSettings, context: int) -> None:
    """Warns of rows that TRL left out because max_length cuts off their answers; UsageError if all are.

    `context` is the most that the model takes.
    """
    limited = settings.max_length == context
    limit = f"{'the context of the model' if limited else 'max_length'} ({settings.max_length} tokens)"
    problem = f"{dropped} of {total} rows are so long that {limit} leaves nothing of their answers"
    if dropped == total:
        remedy = "Shorten the texts." if limited else "Raise max_length, or shorten the texts."
        raise UsageError(f"{problem}.", remedy)
    if dropped:
        warnings.warn(f"{problem}: they are not trained on.", stacklevel=2)


def build_dataset(
    rows: list[Row],
    template: AnyTemplate,
    settings: TrainingSettings,
    tokenizer: PreTrainedTokenizerBase,
) -> Dataset:
    """The rows as TRL takes them, shuffled, with the columns `input_ids` and `completion_mask`.

    The mask is 1 for what is learned: the tokens of the answer, or of a chat's turns (settings.turns), with
    the end of each. settings.max_rows limits the number of rows.
    """
    kept = keep_short(rows, settings.max_rows, settings.seed, template) if settings.max_rows else rows
    chat = make_chat_tokenizer(tokenizer)
    columns = []
    for row in kept:
        learned = template.list_learned(row, settings.turns)
        for ids, mask in chat.tokenize_conversation(template.build_conversation(row), learned):
            columns.append({"input_ids": ids, "completion_mask": mask})
    return Dataset.from_list(columns).shuffle(seed=settings.seed)


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
    on_gpu = torch.cuda.is_available()
    return {
        "bf16": model.dtype == torch.bfloat16,
        "fp16": model.dtype == torch.float16,
        "use_cpu": not on_gpu,
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

    No checkpoints are written; make_trainer adds them.
    """
    return SFTConfig(
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
