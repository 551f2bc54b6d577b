"""C1 where what is published conflicts, is partly stated, or gives a magnitude."""

from __future__ import annotations

from dataclasses import replace
from decimal import Decimal
from types import SimpleNamespace

import pytest

from superweight.checkpoints.agreement import compare_sets, nearest
from superweight.checkpoints.published import PublishedActivation, PublishedScalar, PublishedSet
from superweight.checkpoints.registry import ModelEntry
from superweight.claims.evidence import Evidence
from superweight.claims.paper import location
from superweight.core.coordinates import Coordinate

RIGHT, WRONG, OTHER = Coordinate(1, 41, 23), Coordinate(2, 41, 23), Coordinate(1, 42, 23)


def a_set(*places, cited="someone"):
    return PublishedSet(cited, tuple(PublishedScalar(place) for place in places))


@pytest.fixture
def judged(planted):
    """Judge C1 on the planted model as if this were published of it."""

    def judge(**published):
        entry = ModelEntry("m", "m", cited="main", **published)
        return location.judge(Evidence(replace(planted, entry=entry), "builtin"))

    return judge


def test_the_reading_that_fits_best_counts_and_is_named(judged):
    """A misprint beside the right place: supported, and the evidence says by which set."""
    verdict = judged(
        super_weights=a_set(WRONG).super_weights, other_readings=(a_set(RIGHT, cited="the code"),)
    )
    assert "supported" == verdict.status
    said = list(verdict.evidence["readings"])
    assert said[0].startswith("main ([2, 41, 23]): not supported: [2, 41, 23] is published but not found")
    assert "the code ([1, 41, 23]): supported" == said[1]


def test_no_reading_that_fits_refutes(judged):
    """Two wrong sets do not make a right one."""
    verdict = judged(super_weights=a_set(WRONG).super_weights, other_readings=(a_set(OTHER),))
    assert "refuted" == verdict.status
    assert not any("): supported" in line for line in verdict.evidence["readings"])


def test_a_reading_nobody_trusts_is_told_and_not_demanded(judged):
    """Where no set is held to be right, only the activation is asked for; the other set is reported."""
    verdict = judged(super_activation=PublishedActivation(onset=1), other_readings=(a_set(WRONG),))
    assert "supported" == verdict.status
    assert "not supported" in verdict.evidence["readings"][0]


def test_without_a_conflict_nothing_is_said_of_readings(judged):
    """Baselines of models without a conflict have no such field."""
    assert "readings" not in judged(super_weights=a_set(RIGHT).super_weights).evidence


@pytest.mark.parametrize(
    ("factor", "status"), [(1.0, "supported"), (1.25, "supported"), (0.5, "refuted"), (2.0, "refuted")]
)
def test_a_published_magnitude_is_held_to_what_prompts_vary_by(judged, planted, factor, status):
    """Within 30 % it is another prompt, beyond that another activation."""
    found = Evidence(planted, "builtin").scan.strongest
    activation = PublishedActivation(onset=1, magnitude=factor * abs(found.magnitude))
    verdict = judged(super_activation=activation)
    assert status == verdict.status
    assert (status == "refuted") == any("magnitude" in line for line in verdict.evidence["differences"])


@pytest.mark.parametrize("published", [0, 2])
def test_an_onset_alone_is_compared(judged, published):
    """The block is enough to be wrong about, in either direction."""
    verdict = judged(super_activation=PublishedActivation(onset=published))
    assert [f"onset block of the super activation: published {published}, found 1"] == list(
        verdict.evidence["differences"]
    )


def test_where_nothing_is_published_one_activation_is_enough(judged):
    """The claim is then that there is one at all; where there is none, it says nothing."""
    verdict = judged()
    (criterion,) = verdict.criteria
    assert ("supported", 1, 1) == (verdict.status, criterion.statistic.value, criterion.threshold)


def test_equal_places_are_no_difference_however_large():
    """Channels go to tens of thousands, where Python keeps one object for each mention."""
    found = SimpleNamespace(strongest=SimpleNamespace(channel=int("3968"), onset=2, token=0, magnitude=1.0))
    entry = ModelEntry("m", "m", super_activation=PublishedActivation(onset=2, channel=3968))
    assert [] == location._activation_differences(entry, found)


@pytest.mark.parametrize(
    ("channel", "said"),
    [
        (None, "published: a super activation; found: none"),
        (41, "published: a super activation on channel 41; found: none"),
    ],
)
def test_a_published_activation_that_is_not_there_is_a_difference(plain, channel, said):
    """With its channel, where one is published; and without anything published nothing is said."""
    activation = PublishedActivation(onset=1, channel=channel)
    entries = [ModelEntry("m", "m", cited="main", **row) for row in ({"super_activation": activation}, {})]
    gone, unknown = (location.judge(Evidence(replace(plain, entry=each), "builtin")) for each in entries)
    assert ("refuted", [said]) == (gone.status, gone.evidence["differences"])
    assert "not applicable" == unknown.status


def test_values_tell_sets_apart_that_share_their_places():
    """Compared to the digits: of two sets at one place, the one with the value that was found is nearest."""
    sets = [PublishedSet(name, (PublishedScalar(RIGHT, Decimal(name)),)) for name in ("4.50", "4.00")]
    held = compare_sets(sets, {RIGHT: 4.0}, 0.0)
    assert (False, True) == tuple(each.supported for each in held)
    assert sets[1] is nearest(held).reading
