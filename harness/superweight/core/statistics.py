"""Compute intervals over windows of text, and say after how many windows a verdict may stop."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from superweight.core.errors import HarnessError

Values = NDArray[np.float64]

LEVEL = 0.95
RESAMPLES = 2000

# A verdict may be reached after any of these numbers of windows. Every look takes its share of the
# error that is allowed in all (Bonferroni), so that stopping at the first that settles adds none.
LOOKS = (8, 16, 32, 48)
ERROR = 0.05
# On text whose losses lean to one side Student's interval errs up to 1.3 times as often as it says
# (tests/core/test_statistics.py simulates it), so that not all of the error is given out.
_GIVEN_OUT = 0.03
LOOK_LEVEL = 1 - _GIVEN_OUT / len(LOOKS)
# Of every random choice: resampled windows here, control weights in `superweight.measurement.controls`.
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
    values = means.squeeze(axis=1) if statistic is None else statistic(means)
    tail = (1 - level) / 2
    low, high = np.quantile(values, [tail, 1 - tail])
    return Interval(float(low), float(high))


def looks(windows: int) -> tuple[int, ...]:
    """Return the numbers of windows after which a verdict is tried, the last of them all there are."""
    return (*(count for count in LOOKS if count < windows), windows)


def jackknife(
    windows: Values, statistic: Callable[[Values], Values] | None = None, *, level: float = LOOK_LEVEL
) -> Interval:
    """Return a jackknife interval of a statistic over windows, with Student's t for their number.

    ``windows`` and ``statistic`` are as in `bootstrap`, which is too narrow for as few windows as
    the first look has. Raises `HarnessError` for fewer than two.
    """
    # Takes a moment to import, and many a command needs no interval.
    from scipy.special import stdtrit

    count = len(windows)
    if count < 2:
        raise HarnessError(f"an interval over {count} windows says nothing")
    columns = windows.reshape(count, -1)
    total = columns.sum(axis=0)
    # All windows first, then all but one in turn.
    means = np.concatenate([total[None] / count, (total - columns) / (count - 1)])
    values = means.squeeze(axis=1) if statistic is None else statistic(means)
    own, without = values[0], values[1:]
    error = math.sqrt((count - 1) * float(np.var(without)))
    reach = float(stdtrit(count - 1, 1 - (1 - level) / 2)) * error
    return Interval(float(own) - reach, float(own) + reach)
