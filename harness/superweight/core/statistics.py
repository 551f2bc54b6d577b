"""Compute intervals over windows of text, and say after how many windows a verdict may stop."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache

import numpy as np
from numpy.typing import NDArray

from superweight.core.alpha_spending import nominal_levels
from superweight.core.errors import HarnessError

Values = NDArray[np.float64]

LEVEL = 0.95
RESAMPLES = 2000

# A verdict may be reached after any of these numbers of windows. Eight are the fewest: of two kinds
# of text that lie apart, four windows are of one kind in one sample of eight, and no spread warns of
# the other (tests/core/test_statistics.py simulates what a look at four would do).
LOOKS = (8, 16, 24, 32, 48)
ERROR = 0.05
# On text whose losses lean to one side Student's interval errs up to 1.6 times as often as it says
# (tests/core/test_statistics.py simulates it), so that not all of the error is spent.
SPENT = 0.03
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


@cache
def look_level(windows: int) -> float:
    """Return the level of the interval at the look after so many windows, of the looks that come before it.

    The looks spend `SPENT` by the time `LOOKS` end; a text that ends earlier leaves the rest unspent.
    """
    shares = [count / LOOKS[-1] for count in looks(windows)]
    if shares[-1] > 1:  # more text than planned for: all of it is spent in the end
        shares = [share / shares[-1] for share in shares]
    return 1 - nominal_levels(shares, SPENT)[-1]


def jackknife(
    windows: Values, statistic: Callable[[Values], Values] | None = None, *, level: float | None = None
) -> Interval:
    """Return a jackknife interval of a statistic over windows, with Student's t for their number.

    ``windows`` and ``statistic`` are as in `bootstrap`, which is too narrow for as few windows as
    the first look has. Left out, ``level`` is that of the look after so many windows. Raises
    `HarnessError` for fewer than two.
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
    level = look_level(count) if level is None else level
    reach = float(stdtrit(count - 1, 1 - (1 - level) / 2)) * error
    return Interval(float(own) - reach, float(own) + reach)
