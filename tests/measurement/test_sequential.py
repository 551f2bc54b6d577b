"""Text is read in growing stretches, and only as far as a verdict needs."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest
import torch

from superweight.claims.sequential_verdict import SequentialTest, read_on
from superweight.claims.verdict import Claim, Verdict
from superweight.core.coordinates import Coordinate
from superweight.core.statistics import LOOKS
from superweight.measurement import sequential
from superweight.measurement.conditions import INTACT, Condition
from superweight.measurement.corpus import cut, documents
from superweight.measurement.evaluate import measure
from superweight.measurement.sequential import SequentialEvaluation, in_stretches
from superweight.model.edits import Prune

FIRST, SECOND, THIRD = (
    Condition(name, (Prune(Coordinate(1, 41, col)),)) for name, col in [("a", 23), ("b", 24), ("c", 25)]
)


@pytest.fixture(scope="module")
def windows(planted):
    return cut(planted, documents("builtin"), "builtin")


@pytest.fixture
def measured(monkeypatch):
    """Record which conditions were measured on how many windows."""
    calls = []

    def counting(subject, stretch, conditions, tracked, details):
        calls.append((len(stretch.ids), [condition.name for condition in conditions]))
        return measure(subject, stretch, conditions, tracked, details=details)

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
    later = [(count, ["a", "b"]) for count in (8, 8, 16)]
    assert [(8, ["a", "b"]), (8, ["a"]), (8, ["b"]), *later] == measured


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
    assert {*whole, "b"} == {*last.measurements}
    for name, measurement in whole.items():
        shuffled = last.measurements[name]
        order = [int(abs(measurement.nll - row).sum(axis=1).argmin()) for row in shuffled.nll]
        assert sorted(order) == list(range(48)) != order
        for part in ("nll", "kl", "top1_agreement", "tracked"):
            expected = getattr(measurement, part)[order]
            np.testing.assert_allclose(expected, getattr(shuffled, part), rtol=1e-4, atol=1e-6)
    assert (48, 47) == last.measurements[INTACT].nll.shape


def test_what_looks_measured_of_the_intact_model_is_not_measured_again(planted, windows, measured):
    """As many windows as are asked for, those beyond two looks alone; then all, in the looks' order."""
    looks = SequentialEvaluation(planted, windows, [FIRST, SECOND], ())
    at_a = looks.at(["a"])
    next(at_a), next(at_a)
    assert (16,) == looks.intact(16).shape
    assert (20,) == looks.intact(20).shape
    assert [(8, ["a", "b"]), (8, ["a"]), (8, [])] == measured
    losses = looks.intact()
    assert [(8, ["a", "b"]), (8, ["a"]), (8, []), (8, []), (16, [])] == measured
    assert np.array_equal(losses, looks.intact())
    assert np.array_equal(losses[:20], looks.intact(20))
    assert 5 == len(measured)
    whole = measure(planted, windows, [])[INTACT].nll.mean(axis=1)
    np.testing.assert_allclose(whole[windows.order], losses, rtol=1e-5)
    *_, last = looks.at(["b"])
    assert 48 == last.windows


def test_tests_in_doubt_share_one_pass_a_stretch(planted, windows, measured):
    """Who reads on takes along what others in doubt need; who is decided needs nothing more."""
    needs = {
        "follows a": lambda look: ["a"] if look.windows < 24 else [],
        "follows b": lambda look: ["b"] if look.windows < 16 else [],
        "follows c": lambda look: [],
    }
    looks = SequentialEvaluation(planted, windows, [FIRST, SECOND, THIRD], (), tests=needs.values())
    assert 3 == len([*looks.follow(needs["follows a"])][:3])
    # Those that would go on without need read the intact model alone.
    assert [(8, ["a", "b", "c"]), (8, ["a", "b"]), (8, ["a"])] == measured[:3]
    assert [[]] * 2 == [names for _, names in measured[3:]]
    seen = list(measured)
    second = looks.follow(needs["follows b"])
    assert [8, 16] == [next(second).windows, next(second).windows]
    assert seen == measured


def test_what_is_not_read_on_stays_as_the_first_look_had_it(planted, windows):
    """Its windows are the first ones, in every later look, whoever else has read it on."""
    looks = SequentialEvaluation(planted, windows, [FIRST, SECOND], ())
    [*looks.at(["b"])]
    follow = looks.follow(lambda look: ["a"])
    first, second = next(follow), next(follow)
    assert (16, 8) == (len(second.measurements["a"].nll), len(second.measurements["b"].nll))
    assert np.array_equal(first.nll_increase("b"), second.nll_increase("b"))
    assert np.array_equal(first.nll_increase("a"), second.nll_increase("a")[:8])


def test_the_last_look_of_a_test_can_be_had_again(planted, windows, measured):
    """As it was, whatever others have read since; none before the first look, and nothing is measured."""
    looks = SequentialEvaluation(planted, windows, [FIRST, SECOND], ())

    def needs(look):
        return ["a"] if look.windows < 16 else []

    assert looks.had(needs) is None
    follow = looks.follow(needs)
    seen = [next(follow), next(follow)]
    [*looks.at(["a", "b"])]
    before = list(measured)
    again = looks.had(needs)
    assert before == measured
    assert seen[1].windows == again.windows == 16
    for name, item in seen[1].measurements.items():
        assert np.array_equal(item.nll, again.measurements[name].nll)


def test_only_named_conditions_are_measured_beyond_the_loss(planted, windows):
    """KL, agreement and tracked tokens of others are empty; their losses are the same."""
    looks = SequentialEvaluation(planted, windows, [FIRST, SECOND], (5, 6), details=["a"])
    whole, found = (
        measure(planted, windows.shuffled().first(8), [FIRST, SECOND], (5, 6)),
        looks.first().measurements,
    )
    assert {INTACT: 8, "a": 8, "b": 0} == {name: len(item.kl) for name, item in found.items()}
    assert {INTACT: 8, "a": 8, "b": 0} == {name: len(item.tracked) for name, item in found.items()}
    for name, item in found.items():
        assert np.array_equal(whole[name].nll, item.nll), name
    assert np.array_equal(whole["a"].kl, found["a"].kl)
    assert 0 == abs(found[INTACT].kl).max() < found["a"].kl.max()


def test_stretches_are_measured_once_and_joined(windows):
    """Each look has all windows so far, in order; what was measured is not measured again."""
    ids = torch.arange(20).view(10, 2)
    seen = []

    def measured(part):
        seen.append(part.tolist())
        return {"first": part[:, 0].double().numpy()}

    looks = [(count, found["first"].tolist()) for count, found in in_stretches(measured, ids, (2, 3, 7))]
    evens = [float(2 * index) for index in range(7)]
    assert [(2, evens[:2]), (3, evens[:3]), (7, evens)] == looks
    assert ids[:7].tolist() == [row for part in seen for row in part]


@pytest.mark.parametrize(
    ("statuses", "windows_read"),
    [
        (["supported"], 8),
        (["inconclusive", "refuted"], 16),
        (["not applicable", "inconclusive", "supported"], 24),
        (["inconclusive"] * 5, 48),
        (["not applicable"] * 5, 48),
    ],
)
def test_reading_stops_at_the_first_verdict_for_or_against(planted, windows, statuses, windows_read):
    """Doubt reads on, to the end of the text if need be; how much was read is evidence."""
    given = dict(zip(LOOKS, statuses, strict=False))
    claim = Claim("C0", "sentence", "place")
    test = SequentialTest(lambda look: Verdict(claim, given[look.windows], "because"), lambda look: ["a"])
    evidence = SimpleNamespace(budget=None, sequential=SequentialEvaluation(planted, windows, [FIRST], ()))
    verdict = read_on(evidence, test)
    assert (statuses[-1], {"windows": windows_read}) == (verdict.status, verdict.evidence)


def test_a_test_that_rests_on_nothing_reads_the_first_look_alone(planted, windows, measured):
    """More text would not change it; and a verdict without any look is handed on."""
    claim = Claim("C0", "sentence", "place")
    nothing = Verdict(claim, "not applicable", "because")
    evidence = SimpleNamespace(budget=None, sequential=SequentialEvaluation(planted, windows, [FIRST], ()))
    assert nothing is read_on(evidence, nothing)
    assert [] == measured
    verdict = read_on(evidence, SequentialTest(lambda look: nothing, lambda look: ()))
    assert {"windows": 8} == verdict.evidence
    assert [(8, ["a"])] == measured


def test_evidence_that_was_not_read_on_says_of_how_many_windows_it_is(planted, windows):
    """Beside the windows of the criterion."""
    given = {8: "inconclusive", 16: "supported"}
    claim = Claim("C0", "sentence", "place")
    test = SequentialTest(lambda look: Verdict(claim, given[look.windows], "because"), lambda look: ["a"])
    evidence = SimpleNamespace(
        budget=None, sequential=SequentialEvaluation(planted, windows, [FIRST, SECOND], ())
    )
    assert {"windows": 16, "windows_of_others": 8} == read_on(evidence, test).evidence
