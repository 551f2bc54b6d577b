"""Intervals: how sure a number is, given the windows it was measured on."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from harness.errors import HarnessError

Values = NDArray[np.float64]

LEVEL = 0.95
RESAMPLES = 2000
# Of every random choice: resampled windows here, control weights in `harness.controls`.
SEED = 20241111


@dataclass(frozen=True)
class Interval:
    """A closed interval; refuses NaN, infinities and ends in the wrong order."""

    low: float
    high: float

    def __post_init__(self) -> None:
        if not (math.isfinite(self.low) and math.isfinite(self.high) and self.low <= self.high):
            raise HarnessError(f"[{self.low}, {self.high}] is no interval; the measurement is broken")


def exactly(value: float) -> Interval:
    """Return the interval of a number that was counted rather than sampled."""
    return Interval(value, value)


def bootstrap(
    windows: Values, statistic: Callable[[Values], Values] | None = None, *, level: float = LEVEL
) -> Interval:
    """Return a percentile bootstrap interval of a statistic over windows.

    ``windows``: (windows, ...), one row an independent stretch of text. ``statistic`` maps
    resampled means, (resamples, ...), to one number each; left out, the mean itself is meant.
    Seeded: the same windows give the same interval. Raises `HarnessError` for fewer than two.
    """
    if len(windows) < 2:
        raise HarnessError(f"an interval over {len(windows)} windows says nothing")
    generator = np.random.default_rng(SEED)
    # How often each window is drawn; a product with it is the mean of every resample at once.
    draws = generator.multinomial(len(windows), np.full(len(windows), 1 / len(windows)), RESAMPLES)
    means = draws @ windows.reshape(len(windows), -1) / len(windows)
    values = means[:, 0] if statistic is None else statistic(means)
    tail = (1 - level) / 2
    low, high = np.quantile(values, [tail, 1 - tail])
    return Interval(float(low), float(high))
