"""A planted super weight is found wherever it is planted, and nothing else is."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from superweight.core.coordinates import Coordinate
from superweight.core.errors import HarnessError
from superweight.detection.detect import detect
from superweight.detection.run_trace import trace, trace_batch
from superweight.detection.scan import NONE_FOUND, SUPPRESSED, scan
from superweight.model.edits import Prune, edited
from tests.helpers.live_models import activity, random_llama, set_scalars

BLOCKS, HIDDEN, INTERMEDIATE = 5, 32, 48
TEXT = "A short prompt."


@pytest.fixture(scope="module")
def random_subject(planted):
    """A randomly initialised Llama in the tokenizer of the tiny models."""
    return random_llama(
        planted,
        seed=3,
        vocab_size=257,
        hidden_size=HIDDEN,
        intermediate_size=INTERMEDIATE,
        num_hidden_layers=BLOCKS,
        num_attention_heads=4,
    )


@st.composite
def places(draw):
    # The last block has no later one that could carry the activation.
    layer = draw(st.integers(0, BLOCKS - 2))
    return Coordinate(layer, draw(st.integers(0, HIDDEN - 1)), draw(st.integers(0, INTERMEDIATE - 1)))


def plant(subject, place):
    """Return the scalar whose product is 1000 at the token where its neuron is most active."""
    return 1000.0 / activity(subject, place, TEXT)


@settings(max_examples=40, deadline=None)
@given(place=places())
def test_a_planted_super_weight_is_found_and_nothing_else(random_subject, place):
    """Any row and column of any block that has a later one; the scan prunes it and stops."""
    value = plant(random_subject, place)
    with set_scalars(random_subject, {place: value}):
        found = scan(random_subject, TEXT)
    assert (place,) == found.coordinates
    assert SUPPRESSED == found.stop_reason
    assert 1 == found.passes


def test_a_spike_of_the_last_block_costs_no_second_pass(random_subject):
    """It stands out as far, and could never span enough blocks to be guessed at."""
    place, late = Coordinate(1, 3, 5), Coordinate(BLOCKS - 1, 7, 9)
    with set_scalars(random_subject, {place: plant(random_subject, place)}):
        value = plant(random_subject, late)  # for the stream that the other makes
        with set_scalars(random_subject, {late: value}):
            spike = abs(trace(random_subject, TEXT).arrived[late.layer][:, late.row]).max()
            found = scan(random_subject, TEXT)
    assert 1000 == pytest.approx(spike, rel=0.01)
    assert ((place,), SUPPRESSED, 1) == (found.coordinates, found.stop_reason, found.passes)


@settings(max_examples=10, deadline=None)
@given(text=st.text(st.characters(codec="ascii"), min_size=1, max_size=40))
def test_nothing_planted_nothing_found(random_subject, text):
    """An unplanted model has no super weight, whatever it reads."""
    found = scan(random_subject, text)
    assert () == found.coordinates
    assert NONE_FOUND == found.stop_reason


@settings(max_examples=15, deadline=None)
@given(texts=st.lists(st.text(min_size=1, max_size=30), min_size=1, max_size=5))
def test_detection_depends_on_neither_prompt_batch_nor_padding(planted, texts):
    """Every text finds the one coordinate, alone or padded in a batch with others."""
    expected = {Coordinate(1, 41, 23)}
    together = trace_batch(planted, [planted.encode(text) for text in texts])
    for text, batched in zip(texts, together, strict=True):
        assert expected == detect(batched).coordinates
        assert expected == detect(trace(planted, text)).coordinates


def test_detection_does_not_depend_on_edits_made_before(planted):
    """A scan after an edit was undone finds what it found before; a scan meanwhile is refused."""
    before = scan(planted, TEXT)
    with edited(planted, [Prune(Coordinate(1, 41, 23))]), pytest.raises(HarnessError, match="being edited"):
        scan(planted, TEXT)
    assert before.coordinates == scan(planted, TEXT).coordinates


def test_a_spike_of_the_last_block_is_no_super_activation(random_subject):
    """Nothing carries what the last block writes: it is no super weight, however large."""
    place = Coordinate(BLOCKS - 1, 3, 4)
    with set_scalars(random_subject, {place: plant(random_subject, place)}):
        assert () == scan(random_subject, TEXT).coordinates
