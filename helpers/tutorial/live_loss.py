"""The loss curve that grows while a trainer runs.

It is a module of its own because it imports transformers, which takes seconds.
"""

import time
from collections.abc import Callable
from typing import Any

from IPython.display import HTML, DisplayHandle
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from helpers.tutorial.plots import draw_loss, render


class LiveLoss(TrainerCallback):
    """Draws the loss while a trainer runs, and says how much time is left.

    The drawing appears below the cell, where the last one stays. With `show`, that function gets it as HTML.
    """

    def __init__(self, every_s: float = 10, show: Callable[[str], None] | None = None):
        self.every_s = every_s  # seconds between two drawings
        self.show = show
        self.started = self.drawn = 0.0  # when the training began and when the last drawing was made, seconds

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Makes the place for the drawing."""
        self.started = self.drawn = time.monotonic()
        self.place = self.show or open_place()
        self.place(f"<p>{state.max_steps} steps to come</p>")

    def on_log(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Draws again if the last drawing is older than `every_s` seconds."""
        now = time.monotonic()
        if now - self.drawn < self.every_s:
            return
        seconds_a_step = (now - self.started) / state.global_step
        left = seconds_a_step * (state.max_steps - state.global_step)
        self.draw(state, f"step {state.global_step} of {state.max_steps}, about {left:.0f} seconds left")

    def on_train_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Makes the drawing that stays."""
        self.draw(state, f"{state.global_step} steps in {time.monotonic() - self.started:.0f} seconds")

    def draw(self, state: TrainerState, words: str) -> None:
        """Shows the curve so far, and `words` below it."""
        losses = [float(entry["loss"]) for entry in state.log_history if "loss" in entry]
        alt = f"Line: the loss of {len(losses)} steps, from {losses[0]:.2f} to {losses[-1]:.2f}"
        self.place(f"{render(draw_loss(losses), alt)}<p>{words}</p>")
        self.drawn = time.monotonic()


def open_place() -> Callable[[str], None]:
    """Makes a place below the cell; returns the function that shows HTML there instead of what was there."""
    handle = DisplayHandle()
    handle.display(HTML(""))
    return lambda markup: handle.update(HTML(markup))
