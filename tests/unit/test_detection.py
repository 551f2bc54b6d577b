"""Detection is algebra: these traces are written down, no model makes them."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pytest

from harness.coordinates import Coordinate
from harness.detection import COMPANION, detect
from harness.trace import Trace, Write

BLOCKS, TOKENS, HIDDEN, INTERMEDIATE = 8, 3, 16, 6


@dataclass
class Rows:
    matrices: np.ndarray

    def row(self, layer, channel, expert=None):
        return self.matrices[layer, channel]


def written(*writes):
    """Return the trace of a stream of ones to which each (layer, token, row, col, x, w) is added."""
    inputs = np.full((BLOCKS, TOKENS, INTERMEDIATE), 0.1, dtype=np.float32)
    matrices = np.zeros((BLOCKS, HIDDEN, INTERMEDIATE), dtype=np.float32)
    for layer, token, row, col, x, w in writes:
        inputs[layer, token, col] = x
        matrices[layer, row, col] = w
    outputs = np.einsum("ltk,ljk->ltj", inputs, matrices)
    start = np.ones((1, TOKENS, HIDDEN), dtype=np.float32)
    residual = np.concatenate([start, start + np.cumsum(outputs, axis=0)])
    every, ones = np.arange(TOKENS), np.ones(TOKENS, dtype=np.float32)
    writes = tuple((Write(None, every, x, y, ones),) for x, y in zip(inputs, outputs, strict=True))
    return Trace(writes, tuple(outputs), residual, Rows(matrices))


def test_the_scalar_whose_product_makes_the_write_is_found():
    """Layer, row, column, token, onset, plateau and share are those that were written."""
    found = detect(written((2, 0, 5, 3, 100.0, 8.0)))
    (weight,), (activation,) = found.super_weights, found.super_activations
    assert Coordinate(2, 5, 3) == weight.coordinate
    assert (8.0, 100.0, 0) == (weight.value, weight.input, weight.token)
    assert 1.0 == pytest.approx(weight.share)
    assert (5, 0, 2, 7) == (activation.channel, activation.token, activation.onset, activation.last)
    assert 801.0 == activation.magnitude


def test_two_scalars_that_share_the_write_are_both_found():
    """Three quarters and a quarter, as in SmolLM2-135M."""
    found = detect(written((2, 0, 5, 3, 100.0, 7.5), (2, 0, 5, 1, 50.0, 5.0)))
    assert {Coordinate(2, 5, 3), Coordinate(2, 5, 1)} == found.coordinates


def test_a_later_block_that_adds_to_it_is_found_too():
    """OLMo's sets span blocks: both writers belong to the set, the onset is the first."""
    found = detect(written((1, 0, 5, 3, 100.0, 8.0), (2, 0, 5, 4, 100.0, 6.0)))
    assert {Coordinate(1, 5, 3), Coordinate(2, 5, 4)} == found.coordinates
    assert 1 == found.super_activations[0].onset


def test_the_late_block_that_writes_it_away_is_a_canceller():
    """A spike as large, of the opposite sign, after most blocks: no super weight."""
    found = detect(written((1, 0, 5, 3, 100.0, 8.0), (6, 0, 5, 2, 100.0, -7.0)))
    assert {Coordinate(1, 5, 3)} == found.coordinates
    assert [Coordinate(6, 5, 2)] == [item.coordinate for item in found.cancellers]
    assert 5 == found.super_activations[0].last


@pytest.mark.parametrize("layer", [6, 7])
def test_a_late_spike_is_nothing(layer):
    """What is written two blocks before the head, or in the last, does not span the model."""
    late = written((layer, 0, 5, 3, 100.0, 8.0), *([] if layer == 7 else [(7, 0, 5, 2, 100.0, -8.0)]))
    assert () == detect(late).super_activations


def test_an_orphaned_input_spike_is_nothing():
    """A neuron that is wildly active while its scalar is zero writes nothing."""
    assert frozenset() == detect(written((2, 0, 5, 3, 1000.0, 0.0))).coordinates


def test_input_and_output_must_meet_at_one_token():
    """An input spike at one token does not explain an output spike at another."""
    found = detect(written((2, 0, 5, 3, 100.0, 8.0), (2, 1, 9, 1, 500.0, 0.001)))
    assert {Coordinate(2, 5, 3)} == found.coordinates


@pytest.mark.parametrize(("share", "kept"), [(COMPANION * 0.9, 1), (COMPANION * 1.1, 2)])
def test_companions_are_told_apart_by_the_largest_activation(share, kept):
    """A second channel counts from the stated share of the first one on."""
    found = detect(written((2, 0, 5, 3, 100.0, 80.0), (2, 0, 9, 4, 100.0, 80.0 * share)))
    assert kept == len(found.super_activations)


def test_an_activation_that_the_embedding_has_already_is_made_by_no_block():
    """It has no onset, so nothing is found."""
    trace = written((2, 0, 5, 3, 1.0, 0.001))
    trace.residual[:, 0, 5] = 900
    assert () == detect(trace).super_activations


def test_one_that_dies_out_soon_does_not_persist():
    """Written at block 1 and gone at 3: most of the later blocks never see it."""
    found = detect(written((1, 0, 5, 3, 100.0, 8.0), (3, 0, 5, 2, 100.0, -8.0)))
    assert () == found.super_activations


def test_the_sign_is_kept():
    """A negative activation is made by a negative product, and cancelled by a positive one."""
    found = detect(written((1, 0, 5, 3, 100.0, -8.0), (6, 0, 5, 2, 100.0, 7.0)))
    assert {Coordinate(1, 5, 3)} == found.coordinates
    assert found.super_activations[0].magnitude < 0
    assert [Coordinate(6, 5, 2)] == [item.coordinate for item in found.cancellers]
