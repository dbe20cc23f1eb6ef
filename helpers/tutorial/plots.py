"""Figures of the lessons. Each has alt text and can be read in grey.

The lesson also gives the numbers of a figure in words or in a table beside it.
"""

import base64
import html
import io
from collections.abc import Sequence
from typing import Any

import matplotlib.pyplot as plt
import pandas as pd
from IPython.display import HTML, display
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ticker import AutoLocator

from helpers.evaluation.metrics import estimate_interval

# Blue and ochre. Their contrast with white is 13.7 and 5.1 to 1 (text needs 4.5), with each other 2.7 to 1 in
# grey, and they stay apart with every common colour blindness.
DARK = "#0b2f4f"
MIDDLE = "#9a6200"
PALE = "#d5dbdb"  # fills a bar; what one sees of the bar is its dark edge
LIT = "#d6eaf8"  # the ground of what is to be looked at, with a dark edge around it


def render(figure: Figure, alt: str) -> str:
    """A figure as an HTML image with alt text, for screen readers. Closes the figure."""
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=90, bbox_inches="tight")
    plt.close(figure)
    image = base64.b64encode(buffer.getvalue()).decode()
    return f'<img alt="{html.escape(alt, quote=True)}" src="data:image/png;base64,{image}">'


def show(figure: Figure, alt: str) -> None:
    """Displays a figure with alt text."""
    display(HTML(render(figure, alt)))


def show_tokens(tokens: Sequence[str], learned: Sequence[bool]) -> None:
    """Displays the tokens of one row, as frame_tokens draws them."""
    display(HTML(frame_tokens(tokens, learned)))


def frame_tokens(tokens: Sequence[str], learned: Sequence[bool]) -> str:
    """The tokens of one row as HTML, framed and bold if the loss sees them; then their number, in words."""
    frame = f"border:1px solid {DARK};background:{LIT};color:#000;font-weight:bold"
    shown, taught = [], []
    for token, seen in zip(tokens, learned, strict=False):
        text = html.escape(token).replace("\n", "⏎<br>")
        if seen:
            taught.append(token)
            text = f'<mark style="{frame}">{text}</mark>'
        shown.append(text)
    words = f"{len(taught)} of {len(tokens)} tokens are learned (framed): {''.join(taught)}"
    return f"<p>{''.join(shown)}</p><p>{html.escape(words)}</p>"


def draw_loss(losses: Sequence[float], window: int = 10) -> Figure:
    """The loss of each step (points) and its running mean over `window` steps (line).

    It does without pyplot, whose figures are shared by all threads: a panel draws in one thread while cells
    run in another.
    """
    figure = Figure(figsize=(6.4, 3.2))
    FigureCanvasAgg(figure)
    axes = figure.subplots()
    steps = range(1, len(losses) + 1)
    axes.plot(steps, losses, "o", color=MIDDLE, markersize=3, label="one step")
    axes.plot(steps, average_last(losses, window), "-", color=DARK, label=f"mean of the last {window}")
    axes.set(xlabel="step", ylabel="loss, nats a token", ylim=(0, None))
    ticks = AutoLocator()
    ticks.set_params(integer=True)
    axes.xaxis.set_major_locator(ticks)
    axes.legend(frameon=False)
    return figure


def average_last(values: Sequence[float], window: int) -> list[float]:
    """For each place, the mean of the last `window` values up to it, or of fewer at the beginning."""
    means = []
    for end in range(1, len(values) + 1):
        last = values[max(0, end - window) : end]
        means.append(sum(last) / len(last))
    return means


def draw_accuracies(results: dict[str, tuple[float, int]]) -> Figure:
    """One bar for each name: (accuracy, number of rows), with its 95 % Wilson interval and its value."""
    figure, axes = plt.subplots(figsize=(6.4, 0.7 + 0.55 * len(results)))
    for place, (accuracy, rows) in enumerate(results.values()):
        low, high = estimate_interval(round(accuracy * rows), rows)
        axes.barh(place, accuracy, color=PALE, edgecolor=DARK)
        axes.plot([low, high], [place, place], color=DARK, linewidth=2)
        axes.text(high + 0.01, place, f"{accuracy:.0%}", va="center")
    axes.set(yticks=range(len(results)), yticklabels=list(results), xlim=(0, 1))
    axes.set(xlabel="accuracy on rows that were not trained on, with 95 % interval")
    axes.invert_yaxis()
    return figure


def draw_formats(rows: Sequence[dict[str, Any]]) -> Figure:
    """The rows of formats.compare_formats as bars with their values, one panel for each measure."""
    measures = {
        "disk_mb": "on disk, MB",
        "memory_mb": "in memory, MB",
        "tokens_per_s": "tokens a second",
        "perplexity": "perplexity",
    }
    figure, panels = plt.subplots(1, len(measures), figsize=(11, 0.5 + 0.5 * len(rows)), sharey=True)
    names = [row["format"] for row in rows]
    for panel, (key, title) in zip(panels, measures.items(), strict=True):
        values = [row[key] for row in rows]
        bars = panel.barh(names, values, color=DARK)
        panel.bar_label(bars, fmt="%.0f", padding=3)
        panel.set_title(title, fontsize=10)
        panel.set_xlim(right=1.25 * max(values))  # room for the longest bar's value
        panel.xaxis.set_visible(False)
        panel.spines[["top", "right", "bottom"]].set_visible(False)
    panels[0].invert_yaxis()
    return figure


def draw_norms(norms: pd.DataFrame) -> Figure:
    """The norms of proving.measure_norms as a heat map: a line for each layer, a column for each module.

    The mean of each column is below it. The colours differ in lightness, so that they can be read in grey.
    """
    figure, axes = plt.subplots(figsize=(7.2, 1 + 0.16 * len(norms)))
    image = axes.imshow(norms, cmap="cividis", aspect="auto")
    columns = [f"{name}\n{mean:.2f}" for name, mean in norms.mean().items()]
    axes.set(xticks=range(len(columns)), xticklabels=columns)
    axes.set(xlabel="module, and its mean over the layers", ylabel="layer")
    axes.set(yticks=range(0, len(norms), 5), yticklabels=norms.index[::5])
    axes.tick_params(axis="x", labelsize=8)
    figure.colorbar(image, label="||scale B A||")
    return figure


def draw_shares(shares: dict[str, float], label: str) -> Figure:
    """Probabilities by name, one bar each with its value beside it; `label` names the axis."""
    figure, axes = plt.subplots(figsize=(6.4, 0.7 + 0.4 * len(shares)))
    bars = axes.barh(list(shares), list(shares.values()), color=PALE, edgecolor=DARK)
    axes.bar_label(bars, [f"{share:.1%}" for share in shares.values()], padding=3)
    axes.set(xlim=(0, 1.1), xlabel=label)
    axes.invert_yaxis()
    return figure
