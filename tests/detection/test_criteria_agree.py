"""The criteria in torch, which guess during a pass, find what the criteria in numpy find after it."""

from __future__ import annotations

from unittest.mock import patch

from hypothesis import given, settings
from hypothesis import strategies as st

from superweight.core.coordinates import Coordinate
from superweight.detection import speculative
from superweight.detection.detect import detect
from superweight.detection.run_trace import trace
from superweight.detection.scan import scan

TEXT = "The bridge was closed."
PLACE = Coordinate(1, 41, 23)

EXPONENTS = st.floats(-1.5, 1.5)


@st.composite
def planted_scalars(draw):
    """The super weight made smaller or larger, of either sign, and another scalar beside it."""
    layer, row, col = draw(st.integers(0, 2)), draw(st.integers(0, 47)), draw(st.integers(0, 95))
    sign = draw(st.sampled_from([-1.0, 1.0]))
    scalars = {PLACE: sign * 4 * 10 ** draw(EXPONENTS)}
    if (layer, row, col) != (1, 41, 23):
        scalars[Coordinate(layer, row, col)] = draw(st.sampled_from([-1.0, 1.0])) * 10 ** draw(EXPONENTS)
    return scalars


def with_scalars(subject, scalars, look):
    """Look at a subject in which some scalars have other values; they are put back."""
    weights = {place: subject.architecture.projection(place).weight() for place in scalars}
    stored = {place: float(weights[place][place.row, place.col]) for place in scalars}
    try:
        for place, value in scalars.items():
            weights[place][place.row, place.col] = value
        return look()
    finally:
        for place, value in stored.items():
            weights[place][place.row, place.col] = value


@settings(deadline=None, max_examples=40, derandomize=True)
@given(scalars=planted_scalars())
def test_what_is_guessed_in_the_pass_is_what_is_detected_after_it(planted, scalars):
    """The copy that ran to the end was pruned of exactly the set that detection finds."""

    def look():
        with speculative.speculative_pruning(planted) as foresight:
            found = detect(trace(planted, TEXT, foresight.look)).coordinates
        return found, foresight.foreseen(len(planted.architecture.blocks))

    found, foreseen = with_scalars(planted, scalars, look)
    assert found == (foreseen.pruned if foreseen is not None else frozenset())


@settings(deadline=None, max_examples=25, derandomize=True)
@given(scalars=planted_scalars())
def test_a_scan_finds_the_same_without_guessing(planted, scalars):
    """Guessing saves a pass and changes neither the set nor why the scan ended."""
    guessing = with_scalars(planted, scalars, lambda: scan(planted, TEXT))
    with patch.object(speculative.SpeculativePruning, "look", lambda self, write: None):
        plain = with_scalars(planted, scalars, lambda: scan(planted, TEXT))
    assert (plain.coordinates, plain.stop_reason) == (guessing.coordinates, guessing.stop_reason)
    assert guessing.passes <= plain.passes
