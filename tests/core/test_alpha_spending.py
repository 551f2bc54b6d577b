"""Boundaries of group-sequential tests, held to published ones and to simulation."""

import math

import numpy as np
import pytest
from scipy.special import ndtri

from superweight.core.alpha_spending import nominal_levels, spent

# Five equal looks at a two-sided error of 5 %, in standard errors, by the program of Lan and DeMets
# (Reboussin, DeMets, Kim and Lan 2000, Controlled Clinical Trials 21), spending of Pocock's kind.
PUBLISHED = (2.438, 2.427, 2.410, 2.397, 2.386)


def test_boundaries_are_the_published_ones():
    """To the last digit that is printed."""
    levels = nominal_levels([0.2, 0.4, 0.6, 0.8, 1.0], 0.05)
    assert pytest.approx([-ndtri(level / 2) for level in levels], abs=1e-3) == PUBLISHED


def test_a_single_look_is_the_plain_test():
    """It spends all there is at once."""
    assert pytest.approx((0.05,), rel=1e-3) == nominal_levels([1.0], 0.05)


@pytest.mark.parametrize("error", [0.01, 0.03, 0.05])
def test_nothing_is_spent_before_the_first_window_and_all_at_the_last(error):
    """In between it only rises."""
    course = [spent(share, error) for share in np.linspace(0, 1, 50)]
    assert (0, pytest.approx(error)) == (course[0], course[-1])
    assert course == sorted(course)


def test_all_looks_together_spend_the_error():
    """Of 200,000 normal walks without drift as many cross a bound as are allowed to, look by look."""
    shares, error = np.array([1 / 6, 1 / 4, 1 / 3, 1 / 2, 2 / 3, 1]), 0.05
    bounds = -ndtri(np.array(nominal_levels(shares, error)) / 2) * np.sqrt(shares)
    steps = np.random.default_rng(5).normal(size=(200_000, 6)) * np.sqrt(np.diff(shares, prepend=0))
    crossed = np.maximum.accumulate(np.abs(steps.cumsum(axis=1)) > bounds, axis=1).mean(axis=0)
    expected = np.array([spent(share, error) for share in shares])
    assert (np.abs(crossed - expected) < 4 * np.sqrt(expected / 200_000)).all()
    assert math.isclose(0.05, expected[-1])
