"""Intervals by resampling groups of rows, for figures that are means over rows."""

import collections
from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from statistics import fmean

import numpy as np

DRAWS = 10_000
DRAWN_AT_ONCE = 10_000_000  # numbers of groups: 80 MB


def bootstrap_mean(
    values: Sequence[float], groups: Sequence[Hashable], draws: int = DRAWS, seed: int = 0
) -> tuple[float, float]:
    """95% interval of the mean of the rows' values.

    Each draw takes as many groups as there are, with replacement, and each group with all of its rows,
    because rows of one group are not independent. Source: B. Efron, Bootstrap methods, 1979 (percentile
    interval).
    """
    members: dict[Hashable, list[float]] = collections.defaultdict(list)
    for value, group in zip(values, groups, strict=True):
        members[group].append(value)
    sums = np.array([sum(found) for found in members.values()])
    sizes = np.array([len(found) for found in members.values()])
    random = np.random.default_rng(seed)
    means: list[float] = []
    while len(means) < draws:
        count = min(max(DRAWN_AT_ONCE // len(sums), 1), draws - len(means))
        drawn = random.integers(len(sums), size=(count, len(sums)))  # numbers of groups
        means.extend(sums[drawn].sum(axis=1) / sizes[drawn].sum(axis=1))
    low, high = np.percentile(means, [2.5, 97.5])
    return float(low), float(high)


@dataclass(frozen=True)
class Gain:
    """How much higher a figure is for one model than for another, on the same rows."""

    value: float
    interval: tuple[float, float]  # 95%, paired by row, resampled by groups


def measure_gain(base: Sequence[float], tuned: Sequence[float], groups: Sequence[Hashable]) -> Gain:
    """The mean of the rows' differences, tuned - base, with its interval."""
    differences = [after - before for before, after in zip(base, tuned, strict=True)]
    return Gain(fmean(differences), bootstrap_mean(differences, groups))
