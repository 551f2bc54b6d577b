"""How much is left: by what stages usually take, and by how fast it has gone so far."""

import pytest

from superweight.cli.progress import ONCE, Estimate


class Clock:
    """A clock that is set by hand."""

    now = 0.0

    def __call__(self):
        return self.now


@pytest.fixture
def clock():
    return Clock()


def test_before_anything_is_done_the_usual_time_is_left(clock):
    """The first estimate is there at once, and counts down within a stage."""
    estimate = Estimate({"loading": 10, "C3": 50}, clock)
    assert (60, 0) == (estimate.left, estimate.share)
    estimate.begin("loading a model")
    clock.now = 4
    assert 56 == estimate.left
    assert 4 / 60 == estimate.share


def test_what_is_done_says_how_fast_the_machine_is(clock):
    """A stage that took twice its usual time doubles what is left."""
    estimate = Estimate({"loading": 10, "C3": 50}, clock)
    estimate.begin("loading a model")
    clock.now = 20
    estimate.begin("C3: a claim")
    assert 100 == estimate.left
    clock.now = 50
    assert 70 == estimate.left
    clock.now = 900
    assert 0 == estimate.left


def test_steps_that_share_a_word_are_one_stage(clock):
    """Their usual time is that of all of them together."""
    estimate = Estimate({"INT4": 60, "W8A8": 10}, clock)
    for clock.now, step in ((0, "INT4, blocks of 64"), (20, "INT4, blocks of 1024"), (40, "INT4, rest")):
        estimate.begin(step)
    assert 30 == estimate.left


def test_a_stage_that_is_not_known_takes_no_time(clock):
    """It neither counts down nor sets the pace."""
    estimate = Estimate({"loading": 10}, clock)
    estimate.begin("something new")
    clock.now = 3
    assert 10 == estimate.left


def test_what_only_the_first_run_does_is_counted_when_it_begins(clock):
    """A download and a conversion are not expected, and have their usual time once they are there."""
    estimate = Estimate({"loading": 2, "scanning": 1}, clock)
    estimate.begin("loading m")
    assert 3 == estimate.left
    clock.now = 2
    estimate.begin("converting m.gguf, once")
    assert ONCE["converting"] + 1 == estimate.left
