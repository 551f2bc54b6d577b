"""Intervals: what the bootstrap may and may not say."""

import math

import numpy as np
import pytest

from superweight.core.alpha_spending import nominal_levels
from superweight.core.errors import HarnessError
from superweight.core.statistics import (
    ERROR,
    LEVEL,
    LOOKS,
    SPENT,
    Interval,
    bootstrap,
    exactly,
    jackknife,
    look_level,
    looks,
)


@pytest.fixture
def windows():
    return np.random.default_rng(7).normal(3.0, 1.0, 48)


@pytest.mark.parametrize(
    ("low", "high"),
    [(math.nan, 1.0), (0.0, math.nan), (-math.inf, 1.0), (0.0, math.inf), (1.0, 0.0)],
    ids=["nan low", "nan high", "infinite low", "infinite high", "wrong order"],
)
def test_an_interval_is_finite_and_in_order(low, high):
    """An interval that could decide everything or nothing is a broken measurement."""
    with pytest.raises(HarnessError, match="the measurement is broken"):
        Interval(low, high)


def test_a_counted_number_has_an_interval_of_one_point():
    """Both ends are the number, exactly."""
    assert Interval(0.1, 0.1) == exactly(0.1)


def test_what_never_varies_has_an_interval_of_one_point():
    """Equal windows leave no doubt about their mean."""
    assert Interval(2.5, 2.5) == bootstrap(np.full(48, 2.5))


def test_the_same_windows_give_the_same_interval(windows):
    """The bootstrap is seeded, and leaves NumPy's global state alone."""
    np.random.seed(1)  # the global state is what must not matter
    first = bootstrap(windows)
    np.random.seed(2)
    assert first == bootstrap(windows)


def test_the_interval_holds_the_mean_and_is_as_wide_as_theory_says(windows):
    """For a mean the percentile interval is close to 1.96 standard errors either way."""
    interval = bootstrap(windows)
    error = windows.std() / math.sqrt(len(windows))
    assert windows.mean() == pytest.approx((interval.low + interval.high) / 2, abs=0.2 * error)
    assert 2 * 1.96 * error == pytest.approx(interval.high - interval.low, rel=0.05)


def test_covers_the_truth_about_as_often_as_it_says():
    """Over 300 seeded samples a 95 % interval holds the true mean in 90 to 98 % of them."""
    generator = np.random.default_rng(11)
    hits = 0
    for _ in range(300):
        interval = bootstrap(generator.normal(0.0, 1.0, 48))
        hits += interval.low <= 0.0 <= interval.high
    assert 0.90 <= hits / 300 <= 0.98
    assert 0.95 == LEVEL


def test_a_higher_level_is_wider(windows):
    """More certainty costs width, on both sides."""
    wide, narrow = bootstrap(windows, level=0.99), bootstrap(windows, level=0.5)
    assert wide.low < narrow.low < narrow.high < wide.high


def test_moves_and_stretches_with_its_windows(windows):
    """Shifting and scaling the windows shifts and scales the interval, whatever the unit."""
    before, after = bootstrap(windows), bootstrap(3 * windows + 10)
    assert 3 * before.low + 10 == pytest.approx(after.low)
    assert 3 * before.high + 10 == pytest.approx(after.high)


def test_a_statistic_is_taken_of_the_resampled_means():
    """A ratio of two columns is a ratio of their means, resampled together."""
    column = np.random.default_rng(3).uniform(1.0, 2.0, 20)
    interval = bootstrap(np.stack([2 * column, column], 1), lambda means: means[:, 0] / means[:, 1])
    assert (2.0, 2.0) == pytest.approx((interval.low, interval.high))


@pytest.mark.filterwarnings("ignore:invalid value:RuntimeWarning")  # NumPy sees it as well
@pytest.mark.parametrize("position", [0, 47])
@pytest.mark.parametrize("value", [math.nan, math.inf], ids=["nan", "infinity"])
def test_refuses_a_window_that_is_not_finite(windows, position, value):
    """One NaN or infinite window is not averaged away."""
    windows[position] = value
    with pytest.raises(HarnessError, match="the measurement is broken"):
        bootstrap(windows)


@pytest.mark.parametrize("count", [0, 1])
def test_refuses_too_few_windows(count):
    """There is no spread to see in fewer than two windows."""
    with pytest.raises(HarnessError, match=f"an interval over {count} windows says nothing"):
        bootstrap(np.ones(count))


def test_the_jackknife_of_a_mean_is_students_interval(windows):
    """For a mean it is the textbook's: t times the standard error, for 48 windows at 95 %."""
    interval = jackknife(windows, level=0.95)
    error = windows.std(ddof=1) / math.sqrt(48)
    assert windows.mean() == pytest.approx((interval.low + interval.high) / 2)
    assert 2.0117 * error == pytest.approx((interval.high - interval.low) / 2, rel=1e-4)  # t of 47 at 97.5 %


def test_the_jackknife_of_a_ratio_is_that_of_its_means():
    """Exactly proportional columns leave no doubt about their ratio."""
    column = np.random.default_rng(3).uniform(1.0, 2.0, 20)
    interval = jackknife(np.stack([2 * column, column], 1), lambda means: means[:, 0] / means[:, 1])
    assert (2.0, 2.0) == pytest.approx((interval.low, interval.high))


def test_the_jackknife_of_a_bent_statistic_leaves_each_window_out_in_turn():
    """Written out: t times the spread of the statistic over all sets of five out of six."""
    windows = np.array([0.5, 1.0, 1.5, 2.5, 3.0, 4.0])
    interval = jackknife(windows[:, None], lambda means: means[:, 0] ** 2, level=0.95)
    without = np.array([np.delete(windows, left_out).mean() ** 2 for left_out in range(6)])
    error = math.sqrt(5 / 6 * ((without - without.mean()) ** 2).sum())
    assert windows.mean() ** 2 == pytest.approx((interval.low + interval.high) / 2)
    assert 2.5706 * error == pytest.approx((interval.high - interval.low) / 2, rel=1e-4)  # t of 5 at 97.5 %


@pytest.mark.parametrize("method", [bootstrap, jackknife])
def test_two_windows_are_the_fewest(method):
    """Their mean lies inside."""
    interval = method(np.array([1.0, 3.0]))
    assert interval.low < 2.0 < interval.high


@pytest.mark.parametrize("method", [bootstrap, jackknife])
def test_of_several_columns_a_statistic_must_say_which(method):
    """Taking the first in silence would answer another question."""
    with pytest.raises(ValueError, match="squeeze"):
        method(np.ones((8, 2)))


@pytest.mark.filterwarnings("ignore:invalid value:RuntimeWarning")  # NumPy sees it as well
@pytest.mark.parametrize("value", [math.nan, math.inf], ids=["nan", "infinity"])
def test_the_jackknife_refuses_what_is_not_finite(windows, value):
    """One such window is not averaged away."""
    windows[3] = value
    with pytest.raises(HarnessError, match="the measurement is broken"):
        jackknife(windows)


@pytest.mark.parametrize("count", [0, 1])
def test_the_jackknife_refuses_too_few_windows(count):
    """There is no spread to see in fewer than two windows."""
    with pytest.raises(HarnessError, match=f"an interval over {count} windows says nothing"):
        jackknife(np.ones(count))


@pytest.mark.parametrize(
    ("windows", "expected"),
    [(48, (8, 16, 24, 32, 48)), (20, (8, 16, 20)), (16, (8, 16)), (8, (8,)), (4, (4,))],
)
def test_the_last_look_is_at_all_there_is(windows, expected):
    """However much text there is, no window is left out in the end, and none is waited for."""
    assert expected == looks(windows)


def test_a_look_without_a_level_has_that_of_its_number_of_windows(windows):
    """The eighth window is tested more sharply than one of Bonferroni's five looks, the last less so."""
    for count in LOOKS:
        assert jackknife(windows[:count], level=look_level(count)) == jackknife(windows[:count])
    errors = [1 - look_level(count) for count in LOOKS]
    assert SPENT / len(LOOKS) < min(errors[0], errors[-1])
    assert SPENT > max(errors)
    assert sum(errors) > SPENT  # looks share their windows, so that they may be given more than its parts


def test_more_text_than_planned_for_spends_no_more():
    """What is spent at each look is its share of all windows, of which there are more than 48."""
    for windows in (60, 96):
        shares = [count / windows for count in (*LOOKS, windows)]
        assert 1 - nominal_levels(shares, SPENT)[-1] == pytest.approx(look_level(windows), rel=1e-9)
        assert 1 - SPENT < look_level(windows) < 1


def sequential_verdicts(sample, runs=1500, levels=None):
    """Return the share of runs that find a mean above, and below, zero; windows come from ``sample``."""
    generator = np.random.default_rng(23)
    above = below = 0
    for _ in range(runs):
        windows = sample(generator, LOOKS[-1])
        for count, level in (levels or dict.fromkeys(LOOKS)).items():
            interval = jackknife(windows[:count], level=level)
            if interval.low >= 0 or interval.high < 0:
                above += interval.low >= 0
                below += interval.high < 0
                break
    return above / runs, below / runs


# What the loss does in a window: it may lean to one side, or have a heavy tail.
SHAPES = {
    "normal": lambda generator, count: generator.normal(0, 1, count),
    "skewed": lambda generator, count: generator.gamma(4, 1, count) - 4,
    "heavy tails": lambda generator, count: generator.standard_t(4, count),
    "two kinds of text": lambda generator, count: (
        generator.choice([-1.0, 1.0], count) + generator.normal(0, 0.3, count)
    ),
}


@pytest.mark.parametrize("shape", list(SHAPES))
def test_stopping_early_errs_no_more_often_than_it_says(shape):
    """With the truth exactly at the threshold, all looks together decide wrongly in at most 5 %."""
    above, below = sequential_verdicts(SHAPES[shape])
    assert 0.05 == ERROR
    assert ERROR >= above + below
    assert 0 < above + below


def test_a_first_look_at_four_windows_would_err_too_often():
    """Of two kinds of text, all four are of one kind in one sample of eight: eight windows are the fewest."""
    counts = (4, *LOOKS)
    errors = nominal_levels([count / LOOKS[-1] for count in counts], SPENT)
    levels = {count: 1 - error for count, error in zip(counts, errors, strict=True)}
    above, below = sequential_verdicts(SHAPES["two kinds of text"], levels=levels)
    assert above + below > ERROR


@pytest.mark.parametrize("shape", list(SHAPES))
def test_what_is_far_from_the_threshold_is_settled_and_rightly(shape):
    """Two standard deviations away no run ends on the wrong side, and 99 % are settled."""
    deviation = SHAPES[shape](np.random.default_rng(1), 100_000).std()
    above, below = sequential_verdicts(lambda *drawn: SHAPES[shape](*drawn) + 2 * deviation, runs=300)
    assert 0 == below
    assert 0.99 <= above
