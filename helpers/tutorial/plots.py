"""Figures of the notebooks: each with alt text, readable in grey; a notebook says the numbers in words or a table beside it."""

import base64
import html
import io
from collections.abc import Sequence

import matplotlib.pyplot as plt
import pandas as pd
from IPython.display import HTML, display
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from helpers.evaluation.metrics import estimate_interval

# Blue and ochre: on white 13.7 and 5.1 to 1 (text needs 4.5), to each other 2.7 to 1 in grey, and apart with every common colour blindness.
DARK, MIDDLE, PALE = "#0b2f4f", "#9a6200", "#d5dbdb"  # pale fills a bar, whose dark edge is what one sees


def render(figure: Figure, alt: str) -> str:
    """A figure as an HTML image with alt text, so that a screen reader has something to say; closes the figure."""
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=90, bbox_inches="tight")
    plt.close(figure)
    image = base64.b64encode(buffer.getvalue()).decode()
    return f'<img alt="{html.escape(alt, quote=True)}" src="data:image/png;base64,{image}">'


def show(figure: Figure, alt: str) -> None:
    """Displays a figure with alt text."""
    display(HTML(render(figure, alt)))


def show_tokens(tokens: Sequence[str], learned: Sequence[bool]) -> None:
    """Displays the tokens of one row: those that the loss sees framed, bold and coloured, the others as they are; then both counted."""
    frame = f"border:1px solid {DARK};background:#d6eaf8;color:#000;font-weight:bold"
    spans = []
    for token, seen in zip(tokens, learned, strict=False):
        text = html.escape(token).replace("\n", "⏎<br>")
        spans.append(f'<mark style="{frame}">{text}</mark>' if seen else text)
    count = sum(map(bool, learned))
    words = f"{count} of {len(tokens)} tokens are learned (framed): {''.join(token for token, seen in zip(tokens, learned, strict=False) if seen)}"
    display(HTML(f"<p>{''.join(spans)}</p><p>{html.escape(words)}</p>"))


def draw_loss(losses: Sequence[float], window: int = 10) -> Figure:
    """The loss of each step (points) and its running mean over `window` steps (line).

    Made without pyplot, whose figures belong to all threads: a panel draws in one, while cells run in another.
    """
    figure = Figure(figsize=(6.4, 3.2))
    FigureCanvasAgg(figure)
    axes = figure.subplots()
    steps = range(1, len(losses) + 1)
    means = [sum(losses[max(0, i - window) : i]) / len(losses[max(0, i - window) : i]) for i in steps]
    axes.plot(steps, losses, "o", color=MIDDLE, markersize=3, label="one step")
    axes.plot(steps, means, "-", color=DARK, label=f"mean of the last {window}")
    axes.set(xlabel="step", ylabel="loss, nats a token", ylim=(0, None))
    axes.xaxis.get_major_locator().set_params(integer=True)
    axes.legend(frameon=False)
    return figure


def draw_accuracies(results: dict[str, tuple[float, int]]) -> Figure:
    """One bar for each name: (accuracy, rows), with its 95 % Wilson interval and the value beside it."""
    figure, axes = plt.subplots(figsize=(6.4, 0.7 + 0.55 * len(results)))
    for place, (accuracy, rows) in enumerate(results.values()):
        low, high = estimate_interval(round(accuracy * rows), rows)
        axes.barh(place, accuracy, color=PALE, edgecolor=DARK)
        axes.plot([low, high], [place, place], color=DARK, linewidth=2)
        axes.text(high + 0.01, place, f"{accuracy:.0%}", va="center")
    axes.set(
        yticks=range(len(results)),
        yticklabels=results,
        xlim=(0, 1),
        xlabel="accuracy on rows that were not trained on, with 95 % interval",
    )
    axes.invert_yaxis()
    return figure


def draw_formats(rows: Sequence[dict]) -> Figure:
    """Rows of formats.compare_formats as bars, a panel a measure; the values stand beside the bars."""
    measures = {
        "disk_mb": "on disk, MB",
        "memory_mb": "in memory, MB",
        "tokens_per_s": "tokens a second",
        "perplexity": "perplexity",
    }
    figure, panels = plt.subplots(1, len(measures), figsize=(11, 0.5 + 0.5 * len(rows)), sharey=True)
    for panel, (key, title) in zip(panels, measures.items(), strict=True):
        bars = panel.barh([row["format"] for row in rows], [row[key] for row in rows], color=DARK)
        panel.bar_label(bars, fmt="%.0f", padding=3)
        panel.set_title(title, fontsize=10)
        panel.set_xlim(right=1.25 * max(row[key] for row in rows))
        panel.xaxis.set_visible(False)
        panel.spines[["top", "right", "bottom"]].set_visible(False)
    panels[0].invert_yaxis()
    return figure


def draw_norms(norms: pd.DataFrame) -> Figure:
    """proving.measure_norms as a heat map: a line for each layer, a column for each module, with its mean below; its colours differ in lightness."""
    figure, axes = plt.subplots(figsize=(7.2, 1 + 0.16 * len(norms)))
    image = axes.imshow(norms, cmap="cividis", aspect="auto")
    axes.set(
        xticks=range(len(norms.columns)),
        xticklabels=[f"{name}\n{value:.2f}" for name, value in norms.mean().items()],
    )
    axes.set(xlabel="module, and its mean over the layers", ylabel="layer")
    axes.set(yticks=range(0, len(norms), 5), yticklabels=norms.index[::5])
    axes.tick_params(axis="x", labelsize=8)
    figure.colorbar(image, label="||scale B A||")
    return figure


def draw_shares(shares: dict[str, float], label: str) -> Figure:
    """Probabilities by name, a bar each with its value beside it; `label` names the axis."""
    figure, axes = plt.subplots(figsize=(6.4, 0.7 + 0.4 * len(shares)))
    bars = axes.barh(list(shares), list(shares.values()), color=PALE, edgecolor=DARK)
    axes.bar_label(bars, [f"{share:.1%}" for share in shares.values()], padding=3)
    axes.set(xlim=(0, 1.1), xlabel=label)
    axes.invert_yaxis()
    return figure
