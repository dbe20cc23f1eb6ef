"""Figures of the lessons. Each has alt text and can be read in grey.

The lesson also gives the numbers of a figure in words or in a table beside it.
"""

import base64
import html
import io
import itertools
from collections.abc import Sequence
from typing import Any

import matplotlib.pyplot as plt
import pandas as pd
from IPython.display import HTML, display
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ticker import AutoLocator, PercentFormatter

from helpers.evaluation.metrics import estimate_interval
from helpers.evaluation.scoreboard import ANSWER, SIDE, Scoreboard

# Blue and ochre. Their contrast with white is 13.7 and 5.1 to 1 (text needs 4.5), with each other 2.7 to 1 in
# grey, and they stay apart with every common colour blindness.
DARK = "#0b2f4f"
MIDDLE = "#9a6200"
PALE = "#d5dbdb"  # fills a bar, whose dark edge is what people see
LIT = "#d6eaf8"  # behind what to look at, with a dark edge around it

DPI = 90  # pixels of a page for each inch of a figure
SHARPNESS = 1.6  # pixels of the image for each pixel of the page: screens have more than one, and slides


def render(figure: Figure, alt: str) -> str:
    """A figure as an HTML image with alt text, for screen readers. Closes the figure."""
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=DPI * SHARPNESS, bbox_inches="tight")
    plt.close(figure)
    content = buffer.getvalue()
    width = round(int.from_bytes(content[16:20]) / SHARPNESS)  # where a PNG file has its width in pixels
    image = base64.b64encode(content).decode()
    return f'<img alt="{html.escape(alt, quote=True)}" width="{width}" src="data:image/png;base64,{image}">'


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


def show_scoreboard(board: Scoreboard) -> None:
    """Displays draw_scoreboard; the alt text has its figures."""
    columns = [
        f"{column}: {', '.join(f'{name} {share:.0%}' for name, (share, _) in shares.items())}"
        for column in (ANSWER, SIDE)
        if (shares := board.get_shares(column))
    ]
    show(draw_scoreboard(board), f"Bars with 95% intervals for each way to answer. {'; '.join(columns)}.")


def draw_scoreboard(board: Scoreboard) -> Figure:
    """A scoreboard's columns side by side: bars of the shares that are right, with 95% intervals."""
    columns = [ANSWER, SIDE] if board.on_side else [ANSWER]
    figure, axes = plt.subplots(1, len(columns), figsize=(9.6, 0.9 + 0.42 * len(board.lines)), squeeze=False)
    for axis, column in zip(axes[0], columns, strict=True):
        shares = board.get_shares(column)
        for place, name in enumerate(board.lines):
            if name in shares:
                add_share(axis, place, *shares[name])
        rows = len(board.rows if column == ANSWER else board.on_side)
        axis.set(xlim=(0, 1), ylim=(len(board.lines) - 0.5, -0.5), title=f"{column} ({rows} rows)")
        axis.set_yticks(range(len(board.lines)), list(board.lines) if column == ANSWER else [])
        axis.xaxis.set_major_formatter(PercentFormatter(1))
        axis.spines[["top", "right"]].set_visible(False)
        axis.set_xlabel("thin lines: 95% intervals" if column == ANSWER else "dotted line: a coin")
        if column == SIDE:
            axis.axvline(0.5, color=MIDDLE, linestyle=":", linewidth=1.5)
    figure.tight_layout()
    return figure


def add_share(axis: Axes, place: int, share: float, rows: int) -> None:
    """One bar with its interval and its figure."""
    low, high = estimate_interval(round(share * rows), rows)
    axis.barh(place, share, height=0.6, color=PALE, edgecolor=DARK)
    axis.errorbar(share, place, xerr=[[share - low], [high - share]], color=DARK, capsize=3)
    axis.annotate(f"{share:.0%}", (0.01, place), va="center", color=DARK)


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


def draw_accuracy_over_minutes(
    points: Sequence[tuple[str, float, float, int]], baselines: dict[str, float]
) -> Figure:
    """Accuracy by minutes of training: points of (name, minutes, accuracy, rows judged), with intervals.

    `baselines` are accuracies that need no training of a LoRA, such as that of the bag of words: level lines,
    each with its name at its right end.
    """
    figure, axes = plt.subplots(figsize=(7.2, 3.8))
    end = 1.25 * max(minutes for _, minutes, *_ in points)  # room for the last point's name
    for accuracy in baselines.values():
        axes.plot([0, end], [accuracy, accuracy], "--", color=MIDDLE, linewidth=1.5)
    for (name, accuracy), place in zip(baselines.items(), spread_out(list(baselines.values())), strict=True):
        axes.text(1.01 * end, place, f"{name} {accuracy:.0%}", va="center", color=MIDDLE)
    for name, minute, accuracy, rows in points:
        interval = estimate_interval(round(accuracy * rows), rows)
        axes.plot([minute, minute], interval, "-", color=DARK)
        axes.scatter(minute, accuracy, color=DARK)
        words = f"{name} {accuracy:.0%}"
        axes.annotate(words, (minute, accuracy), (7, 6), textcoords="offset points", color=DARK)
    axes.set(xlim=(-0.03 * end, end), ylim=(0, 1), xlabel="minutes of training")
    axes.set(ylabel="accuracy, with 95% interval")
    axes.yaxis.set_major_formatter(PercentFormatter(1))
    axes.spines[["top", "right"]].set_visible(False)
    return figure


def spread_out(values: Sequence[float], least: float = 0.065) -> list[float]:
    """Places for labels at these values, in their order, moved apart where two are nearer than `least`."""
    places = list(values)
    order = sorted(range(len(values)), key=lambda number: values[number])
    for below, above in itertools.pairwise(order):
        places[above] = max(places[above], places[below] + least)
    return places


def draw_formats(rows: Sequence[dict[str, Any]]) -> Figure:
    """The rows of formats.compare_formats as bars with their values, one panel for each measure."""
    measures = {
        "disk_mb": "on disk, MB",
        "memory_mb": "in memory, MB",
        "tokens_per_s": "tokens per second",
        "perplexity": "perplexity",
    }
    figure, panels = plt.subplots(1, len(measures), figsize=(11, 0.5 + 0.5 * len(rows)), sharey=True)
    names = [row["format"] for row in rows]
    for panel, (key, title) in zip(panels, measures.items(), strict=True):
        values = [row[key] for row in rows]
        bars = panel.barh(names, values, color=DARK)
        panel.bar_label(
            bars, [f"{value:,.0f}" if value >= 100 else f"{value:.3g}" for value in values], padding=3
        )
        panel.set_title(title, fontsize=10)
        panel.set_xlim(right=1.25 * max(values))  # room for the longest bar's value
        panel.xaxis.set_visible(False)
        panel.spines[["top", "right", "bottom"]].set_visible(False)
    panels[0].invert_yaxis()
    return figure


def draw_relative_norms(norms: pd.DataFrame) -> Figure:
    """The norms of adapters.measure_relative_norms, one panel for each module: a line over the layers.

    All panels have one scale. Each has its module's name and its mean above it. Lower layers without LoRA
    are grey.
    """
    lines = -(-len(norms.columns) // 4)
    figure, grid = plt.subplots(
        lines, 4, figsize=(8.4, 0.3 + 1.9 * lines), sharex=True, sharey=True, squeeze=False
    )
    for panel, name in itertools.zip_longest(grid.flat, norms.columns):
        if name is None:
            panel.set_axis_off()
            continue
        panel.plot(norms.index, norms[name], "-", color=DARK)
        if norms.index[0] > 0:
            panel.axvspan(0, norms.index[0], color=PALE, linewidth=0)
        panel.set_title(f"{name}, mean {norms[name].mean():.2%}", fontsize=10)
        panel.set_xlabel("layer")
        panel.spines[["top", "right"]].set_visible(False)
        panel.tick_params(labelbottom=True)
    grid[0, 0].set(xlim=(0, max(1, norms.index[-1])))
    grid[0, 0].set_ylim(bottom=0)
    grid[0, 0].yaxis.set_major_formatter(PercentFormatter(1, decimals=1))
    figure.supylabel("||scale B A|| / ||W||", fontsize=10)
    figure.tight_layout()
    return figure


def draw_shares(shares: dict[str, float], label: str) -> Figure:
    """Probabilities by name, one bar each with its value beside it; `label` names the axis."""
    figure, axes = plt.subplots(figsize=(6.4, 0.7 + 0.4 * len(shares)))
    bars = axes.barh(list(shares), list(shares.values()), color=PALE, edgecolor=DARK)
    axes.bar_label(bars, [f"{share:.1%}" for share in shares.values()], padding=3)
    axes.set(xlim=(0, 1.1), xlabel=label)
    axes.invert_yaxis()
    return figure
