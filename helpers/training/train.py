"""Rows in, a saved LoRA out: `train_lora`, and the parts of which it and lesson 4 are made.

TRL's SFTTrainer does the work, in a form that computes shared tokens once (helpers.training.prefix_trainer).
"""

import contextlib
import importlib.util
import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, cast

import torch
from datasets import Dataset, are_progress_bars_disabled, disable_progress_bars, enable_progress_bars
from transformers import PreTrainedModel, TrainerCallback

from helpers.adapters.attaching import remove_lora_layers
from helpers.adapters.folders import AdapterFolder
from helpers.common.choices import say_choices
from helpers.common.errors import UnsupportedError
from helpers.common.files import name_full_disk
from helpers.common.machine import Choice
from helpers.common.paths import find_home
from helpers.common.training_settings import AUTO, TrainingSettings, check_optimizer
from helpers.loading.model import LoadedModel
from helpers.tasks.data import TaskData
from helpers.training._private import unpack_4bit_weights
from helpers.training.attention import why_not_packable
from helpers.training.checkpoints import (
    check_plan,
    drop_unusable,
    open_checkpoints,
    read_batch,
    record_batch,
    remove_checkpoints,
)
from helpers.training.configs import make_saving_config
from helpers.training.dataset import build_dataset, build_datasets, limit_length, report_long_rows
from helpers.training.guards import KeepNewest, LossGuard, end_bars, explain_memory, explain_refusal
from helpers.training.intact import explain_checkpoint
from helpers.training.memory import pick_checkpointing, settle_batch
from helpers.training.prefix_trainer import SharedPrefixTrainer, find_longest
from helpers.training.runs import check_run_output, hold_run, list_choices, refuse_no_step, write_run
from helpers.training.targets import check_targets, make_lora_config, refuse_head
from helpers.training.watching import WatchingTrainer
from helpers.weights.architecture import check_decoder
from helpers.weights.folders import find_model


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
    callback ends early is saved as far as it got. If tensorboard is installed, the loss of every step goes
    to runs/tensorboard/NAME. On return the LoRA is attached to `loaded.model`. Processes other than the
    first return {}. An older LoRA of that name becomes NAME-previous. Raises TrainingError for a loss that is
    not a number or diverges, or no step, ResourceError if memory or disk run out, and AlreadyThereError if
    another process writes `output`, or the kit did not train what is there.
    """
    check_optimizer(settings)
    _ = loaded.folder.hashes  # a damaged record of the base should fail now, not after the training
    check_run_output(output, loaded.folder, data, settings)
    with hold_run(output):
        checkpoints, last = open_checkpoints(output.name, data, settings, resume, loaded)
        taken, reason = settle_run(loaded, data, settings, prefix_sharing, checkpoints, last)
        say_batch(taken, reason, progress)
        with (
            drop_unusable(checkpoints), explain_memory(taken, settings), name_full_disk(checkpoints),
            explain_refusal(loaded.name, taken), give_back_base(loaded),
        ):  # fmt: skip
            trainer = make_trainer(loaded, data, taken, checkpoints, progress, prefix_sharing)
            say_chosen(loaded, trainer, progress)
            add_callbacks(trainer, output.name, callbacks)
            run_trainer(trainer, last)
        loaded.model = cast(Any, trainer.model).eval()
        if not trainer.is_world_process_zero():  # `accelerate launch` started several processes
            return {}
        with write_run(trainer, loaded, data, taken, output, reason) as fresh:
            loaded.model.save_pretrained(fresh)
        remove_checkpoints(checkpoints)
        return AdapterFolder(output).run


def settle_run(
    loaded: LoadedModel,
    data: TaskData,
    settings: TrainingSettings,
    prefix_sharing: str,
    checkpoints: Path,
    last: Path | None,
) -> Choice[TrainingSettings]:
    """settle_batch for the rows of `data`; a training that resumes keeps the batch that it began with.

    The reason is empty if the settings do not say `auto`.
    """
    if settings.batch != AUTO:
        return Choice(settings, "")
    taken = read_batch(checkpoints, settings) if last else None
    if taken is None:
        how = (data.template, limit_length(settings, loaded.context), loaded.tokenizer, data.find_place)
        shares = prefix_sharing != "off" and not why_not_packable(loaded.model)
        taken = settle_batch(loaded.model, settings, build_dataset(data.train, *how), shares)
        record_batch(checkpoints, taken)
    return taken


def say_batch(settings: TrainingSettings, reason: str, progress: bool) -> None:
    """Prints, on the first process, the batch that was taken for `auto`; nothing without a reason."""
    if reason and progress and os.environ.get("RANK", "0") == "0":
        words = f"batch_size {settings.batch_size}, learning_rate {settings.learning_rate:.3g}"
        print(f"{words}: {reason}", flush=True)


def say_chosen(loaded: LoadedModel, trainer: WatchingTrainer, progress: bool) -> None:
    """Prints, on the first process, what was chosen for model and machine; on a CPU, the kernel alone."""
    if progress and trainer.is_world_process_zero():
        on_cpu = loaded.device.value == "cpu"
        say_choices(loaded.choices if on_cpu else list_choices(loaded, trainer))


def run_trainer(trainer: WatchingTrainer, last: Path | None) -> None:
    """Trains, from the checkpoint `last` on if there is one. Raises TrainingError if no step was made."""
    with end_bars(trainer), explain_checkpoint(last, lambda: trainer.state.global_step):
        trainer.train(resume_from_checkpoint=str(last) if last else None)
    refuse_no_step(trainer)


def add_callbacks(trainer: WatchingTrainer, name: str, callbacks: Sequence[TrainerCallback]) -> None:
    """Adds the callbacks, and on the first process what logs to TensorBoard."""
    loggers = log_to_tensorboard(name) if trainer.is_world_process_zero() else []
    for callback in (*loggers, *callbacks):
        trainer.add_callback(callback)


def check_training(
    model: str, data: TaskData, settings: TrainingSettings, output: Path, resume: bool = False
) -> None:
    """Raises what train_lora would raise, as far as that is known before the model `model` is in memory."""
    check_optimizer(settings)
    folder = find_model(model)
    check_plan(output.name, data, settings, resume, folder)
    check_targets(check_decoder(folder), settings)
    check_run_output(output, folder, data, settings)
    with hold_run(output):  # refused now if another training has the name, and not after the model was loaded
        pass


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
) -> WatchingTrainer:
    """The trainer for the training rows of `data`; it watches the validation rows, if there are any.

    Checkpoints go to `output`. A LoRA on `loaded.model` is detached first. `prefix_sharing`: "auto" computes
    what rows share once if the model allows it, "on" raises UnsupportedError if it does not, "off" computes
    as SFTTrainer does. Raises UsageError if max_length cuts every answer, or the template rejects a row.
    """
    settings = limit_length(settings, loaded.context)
    examples, watched = build_datasets(data, settings, loaded.tokenizer)
    shares = prefix_sharing != "off" and not why_not_packable(loaded.model)
    settings = settle_batch(loaded.model, settings, examples, shares).value
    if prefix_sharing == "on":
        refuse_unpackable(loaded.model, [examples, watched], settings)
    torch.manual_seed(settings.seed)  # before PEFT draws the LoRA matrices
    base = prepare_base(loaded)
    lora = make_lora_config(base, settings)
    refuse_head(base, settings, loaded.name)
    config = make_saving_config(base, settings, output, progress, watches=bool(watched))
    checkpointing = pick_checkpointing(base, settings, examples, shares)
    config.gradient_checkpointing = checkpointing.value
    with hide_bars(not progress):
        trainer = (WatchingTrainer if prefix_sharing == "off" else SharedPrefixTrainer)(
            model=base,
            args=config,
            train_dataset=examples,
            eval_dataset=watched,
            processing_class=loaded.tokenizer,
            peft_config=lora,
            callbacks=[LossGuard(), KeepNewest(settings.checkpoint_steps, bool(watched))],
        )
    trainer.choices["gradient_checkpointing"] = checkpointing
    prepare_rows(trainer, examples, watched, settings, loaded.context)
    return trainer


def prepare_rows(
    trainer: WatchingTrainer,
    examples: Dataset,
    watched: Dataset | None,
    settings: TrainingSettings,
    context: int,
) -> None:
    """Says which rows are longer than what is read of them; the trainer watches the validation rows."""
    report_long_rows(trainer.train_dataset, examples, settings, context)
    if watched:
        report_long_rows(trainer.eval_dataset, watched, settings, context, "watched")
        trainer.watch(settings.checkpoint_steps)


def refuse_unpackable(
    model: PreTrainedModel, examples: Sequence[Dataset | None], settings: TrainingSettings
) -> None:
    """An UnsupportedError with the reason if the shared prefix cannot be used."""
    longest = min(settings.max_length, max(map(find_longest, examples)))
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
