"""How an interval and a threshold become a status."""

import math

import pytest

from superweight.claims.verdict import (
    AT_LEAST,
    AT_MOST,
    RELATIVE_TOLERANCE,
    Claim,
    Criterion,
    Measured,
    counted,
    judged,
    measured,
    not_applicable,
)
from superweight.core.errors import HarnessError
from superweight.core.statistics import Interval

CLAIM = Claim("C3", "sentence", "place")
NOT_FINITE = pytest.mark.parametrize(
    "value", [math.nan, math.inf, -math.inf], ids=["nan", "infinity", "minus infinity"]
)


@pytest.mark.parametrize("tolerance", ["relative", "absolute"])
def test_a_tolerance_below_zero_is_refused(tolerance):
    """Even where the other one would decide."""
    with pytest.raises(HarnessError, match="means nothing"):
        measured(3.0, **{tolerance: -0.01})


def test_a_reason_names_an_interval_only_where_it_has_a_width():
    """Equal ends are one number, and said once."""
    exact = judged(CLAIM, criterion(float("2.5"), float("2.5"), 1.0, AT_LEAST))
    assert "ratio is 2.5; supported when at least 1" == exact.reason
    wide = judged(CLAIM, criterion(2.0, 3.0, 1.0, AT_LEAST))
    assert "ratio is 2.5 [2, 3]; supported when at least 1" == wide.reason


def criterion(low, high, threshold, direction, name="ratio"):
    return Criterion(name, Measured((low + high) / 2, 0.1), Interval(low, high), threshold, direction)


@pytest.mark.parametrize(
    ("low", "high", "at_least", "at_most"),
    [
        (3.0, 4.0, "supported", "refuted"),
        (0.0, 1.0, "refuted", "supported"),
        (1.0, 3.0, "inconclusive", "inconclusive"),
        (2.0, 3.0, "supported", "inconclusive"),
        (1.0, 2.0, "inconclusive", "supported"),
        (2.0, 2.0, "supported", "supported"),
        (math.nextafter(2.0, 0), 2.0, "inconclusive", "supported"),
        (math.nextafter(2.0, 0), math.nextafter(2.0, 0), "refuted", "supported"),
        (math.nextafter(2.0, 3), math.nextafter(2.0, 3), "supported", "refuted"),
    ],
    ids=[
        "above",
        "below",
        "straddling",
        "from it",
        "up to it",
        "on it",
        "hair of it",
        "hair below",
        "hair above",
    ],
)
def test_the_interval_decides_not_the_statistic(low, high, at_least, at_most):
    """Only an interval wholly on one side decides; the threshold itself is on the claim's side."""
    assert at_least == criterion(low, high, 2.0, AT_LEAST).status
    assert at_most == criterion(low, high, 2.0, AT_MOST).status


@pytest.mark.parametrize(
    ("low", "high", "at_least", "at_most"),
    [
        (-1.0, -0.5, "supported", "refuted"),
        (-4.0, -3.0, "refuted", "supported"),
        (-3.0, 1.0, *["inconclusive"] * 2),
    ],
    ids=["above", "below", "straddling"],
)
def test_a_negative_threshold_decides_the_same_way(low, high, at_least, at_most):
    """Turning the direction round is not turning the sign round."""
    assert at_least == criterion(low, high, -2.0, AT_LEAST).status
    assert at_most == criterion(low, high, -2.0, AT_MOST).status


@NOT_FINITE
def test_refuses_a_threshold_that_is_not_finite(value):
    """A threshold that every or no number passes is a mistake, named with its criterion."""
    with pytest.raises(HarnessError, match="of 'ratio' would pass everything"):
        criterion(0.0, 1.0, value, AT_LEAST)


@pytest.mark.parametrize("direction", ["", "AT_LEAST", "at  least", ">="])
def test_refuses_a_direction_that_is_none(direction):
    """There are two ways to hold a number against a threshold, and no default."""
    with pytest.raises(HarnessError, match="is neither way"):
        criterion(0.0, 1.0, 0.5, direction)


@NOT_FINITE
def test_refuses_a_statistic_that_is_not_finite(value):
    """Neither a measured nor a counted number may be NaN or infinite."""
    with pytest.raises(HarnessError, match="is no measurement"):
        Measured(value, 0.1)
    with pytest.raises(HarnessError, match="is no measurement"):
        counted("count", value, 0, AT_LEAST)


@pytest.mark.parametrize("within", [math.nan, math.inf, -0.1], ids=["nan", "infinity", "negative"])
def test_refuses_a_tolerance_that_is_none(within):
    """A tolerance is finite and not negative."""
    with pytest.raises(HarnessError, match="is no measurement"):
        Measured(1.0, within)


@pytest.mark.parametrize(
    ("value", "within"),
    [(10.0, 10 * RELATIVE_TOLERANCE), (-10.0, 10 * RELATIVE_TOLERANCE), (0.0, 1e-9)],
    ids=["positive", "negative", "zero"],
)
def test_a_tolerance_is_relative_with_a_floor(value, within):
    """The tolerance follows the magnitude, and at zero it is still there."""
    assert within == pytest.approx(measured(value).within)


def test_a_count_is_compared_exactly():
    """A counted number has no tolerance, an interval of one point, and decides at its threshold."""
    exact = counted("count", 3, 3, AT_LEAST)
    assert (Measured(3.0, 0.0), Interval(3.0, 3.0)) == (exact.statistic, exact.interval)
    assert "supported" == exact.status
    assert "refuted" == counted("count", 2, 3, AT_LEAST).status
    assert "refuted" == counted("count", 1, 0, AT_MOST).status


GOOD = criterion(3.0, 4.0, 2.0, AT_LEAST, "good")
OPEN = criterion(1.0, 3.0, 2.0, AT_LEAST, "open")
BAD = criterion(0.0, 1.0, 2.0, AT_LEAST, "bad")


@pytest.mark.parametrize(
    ("criteria", "status", "deciding"),
    [
        ((GOOD, GOOD), "supported", GOOD),
        ((GOOD, OPEN), "inconclusive", OPEN),
        ((OPEN, GOOD), "inconclusive", OPEN),
        ((OPEN, BAD, GOOD), "refuted", BAD),
        ((GOOD, BAD), "refuted", BAD),
    ],
    ids=["all hold", "one open", "open first", "one fails beside an open one", "one fails"],
)
def test_all_criteria_must_hold(criteria, status, deciding):
    """The worst criterion is the verdict, wherever it stands, and the reason speaks of it."""
    verdict = judged(CLAIM, *criteria)
    assert status == verdict.status
    assert deciding is verdict.deciding
    assert verdict.reason.startswith(deciding.name)


def test_the_first_of_equals_decides():
    """With several criteria of the deciding status it is the first that is reported."""
    first, second = criterion(0, 1, 2.0, AT_LEAST, "first"), criterion(0, 1, 2.0, AT_LEAST, "second")
    assert first is judged(CLAIM, GOOD, first, second).deciding


def test_a_reason_says_the_number_its_spread_and_the_threshold():
    """Everything the status follows from stands in one line."""
    assert (
        "ratio is 2 [1, 3]; supported when at least 2.5"
        == judged(CLAIM, criterion(1, 3, 2.5, AT_LEAST)).reason
    )
    assert "count is 3; supported when at most 4" == judged(CLAIM, counted("count", 3, 4, AT_MOST)).reason


def test_evidence_is_kept():
    """What is given besides the criteria stays with the verdict."""
    assert {"words": ["a"]} == judged(CLAIM, GOOD, words=["a"]).evidence


def test_refuses_to_judge_by_nothing():
    """No criteria would make every claim supported."""
    with pytest.raises(HarnessError, match="C3 was judged by nothing"):
        judged(CLAIM)


def test_not_applicable_rests_on_no_criterion():
    """A claim that says nothing about a model has a reason and no number."""
    verdict = not_applicable(CLAIM, "nothing to prune")
    assert ("not applicable", "nothing to prune", None) == (verdict.status, verdict.reason, verdict.deciding)
