"""Text is read in growing stretches, and only as far as a verdict needs."""

from __future__ import annotations

import numpy as np
import pytest

from superweight.claims.evidence import Evidence
from superweight.claims.sequential_verdict import settled
from superweight.claims.verdict import Claim, Verdict
from superweight.core.coordinates import Coordinate
from superweight.core.statistics import LOOKS
from superweight.measurement import sequential
from superweight.measurement.conditions import INTACT, Condition
from superweight.measurement.corpus import cut, documents
from superweight.measurement.evaluate import measure
from superweight.measurement.sequential import SequentialEvaluation
from superweight.model.edits import Prune

FIRST, SECOND = (Condition(name, (Prune(Coordinate(1, 41, col)),)) for name, col in [("a", 23), ("b", 24)])


@pytest.fixture(scope="module")
def windows(planted):
    return cut(planted, documents("builtin"), "builtin")


@pytest.fixture
def measured(monkeypatch):
    """Record which conditions were measured on how many windows."""
    calls = []

    def counting(subject, stretch, conditions, tracked):
        calls.append((len(stretch.ids), [condition.name for condition in conditions]))
        return measure(subject, stretch, conditions, tracked)

    monkeypatch.setattr(sequential, "measure", counting)
    return calls


def test_the_first_look_measures_all_and_later_ones_what_is_asked_for(planted, windows, measured):
    """Nothing is measured before it is needed, and nothing twice."""
    looks = SequentialEvaluation(planted, windows, [FIRST, SECOND], ())
    looks.first()
    assert [(8, ["a", "b"])] == measured
    at_a = looks.at(["a"])
    next(at_a)
    next(at_a)
    assert [(8, ["a", "b"]), (8, ["a"])] == measured
    seen = [look.windows for look in looks.at(["b", "a", "no such condition"])]
    assert [*LOOKS] == seen
    assert [(8, ["a", "b"]), (8, ["a"]), (8, ["b"]), (16, ["a", "b"]), (16, ["a", "b"])] == measured


def test_what_was_measured_is_had_without_measuring(planted, windows, measured):
    """The widest look at all that is asked for, however far each was followed; none before the first."""
    looks = SequentialEvaluation(planted, windows, [FIRST, SECOND], ())
    assert looks.measured(["a"]) is None
    at_a = looks.at(["a"])
    next(at_a), next(at_a)
    before = list(measured)
    assert [16, 8, 8] == [looks.measured(names).windows for names in (["a"], ["b"], ["a", "b"])]
    assert looks.measured(["no such condition"]) is None
    assert before == measured


def test_the_last_look_is_what_measuring_all_windows_gives(planted, windows):
    """Stretch by stretch or at once: the same numbers, each window once, in a shuffled order."""
    *_, last = SequentialEvaluation(planted, windows, [FIRST, SECOND], (5, 6)).at(["a"])
    whole = measure(planted, windows, [FIRST], (5, 6))
    assert whole.keys() == last.measurements.keys()
    for name, measurement in whole.items():
        shuffled = last.measurements[name]
        order = [int(abs(measurement.nll - row).sum(axis=1).argmin()) for row in shuffled.nll]
        assert sorted(order) == list(range(48)) != order
        for part in ("nll", "kl", "top1_agreement", "tracked"):
            expected = getattr(measurement, part)[order]
            np.testing.assert_allclose(expected, getattr(shuffled, part), rtol=1e-4, atol=1e-6)
    assert (48, 47) == last.measurements[INTACT].nll.shape


def test_what_looks_measured_of_the_intact_model_is_not_measured_again(planted, windows, measured):
    """After two looks the other 32 windows; then all are known, window by window in the looks' order."""
    looks = SequentialEvaluation(planted, windows, [FIRST, SECOND], ())
    at_a = looks.at(["a"])
    next(at_a), next(at_a)
    losses = looks.intact()
    assert [(8, ["a", "b"]), (8, ["a"]), (16, []), (16, [])] == measured
    assert np.array_equal(losses, looks.intact())
    assert 4 == len(measured)
    whole = measure(planted, windows, [])[INTACT].nll.mean(axis=1)
    np.testing.assert_allclose(whole[windows.order], losses, rtol=1e-5)
    *_, last = looks.at(["b"])
    assert 48 == last.windows


def test_the_intact_losses_of_a_corpus_stand_in_its_own_order(planted, windows):
    """The n-th is of the n-th window, however the looks went through them."""
    evidence = Evidence(planted, "builtin")
    whole = measure(planted, windows, [])[INTACT].nll.mean(axis=1)
    np.testing.assert_allclose(whole, evidence.intact_losses, rtol=1e-5)


@pytest.mark.parametrize(
    ("statuses", "windows_read"),
    [
        (["supported"], 8),
        (["inconclusive", "refuted"], 16),
        (["not applicable", "inconclusive", "supported"], 32),
        (["inconclusive"] * 4, 48),
        (["not applicable"] * 4, 48),
    ],
)
def test_reading_stops_at_the_first_verdict_for_or_against(planted, windows, statuses, windows_read):
    """Doubt reads on, to the end of the text if need be; how much was read is evidence."""
    given = iter(statuses)
    claim = Claim("C0", "sentence", "place")
    verdict = settled(
        SequentialEvaluation(planted, windows, [FIRST], ()).at(["a"]),
        lambda look: Verdict(claim, next(given), "because"),
    )
    assert (statuses[-1], {"windows": windows_read}) == (verdict.status, verdict.evidence)
    assert [] == list(given)
