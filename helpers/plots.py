"""Figures of the notebooks: each with alt text, readable in grey; a notebook says the numbers in words or a table beside it."""

import base64
import html
import io
from collections.abc import Sequence

import matplotlib.pyplot as plt
from IPython.display import HTML, display
from matplotlib.figure import Figure

from helpers.evaluation import estimate_interval

DARK, MIDDLE = "#1b4f72", "#b9770e"  # blue and ochre: apart in grey and with every common colour blindness


def show(figure: Figure, alt: str) -> None:
    """Displays a figure as an image with alt text, so that a screen reader has something to say."""
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=90, bbox_inches="tight")
    plt.close(figure)
    image = base64.b64encode(buffer.getvalue()).decode()
    display(HTML(f'<img alt="{html.escape(alt, quote=True)}" src="data:image/png;base64,{image}">'))


def draw_loss(losses: Sequence[float], window: int = 10) -> Figure:
    """The loss of each step (points) and its running mean over `window` steps (line)."""
    figure, axes = plt.subplots(figsize=(6.4, 3.2))
    steps = range(1, len(losses) + 1)
    means = [sum(losses[max(0, i - window) : i]) / len(losses[max(0, i - window) : i]) for i in steps]
    axes.plot(steps, losses, "o", color=MIDDLE, markersize=3, label="one step")
    axes.plot(steps, means, "-", color=DARK, label=f"mean of the last {window}")
    axes.set(xlabel="step", ylabel="loss, nats a token", ylim=(0, None))
    axes.legend(frameon=False)
    return figure


def draw_accuracies(results: dict[str, tuple[float, int]]) -> Figure:
    """One bar for each name: (accuracy, rows), with its 95 % Wilson interval and the value beside it."""
    figure, axes = plt.subplots(figsize=(6.4, 0.7 + 0.55 * len(results)))
    for place, (accuracy, rows) in enumerate(results.values()):
        low, high = estimate_interval(round(accuracy * rows), rows)
        axes.barh(place, accuracy, color="#d5dbdb", edgecolor=DARK)
        axes.plot([low, high], [place, place], color=DARK, linewidth=2)
        axes.text(high + 0.01, place, f"{accuracy:.0%}", va="center")
    axes.set(yticks=range(len(results)), yticklabels=results, xlim=(0, 1), xlabel="accuracy on rows that were not trained on, with 95 % interval")
    axes.invert_yaxis()
    return figure
