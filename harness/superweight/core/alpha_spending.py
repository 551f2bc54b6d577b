"""Spend the error that a sequential verdict is allowed over its looks: Lan and DeMets' boundaries.

An alpha-spending function says how much of the error may have been spent when a share of the text is
read (Lan and DeMets 1983, Biometrika 70). Looks share most of their windows, so that this allows wider
levels than dividing the error by the number of looks does.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

# Points of the grids that the recursion integrates on: levels change by less than one in 1,000 beyond.
_POINTS = 601
_REACH = 9.0


def spent(share: float, error: float) -> float:
    """Return the error spent when ``share`` of all windows is read, by the function of Pocock's kind.

    It spends early what an enormous effect needs, and keeps a third for the second half of the text.

    >>> round(spent(0.5, 0.05), 4), spent(1.0, 0.05)
    (0.031, 0.05)
    """
    return error * math.log(1 + (math.e - 1) * share)


def nominal_levels(shares: Sequence[float], error: float) -> tuple[float, ...]:
    """Return the two-sided error of the test at each look, so that all looks together spend ``error``.

    ``shares``: of all windows, read at each look, in rising order. Computed for a normal mean by the
    recursion of Armitage, McPherson and Rowe (1969); each level is then used with Student's t, the
    significance-level approach of Jennison and Turnbull (2000, section 4.4).
    """
    from scipy.special import ndtr

    levels: list[float] = []
    before, places, density = 0.0, np.zeros(1), np.ones(1)
    for share in shares:
        grid = _REACH * math.sqrt(share) * np.linspace(-1, 1, 2 * _POINTS - 1)
        now = _step(grid, places, density, share - before)
        # How much lies beyond each point, of the runs that have not stopped yet.
        beyond = np.concatenate([np.cumsum(now[::-1])[::-1][1:] + now[:-1] / 2, [0.0]]) * (grid[1] - grid[0])
        already = spent(before, error) if before else 0.0
        bound = float(np.interp(-(spent(share, error) - already) / 2, -beyond, grid))
        levels.append(float(2 * ndtr(-bound / math.sqrt(share))))
        places = np.linspace(-bound, bound, _POINTS)
        weights = np.full(_POINTS, places[1] - places[0])
        weights[[0, -1]] /= 2
        density, before = np.interp(places, grid, now) * weights, share
    return tuple(levels)


def _step(
    grid: NDArray[np.float64], places: NDArray[np.float64], mass: NDArray[np.float64], time: float
) -> NDArray[np.float64]:
    """Return the density on ``grid`` of a Brownian motion that was at ``places`` a ``time`` ago."""
    apart = grid[:, None] - places[None]
    density: NDArray[np.float64] = np.exp(-apart * apart / (2 * time)) @ mass / math.sqrt(2 * math.pi * time)
    return density
