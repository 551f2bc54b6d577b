"""Whether what a model writes has collapsed: loops and repetition, counted on ids alone."""

import pytest

from superweight.measurement.generation import Continuation


def written(*ids):
    return Continuation("prompt", ids, "text")


@pytest.mark.parametrize("period", [1, 2, 3, 10])
def test_a_stretch_four_times_to_the_end_is_a_loop(period):
    """Any stretch of up to ten tokens loops when it is repeated four times."""
    assert written(*(list(range(period)) * 4)).loops


@pytest.mark.parametrize("period", [1, 2, 3, 10])
def test_three_times_may_be_rhetoric(period):
    """The same stretch three times is no loop."""
    assert not written(99, *(list(range(period)) * 3)).loops


def test_a_stretch_of_eleven_is_too_long_to_be_a_loop():
    """Repeating a whole sentence of more than ten tokens is repetition, but not this kind."""
    assert not written(*(list(range(11)) * 4)).loops


def test_a_loop_may_come_after_other_text():
    """What counts is the end."""
    assert written(1, 2, 3, 4, 5, *[7, 8] * 4).loops


def test_a_loop_that_was_left_again_is_none():
    """A single other token at the end shows that the model still can."""
    assert not written(*[7, 8] * 8, 9).loops


def test_a_loop_may_break_off_inside_its_stretch():
    """The last repetition need not be complete for the end to be periodic."""
    assert written(*[1, 2, 3] * 5, 1).loops


@pytest.mark.parametrize("ids", [(), (1,), (1, 1, 1)], ids=["nothing", "one", "three"])
def test_too_little_text_is_no_loop(ids):
    """Fewer than four tokens cannot repeat anything four times."""
    assert not written(*ids).loops


@pytest.mark.parametrize(
    ("ids", "share"),
    [
        ((1, 2, 3, 4, 5, 6), 0.0),
        ((1, 2, 3, 4, 1, 2, 3, 4), 0.2),
        ((1,) * 40, 1 - 1 / 37),
        ((1, 2, 3), 0.0),
        ((), 0.0),
    ],
    ids=["fresh", "one of five", "loop", "too short", "nothing"],
)
def test_counts_4_grams_that_occurred_before(ids, share):
    """The share is of all 4-grams; text without any repeats none."""
    assert share == pytest.approx(written(*ids).repeated_4grams)


@pytest.mark.parametrize(
    ("ids", "share"),
    [((1, 2, 3), 1.0), ((1, 2, 1, 2), 2 / 3), ((1,) * 5, 0.25), ((1,), 1.0), ((), 1.0)],
    ids=["fresh", "two of three", "loop", "one token", "nothing"],
)
def test_counts_2_grams_that_differ(ids, share):
    """The share is of all 2-grams, and order matters within one."""
    assert share == pytest.approx(written(*ids).distinct_2)
