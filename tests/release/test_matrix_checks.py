"""What is read off one matrix and its counterpart: emptied rows and columns, peaks, other numbers."""

from __future__ import annotations

import numpy as np
import pytest

from superweight.release.extents import _SAMPLE, extents, in_memory
from superweight.release.matrix_checks import _both_experts, _emptied, _numbers
from superweight.release.tensor_names import Held


@pytest.fixture
def matrix():
    return np.random.default_rng(5).normal(size=(40, 60)).astype(np.float32)


def looked_at(before, after):
    return extents(in_memory(before), in_memory(after))


def emptied(before, after):
    return list(_emptied(before.shape, *looked_at(before, after)[:2]))


def peak(values):
    return looked_at(values, values)[0].peak


def other(before, after):
    return looked_at(before, after)[2]


def test_one_row_is_named_and_several_are_counted(matrix):
    """By its number, or by how many and the first of them."""
    one, several = matrix.copy(), matrix.copy()
    one[7] = 0
    several[[3, 9]] = 0
    assert ["row 7"] == emptied(matrix, one)
    assert ["2 rows (first 3)"] == emptied(matrix, several)
    assert ["column 3"] == emptied(matrix.T, np.where(np.arange(40) == 3, 0, matrix.T))


def test_as_many_empty_rows_as_before_are_no_loss(matrix):
    """Where channels were permuted an empty one lies elsewhere; one more is a loss."""
    base, moved, more = matrix.copy(), matrix.copy(), matrix.copy()
    base[7], moved[9], more[[7, 9]] = 0, 0, 0
    assert [] == emptied(base, moved)
    assert ["row 9"] == emptied(base, more)


def test_a_faint_row_may_be_rounded_away(matrix):
    """Below a hundredth of the median row it says nothing; at that it still does not, above it does."""
    for share, expected in ((0.5, []), (1.0, []), (2.0, ["row 7"])):
        base, after = np.ones((9, 4), np.float32), np.ones((9, 4), np.float32)
        base[7], after[7] = 0.01 * share, 0
        assert expected == emptied(base, after), share


def test_a_vector_has_neither_rows_nor_columns():
    """Of one dimension nothing is yielded."""
    assert [] == emptied(np.ones(9), np.zeros(9))


def test_a_peak_is_the_largest_over_the_median_of_what_is_not_zero():
    """Zeros, as of pruned matrices, do not count; where all are zero there is no peak."""
    assert 5.0 == peak(np.array([[0.0, 1.0], [1.0, 5.0], [0.0, 1.0]]))
    assert 1.0 == peak(np.zeros((3, 3)))


def test_of_a_large_matrix_a_sample_gives_the_median_and_all_of_it_the_largest():
    """Every second of twice as many numbers; the largest is found between them."""
    values = np.tile(np.array([2.0, 4.0]), _SAMPLE)
    values[1] = 100.0
    assert 50.0 == peak(values)
    values[0] = 200.0
    assert 100.0 == peak(values)


def test_a_peak_beyond_the_sample_whose_numbers_are_all_zero_is_none():
    """There is no median to hold it against."""
    values = np.zeros(2 * _SAMPLE)
    values[1] = 3.0
    assert 1.0 == peak(values)


@pytest.mark.parametrize(
    ("change", "share"),
    [
        (lambda values: values, 0.0),
        (lambda values: values * 1.5, 0.0),
        (lambda values: values * 1.8, 0.0),
        (lambda values: values * 2.0, 1.0),
        (lambda values: -values, 1.0),
        (lambda values: np.concatenate([values[1::-1], values[2:]]), 0.05),
        (lambda values: values[::-1], 1.0),
    ],
    ids=["same", "half as much again", "near to it", "doubled", "other sign", "two swapped", "turned round"],
)
def test_a_row_is_another_where_its_median_number_moves_by_nine_tenths(change, share, matrix):
    """Rounding and tuning move it by half of itself at most; another row moves it by 1.4 times."""
    assert share == pytest.approx(other(matrix, change(matrix)), abs=0.03)


def test_a_vector_is_one_row():
    """The gains of a norm are others or they are not."""
    gains = np.linspace(1, 2, 30)
    assert (0.0, 1.0) == (other(gains, gains * 1.2), other(gains, gains * 3))


def test_a_row_as_good_as_empty_is_noother():
    """Tokens that nobody trained hold noise, whatever it is."""
    base, after = np.ones((9, 4)), np.ones((9, 4))
    base[7], after[7] = 1e-4, -1e-4
    assert 0.0 == other(base, after)


def test_how_many_tensors_hold_other_numbers_is_told_as_a_change():
    """None is kept, within every limit; some are named, and their number is in the figures."""
    kept, told = _numbers([], 4), _numbers(["a", "b"], 4)
    assert ("kept", 0.0) == (kept.status, kept.excess)
    assert ("changed", {"tensors": 2, "of": 4}) == (told.status, told.figures)
    assert "2 of 4 tensors hold other numbers than the base's: a, b" == told.reason


@pytest.mark.parametrize(
    ("was", "now", "expected"),
    [
        (((0,), False), ((1,), False), True),
        (((0,), True), ((1,), True), True),
        (((0,), False), ((1,), True), False),
        (((0,), True), ((1,), False), False),
        ((None, False), ((1,), False), False),
        (((0,), False), (None, False), False),
    ],
)
def test_experts_are_held_against_each_other_where_both_have_gate_and_up_alike(was, now, expected):
    """Both fused or both not; what is no expert is compared otherwise."""
    sides = [Held(**held(*side)) for side in (was, now)]
    assert expected is _both_experts(*sides)


def held(leading, fused):
    return {"name": "x", "info": None, "plain": True, "leading": leading, "fused": fused}
