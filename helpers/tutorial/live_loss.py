"""Figures of the notebooks: each with alt text, readable in grey; a notebook says the numbers in words or a table beside it."""

import time
from collections.abc import Callable

from IPython.display import HTML, display
from transformers import TrainerCallback

from helpers.tutorial.plots import draw_loss, render


class LiveLoss(TrainerCallback):
    """Draws the loss while a trainer runs, with the time left: below the cell, where the last drawing stays, or where `show` puts it as HTML."""

    def __init__(self, every_s: float = 10, show: Callable[[str], None] | None = None):
        self.every_s, self.show = every_s, show

    def on_train_begin(self, args, state, control, **kwargs):
        """Makes the place for the drawing."""
        self.begun = self.drawn = time.monotonic()
        self.place = self.show or open_place()
        self.place(f"<p>{state.max_steps} steps to come</p>")

    def on_log(self, args, state, control, **kwargs):
        """Draws anew when the last drawing is older than `every_s` seconds."""
        if time.monotonic() - self.drawn >= self.every_s:
            left = (time.monotonic() - self.begun) / state.global_step * (state.max_steps - state.global_step)
            self.draw(state, f"step {state.global_step} of {state.max_steps}, about {left:.0f} seconds left")

    def on_train_end(self, args, state, control, **kwargs):
        """The drawing that stays."""
        self.draw(state, f"{state.global_step} steps in {time.monotonic() - self.begun:.0f} seconds")

    def draw(self, state, words: str) -> None:
        """Puts the curve so far, and `words` below it, into the place."""
        losses = [float(entry["loss"]) for entry in state.log_history if "loss" in entry]
        figure = render(
            draw_loss(losses),
            f"Line: the loss of {len(losses)} steps, from {losses[0]:.2f} to {losses[-1]:.2f}",
        )
        self.place(f"{figure}<p>{words}</p>")
        self.drawn = time.monotonic()


def open_place() -> Callable[[str], None]:
    """A place below the cell: the function that puts HTML there, each time instead of the last."""
    handle = display(HTML(""), display_id=True)
    return lambda markup: handle.update(HTML(markup))
