"""Weights that are no super weights: the largest others, and seeded random ones."""

import pytest
import torch

from superweight.checkpoints.registry import resolve
from superweight.core.coordinates import Coordinate
from superweight.core.errors import HarnessError
from superweight.measurement.controls import (
    distinct_from,
    largest_of_each_matrix,
    largest_of_matrix,
    random_of_same_matrices,
)
from superweight.model.loading import load

PLANTED = Coordinate(1, 41, 23)


@pytest.fixture(scope="module")
def subject():
    return load(resolve("tiny-planted"), device="cpu")


def magnitudes(subject, layer):
    """Every place of a matrix with its magnitude, largest first."""
    weight = subject.architecture.projections[layer].weight()
    places = [(abs(float(v)), r, c) for r, row in enumerate(weight) for c, v in enumerate(row)]
    return sorted(places, reverse=True)


def test_takes_the_largest_weight_of_every_matrix(subject):
    """The paper's share is less than one weight of a tiny matrix, so one of each is taken."""
    chosen = largest_of_each_matrix(subject, ())
    assert list(range(len(subject.architecture.projections))) == [place.layer for place in chosen]
    assert PLANTED in chosen
    for place in chosen:
        weight = subject.architecture.projections[place.layer].weight()
        assert float(weight.abs().max()) == abs(float(weight[place.row, place.col]))


def test_what_is_excluded_is_replaced_by_the_next_largest(subject):
    """Without the planted weight its matrix still gives one: the second largest."""
    chosen = largest_of_each_matrix(subject, [PLANTED])
    assert PLANTED not in chosen
    assert 4 == len(chosen)
    second = magnitudes(subject, 1)[1]
    assert second[0] == abs(float(subject.architecture.projections[1].weight()[chosen[1].row, chosen[1].col]))


def test_the_share_is_of_each_matrix_and_rounds_up(subject):
    """A thousandth of 64 x 160 weights is 10.24, so 11 of each of four matrices."""
    chosen = largest_of_each_matrix(subject, [PLANTED], share=1e-3)
    assert {0: 11, 1: 11, 2: 11, 3: 11} == {
        layer: sum(place.layer == layer for place in chosen) for layer in range(4)
    }


def test_takes_as_many_of_one_matrix_as_asked_for(subject):
    """The count holds whatever is excluded, and it is the largest that are taken, in order."""
    elsewhere = Coordinate(0, 0, 0)
    chosen = largest_of_matrix(subject.architecture.projections[1], [PLANTED, elsewhere], 5)
    weight = subject.architecture.projections[1].weight()
    taken = [abs(float(weight[place.row, place.col])) for place in chosen]
    assert [value for value, *_ in magnitudes(subject, 1)[1:6]] == taken
    assert {1} == {place.layer for place in chosen}


def test_a_negative_weight_counts_by_its_magnitude(subject):
    """The largest weights of a matrix include negative ones."""
    weight = subject.architecture.projections[0].weight()
    signs = {
        bool(weight[place.row, place.col] < 0)
        for place in largest_of_matrix(subject.architecture.projections[0], (), 50)
    }
    assert {True, False} == signs


def test_a_whole_matrix_has_no_more_than_its_weights(subject):
    """Asked for more than there is, all but the excluded are given."""
    chosen = largest_of_matrix(subject.architecture.projections[1], [PLANTED], 10**6)
    assert 64 * 160 - 1 == len(set(chosen)) == len(chosen)


def test_random_weights_come_from_the_matrices_of_the_treated(subject):
    """Each treated weight gets as many from its own matrix, all different, none of them treated."""
    treated = [PLANTED, Coordinate(3, 0, 0), Coordinate(3, 0, 1)]
    chosen = random_of_same_matrices(subject, treated, per_weight=7)
    assert {1: 7, 3: 14} == {layer: sum(place.layer == layer for place in chosen) for layer in (1, 3)}
    assert 21 == len(set(chosen))
    assert set(treated).isdisjoint(chosen)


def test_random_weights_are_inside_their_matrix(subject):
    """Every coordinate names a weight, rows being channels and columns neurons."""
    chosen = random_of_same_matrices(subject, [PLANTED], per_weight=500)
    assert 64 > max(place.row for place in chosen)
    assert 160 > max(place.col for place in chosen)
    assert 64 <= max(place.col for place in chosen), "columns are drawn from all neurons"


def test_random_weights_are_the_same_every_time(subject):
    """The draw is seeded, and torch's global state has no part in it."""
    torch.manual_seed(1)
    first = random_of_same_matrices(subject, [PLANTED], per_weight=5)
    torch.manual_seed(2)
    assert first == random_of_same_matrices(subject, [PLANTED], per_weight=5)


def test_a_control_that_holds_the_treatment_is_refused():
    """What is pruned as a control must not be what the claim is about."""
    with pytest.raises(HarnessError, match=r"the control prunes \[1, 41, 23\], which is the treatment"):
        distinct_from([Coordinate(0, 0, 0), PLANTED], [PLANTED])


def test_an_empty_control_is_refused(subject):
    """Pruning nothing has no effect and would make any treatment look large."""
    with pytest.raises(HarnessError, match="the control prunes nothing"):
        distinct_from([], [PLANTED])
    with pytest.raises(HarnessError, match="the control prunes nothing"):
        random_of_same_matrices(subject, [], per_weight=3)


def test_a_distinct_control_is_returned_as_it_is():
    """Order is kept, so that the same control is pruned the same way."""
    chosen = (Coordinate(2, 0, 0), Coordinate(0, 0, 0))
    assert chosen == distinct_from(iter(chosen), [PLANTED])
