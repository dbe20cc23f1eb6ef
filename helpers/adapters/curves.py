"""Figures of a training, as places on a canvas: the report's template draws them as SVG."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

WIDTH, HEIGHT = 440, 240  # of the canvas; a narrow page still shows its texts in a readable size
LEFT, RIGHT, TOP, BOTTOM = 44, 12, 10, 40  # margins, for ticks and their labels
MOST = 60  # points of a curve; more would be one line of the table each

Points = list[tuple[float, float]]  # (step, loss)


@dataclass(frozen=True)
class Curve:
    """A curve of the figure: its values, and its place on the canvas."""

    name: str
    points: Points
    path: str  # what SVG's polyline takes


@dataclass(frozen=True)
class Figure:
    """Curves over steps, with the ticks of both axes: (place on the canvas, number)."""

    curves: list[Curve]
    x_ticks: list[tuple[float, str]]
    y_ticks: list[tuple[float, str]]
    width: int = WIDTH
    height: int = HEIGHT
    left: int = LEFT
    right: int = WIDTH - RIGHT
    top: int = TOP
    bottom: int = HEIGHT - BOTTOM


def draw_curves(curves: dict[str, Points]) -> Figure | None:
    """The curves that have two points or more, in one figure; None if there is none."""
    finite = {
        name: [point for point in points if all(map(math.isfinite, point))] for name, points in curves.items()
    }
    shown = {name: points for name, points in finite.items() if len(points) > 1}
    if not shown:
        return None
    every = [point for points in shown.values() for point in points]
    x_ticks = list_ticks(max(step for step, _ in every))
    y_ticks = list_ticks(max(loss for _, loss in every))

    def place(step: float, loss: float) -> tuple[float, float]:
        x = LEFT + (WIDTH - LEFT - RIGHT) * step / x_ticks[-1]
        y = HEIGHT - BOTTOM - (HEIGHT - TOP - BOTTOM) * loss / y_ticks[-1]
        return round(x, 1), round(y, 1)

    return Figure(
        [
            Curve(name, points, " ".join("{},{}".format(*place(*point)) for point in points))
            for name, points in shown.items()
        ],
        [(place(tick, 0)[0], f"{tick:g}") for tick in x_ticks],
        [(place(0, tick)[1], f"{tick:g}") for tick in y_ticks],
    )


def list_ticks(top: float, count: int = 5) -> list[float]:
    """Round numbers from 0 up to the first that is `top` or more: 0, 10, 20, 30, 40, 50 for 47."""
    top = max(top, 1e-9)
    rough = top / count
    power = 10 ** math.floor(math.log10(rough))
    width = next(factor * power for factor in (1, 2, 2.5, 5, 10) if factor * power >= rough * (1 - 1e-9))
    return [round(i * width, 10) for i in range(math.ceil(top / width - 1e-9) + 1)]


def thin_out(values: Sequence[float], steps: int, most: int = MOST) -> Points:
    """At most `most` points of a curve of `steps` steps, each the mean of its values at its last step."""
    size = math.ceil(len(values) / most) or 1
    edges = [*range(0, len(values), size), len(values)]
    points = []
    for start, end in pairwise(edges):
        part = [value for value in values[start:end] if math.isfinite(value)]
        if part:
            points.append((end * steps / len(values), sum(part) / len(part)))
    return points
