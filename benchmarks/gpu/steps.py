"""The seconds of a training's steps, those that a CUDA graph replays apart from those computed as usual."""

import statistics
import time
from collections import Counter
from typing import Any

from transformers import TrainerCallback

from benchmarks.gpu.shapes import synchronise
from helpers.training.step_graph import StepGraphs

KINDS = ("computed", "recorded", "replayed")


class StepTimer(TrainerCallback):
    """Times steps, and ends the training when enough of them were timed.

    Steps warm up until `warm` of them are over and, where steps are recorded, one was replayed; for a replay
    half of the `seconds` are waited at most. Then `timed` steps are timed, or as many as the seconds allow,
    one at least, even if the seconds were over before.
    """

    def __init__(self, warm: int, timed: int, seconds: float, graphs: StepGraphs | None = None):
        self.warm, self.timed, self.graphs = warm, timed, graphs
        now = time.monotonic()
        self.patience, self.end = now + seconds / 2, now + seconds
        self.steps: list[tuple[str, float]] = []  # (one of KINDS, seconds)
        self.first_timed: int | None = None  # number of the first step that is timed
        self.before = 0.0
        self.seen: Counter[tuple] = Counter()
        self.known: set[tuple] = set()

    def on_train_begin(self, args, state, control, **kwargs):
        synchronise()
        self.before = time.perf_counter()

    def on_step_end(self, args, state, control, **kwargs):
        synchronise()
        now = time.perf_counter()
        self.steps.append((self.tell_kind(), now - self.before))
        self.before = now
        if self.first_timed is None and self.is_warm():
            self.first_timed = len(self.steps)
        elif self.first_timed is not None and self.is_enough():
            control.should_training_stop = True

    def tell_kind(self) -> str:
        """How the step that has just ended was computed."""
        if self.graphs is None:
            return "computed"
        shapes = self.graphs.seen - self.seen  # of this step's batch
        known, self.known = self.known, set(self.graphs.graphs)
        self.seen = Counter(self.graphs.seen)
        if not any(shape in self.known for shape in shapes):
            return "computed"
        return "replayed" if all(shape in known for shape in shapes) else "recorded"

    def is_warm(self) -> bool:
        """Whether the steps to come are to be timed."""
        if time.monotonic() > self.end:
            return True
        if len(self.steps) < self.warm:
            return False
        awaits_replay = self.graphs is not None and not self.graphs.failed
        replayed = any(kind == "replayed" for kind, _ in self.steps)
        return replayed or not awaits_replay or time.monotonic() > self.patience

    def is_enough(self) -> bool:
        """Whether enough steps were timed, or another one would end too late."""
        count = len(self.steps) - (self.first_timed or 0)
        return count >= self.timed or time.monotonic() + self.steps[-1][1] > self.end

    def list_timed(self) -> list[float]:
        """The seconds of the timed steps; of the last one, if the training ended before."""
        start = len(self.steps) - 1 if self.first_timed is None else self.first_timed
        return [seconds for _, seconds in self.steps[min(start, len(self.steps) - 1) :]]

    @property
    def median(self) -> float:
        """The median of the timed steps, in seconds."""
        return statistics.median(self.list_timed())

    def describe(self) -> dict[str, Any]:
        """The median, first and slowest step in seconds; where steps are recorded, also medians and counts by
        kind, the first step left out, and what became of the recordings.
        """
        timed = self.list_timed()
        found: dict[str, Any] = {
            "step_s": self.median,
            "first_step_s": self.steps[0][1],
            "slowest_s": max(timed),
            "timed_steps": len(timed),
        }
        if self.graphs is None:
            return found
        for kind in KINDS:
            if mine := [seconds for one, seconds in self.steps[1:] if one == kind]:
                found |= {f"{kind}_s": statistics.median(mine), f"{kind}_steps": len(mine)}
        return found | {"graphs": len(self.graphs.graphs), "graphs_failed": self.graphs.failed}
