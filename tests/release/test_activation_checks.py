"""Super activations of two passes, by hand: grown, shrunk, moved, turned, gone, new."""

from __future__ import annotations

from types import SimpleNamespace

import pytest

from superweight.core.coordinates import Coordinate
from superweight.release.activation_checks import compare_activations
from superweight.release.limits import Limits
from superweight.release.result import DAMAGED, KEPT, NOT_COMPARABLE

PLACE = Coordinate(1, 41, 23)
LIMITS = Limits(magnitude_ratio=1.5, head_room=0.75)


def activation(magnitude=100.0, onset=1, channel=41, token=0):
    return SimpleNamespace(magnitude=magnitude, onset=onset, channel=channel, token=token, last=6)


def seen(*activations, places=(PLACE,)):
    return SimpleNamespace(super_activations=activations, coordinates=places, gains=(), making_gains=())


def found(release, *, stretch=1.0, head_room=0.1, where=""):
    """The checks by name, and the one of the activation."""
    checks = compare_activations(seen(activation()), release, head_room, LIMITS, stretch, where)
    return {check.name: check for check in checks}


NAME = "super activation on channel 41, token 0"


@pytest.mark.parametrize(
    ("magnitude", "stretch", "status", "excess"),
    [
        (100.0, 1.0, KEPT, 1 / 1.5),
        (149.0, 1.0, KEPT, 1.49 / 1.5),
        (151.0, 1.0, DAMAGED, 1.51 / 1.5),
        (68.0, 1.0, KEPT, 1 / 0.68 / 1.5),
        (66.0, 1.0, DAMAGED, 1 / 0.66 / 1.5),
        (5.0, 1.0, DAMAGED, 20 / 1.5),
        (200.0, 2.0, KEPT, 1 / 1.5),
        (100.0, 2.0, DAMAGED, 2 / 1.5),
        (float("nan"), 1.0, DAMAGED, None),
    ],
)
def test_an_activation_may_grow_or_shrink_by_the_same_factor(magnitude, stretch, status, excess):
    """One that shrank is as damaged as one that grew, each beside the stream it lies in."""
    check = found(seen(activation(magnitude)), stretch=stretch)[NAME]
    assert status == check.status
    if excess is not None:
        assert excess == pytest.approx(check.excess)


@pytest.mark.parametrize(
    ("stretch", "told"), [(1.0, False), (0.89, True), (0.91, False), (1.09, False), (1.1, True), (1.3, True)]
)
def test_a_stream_that_is_another_one_as_a_whole_is_told(stretch, told):
    """From a tenth on."""
    reason = found(seen(activation(stretch * 100)), stretch=stretch)[NAME].reason
    assert told is (f"the stream itself {stretch:.3g} times" in reason)


@pytest.mark.parametrize(
    ("release", "name", "words"),
    [
        (seen(), NAME, "is gone (it was 100)"),
        (seen(activation(onset=2)), NAME, "begins in block 2 instead of 1"),
        (seen(activation(-100.0)), NAME, "changed its sign"),
        (seen(activation(0.0)), NAME, "changed its sign"),
        (seen(activation(), activation(token=3)), "new super activations", "channel 41, token 3"),
        (seen(activation(), activation(channel=5)), "new super activations", "channel 5, token 0"),
        (seen(activation(), places=()), "makers", "[1, 41, 23] no longer makes the super activation"),
    ],
)
def test_what_no_limit_measures_is_damage(release, name, words):
    """By its place."""
    check = found(release)[name]
    assert DAMAGED == check.status
    assert words in check.reason


def test_two_models_without_any_are_not_compared():
    """Which is no pass."""
    bare = seen(places=())
    checks = compare_activations(bare, bare, 0.1, LIMITS)
    assert [NOT_COMPARABLE, KEPT] == [check.status for check in checks]


@pytest.mark.parametrize(("head_room", "status"), [(0.74, KEPT), (0.75, KEPT), (0.76, DAMAGED)])
def test_the_head_room_has_a_limit_of_its_own(head_room, status):
    """With the module that holds the largest number."""
    check = found(seen(activation()), head_room=head_room, where="layers.1.mlp")["head-room"]
    assert status == check.status
    assert f"the largest activation, in layers.1.mlp, takes {head_room:.2%}" in check.reason
