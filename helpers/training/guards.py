"""What ends a training run early: a loss that goes wrong, a request to stop, memory that runs out."""

import contextlib
import math
import statistics
import threading
from collections.abc import Iterator
from pathlib import Path

import torch
from transformers import Trainer, TrainerCallback

from helpers.common.errors import MissingPackageError, ResourceError, TrainingError, UnsupportedError
from helpers.common.training_settings import TrainingSettings
from helpers.training.checkpoints import CHECKPOINTS, drop_older

COMPARED_STEPS = 10  # how many losses at the start and at the end of a run LossGuard compares


class LossGuard(TrainerCallback):
    """Ends a training run whose loss is not a number or diverges. The TrainingError says what to change."""

    def on_log(self, args, state, control, **kwargs):
        """Checks the losses so far: the mean of the last ones must not exceed twice that of the first."""
        history = state.log_history
        first = [float(entry["loss"]) for entry in history[:COMPARED_STEPS] if "loss" in entry]
        last = [float(entry["loss"]) for entry in history[-COMPARED_STEPS:] if "loss" in entry]
        if last and not math.isfinite(last[-1]):
            raise TrainingError(
                f"The loss is not a number any more at step {state.global_step}.",
                "Lower learning_rate, or load the model with dtype float32.",
            )
        if len(history) < 2 * COMPARED_STEPS or not first or not last:
            return
        start, end = statistics.mean(first), statistics.mean(last)
        if end > 2 * start:
            means = f"{start:.2f} on average in the first {COMPARED_STEPS} steps, {end:.2f} in the last"
            raise TrainingError(f"The loss diverges: {means}.", "Lower learning_rate, or raise warmup_ratio.")


class StopOnRequest(TrainerCallback):
    """Ends a training run after the step in which `asked` is set. What was learned until then is kept."""

    def __init__(self, asked: threading.Event):
        self.asked = asked

    def on_step_end(self, args, state, control, **kwargs):
        """Checks whether the end was asked for."""
        control.should_training_stop = control.should_training_stop or self.asked.is_set()


class KeepNewest(TrainerCallback):
    """Removes older checkpoints: the last two stay, and the best state if validation rows are watched."""

    def __init__(self, checkpoint_steps: int, watches: bool):
        self.count = watches + (CHECKPOINTS if checkpoint_steps else 0)

    def on_save(self, args, state, control, **kwargs):
        """Removes them after a new one was written."""
        if self.count and args.should_save:  # of several processes only the first
            drop_older(Path(args.output_dir or "."), state.global_step, state.best_global_step, self.count)


@contextlib.contextmanager
def explain_memory(settings: TrainingSettings, asked: TrainingSettings | None = None) -> Iterator[None]:
    """If memory runs out in the block, raises a ResourceError that names the settings to change.

    `asked` are the settings as they were given, whose batch_size may be `auto`.
    """
    try:
        yield
    except RuntimeError as error:
        if not is_out_of_memory(error):
            raise
        rows, limit = settings.batch_size, settings.max_length
        problem = f"Memory ran out with {rows} rows of up to {limit} tokens at a time."
        raise ResourceError(problem, suggest_less_memory(settings, asked or settings)) from error


@contextlib.contextmanager
def explain_refusal(model: str, settings: TrainingSettings) -> Iterator[None]:
    """Turns what PEFT, TRL and transformers raise for settings that they do not take into one line."""
    try:
        yield
    except ImportError as error:
        reason = " ".join(str(error).split())[:200]
        problem = f"The optimizer {settings.optimizer} needs a package that is not installed: {reason}."
        raise MissingPackageError(problem, "Install it, or set optimizer to adamw_torch_fused.") from None
    except ValueError as error:
        reason = " ".join(str(error).split())[:300].rstrip(".")
        problem = f"{model} cannot be trained with these settings ({reason})."
        remedy = f"Change them; targets is {settings.targets} and optimizer {settings.optimizer}."
        raise UnsupportedError(problem, remedy) from error


@contextlib.contextmanager
def end_bars(trainer: Trainer) -> Iterator[None]:
    """If the block fails, the trainer's progress bars end with a line of their own."""
    try:
        yield
    except BaseException:
        for callback in trainer.callback_handler.callbacks:
            for bar in (getattr(callback, name, None) for name in ("training_bar", "prediction_bar")):
                if bar is not None:
                    bar.close()
        raise


def is_out_of_memory(error: RuntimeError) -> bool:
    """Whether torch could not get memory. A GPU's error has a class of its own, a CPU's only its text."""
    return isinstance(error, torch.OutOfMemoryError) or "can't allocate memory" in str(error)


def suggest_less_memory(settings: TrainingSettings, asked: TrainingSettings) -> str:
    """What to change so that training takes less memory, as a sentence.

    Who asked for batch_size `auto` has to give the learning rate too, which was changed with the batch.
    """
    if settings.batch_size == 1:
        return "Lower max_length, or train on a 4-bit base."
    batch_size = settings.batch_size // 2
    accumulation = settings.accumulation * settings.batch_size // batch_size
    changes = [f"batch_size to {batch_size}", f"accumulation to {accumulation}"]
    if settings.learning_rate != asked.learning_rate:
        changes.insert(1, f"learning_rate to {settings.learning_rate:.3g}")
    return (
        f"Set {', '.join(changes[:-1])} and {changes[-1]} (the same rows a step), "
        "lower max_length, or train on a 4-bit base."
    )
