"""Rows and settings become a trainer: the one place where rows become batches and a loss.

TRL's SFTTrainer does the work, in a form that computes what rows share once (helpers.training.prefix_trainer).
"""

import contextlib
import math
import statistics
import threading
from collections.abc import Iterator

import torch
from transformers import TrainerCallback

from helpers.common.errors import KitError
from helpers.training.settings import TrainingSettings


class LossGuard(TrainerCallback):
    """Ends a training whose loss is no number or runs away, with a KitError that says what to change."""

    def on_log(self, args, state, control, **kwargs):
        """Looks at the losses so far: the mean of the last ten steps must not be twice that of the first ten."""
        first, last = (
            [float(entry["loss"]) for entry in some if "loss" in entry]
            for some in (state.log_history[:10], state.log_history[-10:])
        )
        if last and not math.isfinite(last[-1]):
            problem = f"The loss is no number any more at step {state.global_step}."
            raise KitError(problem, "Lower learning_rate, or load the model with dtype float32.")
        if (
            len(state.log_history) >= 20
            and first
            and last
            and statistics.mean(last) > 2 * statistics.mean(first)
        ):
            words = f"{statistics.mean(first):.2f} on average in the first ten steps, {statistics.mean(last):.2f} in the last ten"
            raise KitError(f"The loss ran away: {words}.", "Lower learning_rate, or raise warmup_ratio.")


class StopOnRequest(TrainerCallback):
    """Ends a training after the step in which `asked` is set; what was learned until then stays."""

    def __init__(self, asked: threading.Event):
        self.asked = asked

    def on_step_end(self, args, state, control, **kwargs):
        """Looks whether the end is asked for."""
        control.should_training_stop = control.should_training_stop or self.asked.is_set()


@contextlib.contextmanager
def explain_memory(settings: TrainingSettings) -> Iterator[None]:
    """Where memory runs out in the block, a KitError that names the settings to change."""
    try:
        yield
    except RuntimeError as error:  # torch.OutOfMemoryError of a GPU is one; a CPU's has no class of its own
        if not isinstance(error, torch.OutOfMemoryError) and "can't allocate memory" not in str(error):
            raise
        tried = f"{settings.batch_size} rows of up to {settings.max_length} tokens at a time"
        half = max(settings.batch_size // 2, 1)
        smaller = f"Set batch_size to {half} and accumulation to {settings.accumulation * settings.batch_size // half} (the same rows a step)"
        remedy = f"{smaller}, " if settings.batch_size > 1 else ""
        raise KitError(
            f"Memory ran out with {tried}.",
            f"{remedy}lower max_length, or train on a 4-bit base.".capitalize(),
        ) from error
