"""Detection is algebra: these traces are written down, no model makes them."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import pytest

from superweight.core.coordinates import Coordinate
from superweight.core.errors import UnknownArchitecture
from superweight.detection.detect import COMPANION, detect, find_super_activations
from superweight.detection.trace import Trace, Write

BLOCKS, TOKENS, HIDDEN, INTERMEDIATE = 8, 3, 16, 6


@dataclass
class Rows:
    matrices: np.ndarray

    def row(self, layer, channel, expert=None):
        return self.matrices[layer, channel]


def written(*writes, carry=(1.0,) * BLOCKS):
    """Return the trace of a stream of ones to which each (layer, token, row, col, x, w) is added.

    ``carry`` is what each block multiplies the stream with that it is given.
    """
    inputs = np.full((BLOCKS, TOKENS, INTERMEDIATE), 0.1, dtype=np.float32)
    matrices = np.zeros((BLOCKS, HIDDEN, INTERMEDIATE), dtype=np.float32)
    for layer, token, row, col, x, w in writes:
        inputs[layer, token, col] = x
        matrices[layer, row, col] = w
    outputs = np.einsum("ltk,ljk->ltj", inputs, matrices)
    residual = [np.ones((TOKENS, HIDDEN), dtype=np.float32)]
    for factor, output in zip(carry, outputs, strict=True):
        residual.append(np.float32(factor) * residual[-1] + output)
    every, ones = np.arange(TOKENS), np.ones(TOKENS, dtype=np.float32)
    writes = tuple((Write(None, every, x, y, ones),) for x, y in zip(inputs, outputs, strict=True))
    return Trace(writes, tuple(outputs), np.stack(residual), Rows(matrices), carry=tuple(carry))


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


def course(*values):
    """Return the trace of a model in which one channel of token 0 takes this course, all others being 1."""
    trace = written()
    trace.residual[:, 0, 5] = values
    return trace


@pytest.mark.parametrize(
    ("values", "plateau"),
    [
        ((1, *[1000] * 8), (0, 7)),
        ((1, 1, *[1000] * 7), (1, 7)),
        ((1000,) * 9, None),
        # Half of the peak in the embedding already.
        ((500, *[1000] * 8), None),
        ((499, *[1000] * 8), (0, 7)),
        # Half of the peak is carried, less is not, on either side of it.
        ((1, 1, 500, 1000, 500, 500, 500, 1, 1), (1, 5)),
        ((1, 1, 500, 1000, 500, 500, 499, 1, 1), None),
        ((1, 1, 499, 1000, 1000, 1000, 1000, 1, 1), (2, 5)),
        # Exactly half of the later blocks is too few; a quarter of all blocks is enough.
        ((1, 1, 1000, 1000, 1000, 1000, 1, 1, 1), None),
        ((1, 1, 1, 1, 1, 1, 1, 1000, 1000), (6, 7)),
        ((1, 1, 1, 1, 1, 1, 1, 1, 1000), None),
        # Another sign is another activation.
        ((1, 1, 1000, 1000, 1000, -1000, 1000, 1000, 1000), None),
        ((1, 1, -1000, -1000, -1000, 1000, -1000, -1000, -1000), None),
        # A hundred medians are not above a hundred medians.
        ((1, 1, *[100] * 7), None),
        ((1, 1, *[100.5] * 7), (1, 7)),
        # It must stand out where it begins.
        ((1, 1, 60, *[110] * 6), None),
    ],
)
def test_a_plateau_begins_and_ends_where_it_is_carried(values, plateau):
    """Onset and last block for a course through embedding and eight blocks, or nothing."""
    found = find_super_activations(course(*values))
    assert ([] if plateau is None else [plateau]) == [(item.onset, item.last) for item in found]


@pytest.mark.parametrize(("blocks", "found"), [(8, 1), (9, 0)])
def test_two_blocks_before_the_head_span_too_little_of_a_deep_model(blocks, found):
    """They outlive all that comes after, but are less than a quarter of nine blocks."""
    residual = np.ones((blocks + 1, TOKENS, HIDDEN), dtype=np.float32)
    residual[-2:, 0, 5] = 1000
    assert found == len(find_super_activations(Trace(((),) * blocks, (), residual, Rows(residual))))


def test_exactly_a_quarter_of_the_largest_is_no_companion():
    """The bound itself counts."""
    trace = course(1, 1, *[1000] * 7)
    trace.residual[2:, 0, 9] = 1000 * COMPANION
    assert [5, 9] == [item.channel for item in find_super_activations(trace)]


def test_nothing_stands_out_of_a_block_of_zeros():
    """Its median is zero, above which everything would."""
    values = (1, 1, 1, *[1000] * 6)
    sound = find_super_activations(course(*values))
    assert [(2, 7)] == [(item.onset, item.last) for item in sound]
    trace = course(*values)
    trace.residual[3] = 0
    trace.residual[3, 0, 5] = 1000
    assert () == find_super_activations(trace)


def test_the_largest_activation_comes_first():
    """Whatever its channel."""
    found = detect(written((2, 0, 9, 4, 100.0, 80.0), (2, 0, 5, 3, 100.0, 40.0)))
    assert [9, 5] == [item.channel for item in found.super_activations]


@pytest.mark.parametrize(("part", "explained"), [(0.5, True), (2.0, True), (0.49, False), (2.01, False)])
def test_a_write_must_arrive_in_the_stream(part, explained):
    """Within a factor of two; otherwise something unknown stands between, and nothing is measured."""
    trace = written((2, 0, 5, 3, 100.0, 8.0))
    trace.residual[3:, 0, 5] = 1 + 800 * part
    if explained:
        assert {Coordinate(2, 5, 3)} == detect(trace).coordinates
    else:
        with pytest.raises(UnknownArchitecture, match="block 2 writes 800 to channel 5"):
            detect(trace)


def test_only_the_onset_block_is_held_to_what_it_writes():
    """Attention adds to the write there, and the next block more: neither is anything unknown."""
    trace = written((2, 0, 5, 3, 100.0, 6.0))
    trace.residual[3, 0, 5] = 1 + 1000
    trace.residual[4:, 0, 5] = 1 + 1300
    assert {Coordinate(2, 5, 3)} == detect(trace).coordinates


@pytest.mark.parametrize(("weight", "refused"), [(0.99, False), (1.0, True)])
def test_a_write_of_a_tenth_must_arrive_and_less_explains_nothing(weight, refused):
    """Of an activation of 1,000 the block writes 99 or 100, and something else brought the rest."""
    trace = written((2, 0, 5, 3, 100.0, weight))
    trace.residual[:, 0, 5] = (0, 0, 0, *[1000] * 6)
    if refused:
        with pytest.raises(UnknownArchitecture, match="block 2 writes 100 to channel 5"):
            detect(trace)
    else:
        assert () == detect(trace).super_weights


def test_a_write_that_the_stream_hardly_shows_is_refused():
    """The block writes 800 at the onset, and the stream changes by 80."""
    trace = written((2, 0, 5, 3, 100.0, 8.0))
    trace.residual[:, 0, 5] = (450, 450, 450, 530, *[1000] * 5)
    with pytest.raises(UnknownArchitecture, match="changes by 80 there"):
        detect(trace)


def test_a_block_that_writes_exactly_a_tenth_belongs_to_the_set():
    """Pruning it takes a tenth away; so does a scalar whose product is a tenth of the peak."""
    blocks = written((2, 0, 5, 3, 100.0, 9.0), (3, 0, 5, 4, 100.0, 1.0))
    blocks.residual[:, 0, 5] -= 1
    assert {Coordinate(2, 5, 3), Coordinate(3, 5, 4)} == detect(blocks).coordinates
    scalars = written((2, 0, 5, 3, 100.0, 9.0), (2, 0, 5, 4, 100.0, 1.0))
    scalars.residual[:, 0, 5] -= 1
    assert {Coordinate(2, 5, 3), Coordinate(2, 5, 4)} == detect(scalars).coordinates


def test_the_core_makes_a_tenth_of_the_activation_and_companions_less():
    """A twentieth of the peak is half a tenth: seen, told with its part, and not pruned with the core."""
    found = detect(written((2, 0, 5, 3, 100.0, 9.5), (2, 0, 5, 4, 100.0, 0.5), (3, 0, 5, 2, 100.0, 1.5)))
    assert {Coordinate(2, 5, 3), Coordinate(3, 5, 2)} == found.coordinates
    assert pytest.approx(0.13, abs=0.01) == found.parts[Coordinate(3, 5, 2)]
    # A sixth of its block's write, and that write a sixth of the peak: a thirtieth of the activation.
    shared = detect(written((2, 0, 5, 3, 100.0, 9.0), (3, 0, 5, 2, 100.0, 1.5), (3, 0, 5, 4, 100.0, 0.3)))
    assert {Coordinate(2, 5, 3), Coordinate(3, 5, 2)} == shared.coordinates
    assert (Coordinate(3, 5, 4),) == tuple(weight.coordinate for weight in shared.companions)


@pytest.mark.parametrize(
    ("weaker", "core"), [(2.4, False), (2.6, False), (3.9, False), (4.2, True), (5.9, True)]
)
def test_a_channel_of_the_core_has_two_fifths_of_the_largest(weaker, core):
    """Around the cutoff of companions, a quarter, nothing moves in the set that claims are about."""
    found = detect(written((2, 0, 5, 3, 100.0, 10.0), (2, 0, 9, 3, 100.0, weaker)))
    assert core is (Coordinate(2, 9, 3) in found.coordinates)
    assert Coordinate(2, 5, 3) in found.coordinates


def test_a_scalar_answers_for_its_own_token_alone():
    """What the block writes to the same channel at an earlier token is another write, a companion's."""
    trace = written((2, 0, 5, 4, 100.0, 5.0), (2, 2, 5, 3, 100.0, 8.0))
    found = detect(trace)
    assert {Coordinate(2, 5, 3)} == found.coordinates
    shares = {weight.coordinate: weight.share for weight in (*found.super_weights, *found.companions)}
    assert {Coordinate(2, 5, 3): 1.0, Coordinate(2, 5, 4): 1.0} == pytest.approx(shares, abs=0.01)


def test_what_the_attention_makes_has_no_scalar():
    """The stream jumps and the projection wrote next to nothing: nobody is to blame, and nothing breaks."""
    found = detect(course(1, 1, *[1000] * 7))
    assert (1, ()) == (len(found.super_activations), found.super_weights)


@pytest.mark.parametrize(
    ("first", "second", "token"), [(100.0, 200.0, 1), (200.0, 100.0, 0), (100.0, 100.0, 0)]
)
def test_a_scalar_is_reported_where_its_product_is_largest(first, second, token):
    """One scalar serves two tokens; of equals the first counts."""
    (weight,) = detect(written((2, 0, 5, 3, first, 8.0), (2, 1, 5, 3, second, 8.0))).super_weights
    assert (token, max(first, second)) == (weight.token, weight.input)


def test_it_is_the_products_size_that_counts_and_not_the_activations():
    """The larger activation, at token 0, is made by another scalar; this one does most at token 1."""
    rows = ((2, 0, 5, 3, 100.0, 4.0), (2, 0, 5, 1, 100.0, 8.0), (2, 1, 5, 3, 200.0, 4.0))
    found = {weight.coordinate: weight for weight in detect(written(*rows)).super_weights}
    assert (1, 200.0) == (found[Coordinate(2, 5, 3)].token, found[Coordinate(2, 5, 3)].input)
    assert 0 == found[Coordinate(2, 5, 1)].token


def factored(trace, factors, norm=1.0):
    """Return a trace whose projections are multiplied by a factor a token, and by a norm behind them."""
    ones = np.asarray(factors, dtype=np.float32)
    writes = tuple(
        tuple(Write(write.expert, write.tokens, write.inputs, write.outputs, ones) for write in layer)
        for layer in trace.writes
    )
    arrived = tuple(norm * ones[:, None] * output for output in trace.arrived)
    residual = np.concatenate([trace.residual[:1], trace.residual[:1] + np.cumsum(arrived, axis=0)])
    return Trace(writes, arrived, residual.astype(np.float32), trace.weights)


def test_what_stands_behind_the_projection_is_the_gain():
    """A routing weight of 2 and a norm that triples: the product arrives sixfold, the share is whole."""
    (weight,) = detect(factored(written((2, 0, 5, 3, 100.0, 8.0)), (2, 2, 2), norm=3)).super_weights
    assert (8.0, 100.0, 1600.0) == (weight.value, weight.input, weight.output)
    assert (6.0, 1.0) == (pytest.approx(weight.gain), pytest.approx(weight.share))


def test_the_gain_counts_where_the_product_is_compared():
    """The same input at two tokens: the one that is routed with the larger weight is reported."""
    (weight,) = detect(
        factored(written((2, 0, 5, 3, 100.0, 8.0), (2, 1, 5, 3, 100.0, 8.0)), (1, 4, 1))
    ).super_weights
    assert 1 == weight.token


def test_an_opposite_write_before_the_onset_cancels_nothing():
    """What the onset block overcomes is no canceller, and what comes after it still counts."""
    found = detect(written((0, 0, 5, 2, 100.0, -8.0), (1, 0, 5, 3, 100.0, 24.0)))
    assert {Coordinate(1, 5, 3)} == found.coordinates
    assert () == found.cancellers


def test_the_last_block_of_the_plateau_may_write_too():
    """A block that adds to the activation in its last block belongs to the set."""
    found = detect(written((1, 0, 5, 3, 100.0, 8.0), (5, 0, 5, 4, 100.0, 7.9), (6, 0, 5, 2, 100.0, -15.9)))
    assert (1, 5) == (found.super_activations[0].onset, found.super_activations[0].last)
    assert {Coordinate(1, 5, 3), Coordinate(5, 5, 4)} == found.coordinates


def test_a_write_after_the_plateau_makes_another_activation():
    """It came back after it was gone: whoever brings it back did not make the first."""
    found = detect(written((0, 0, 5, 3, 100.0, 8.0), (5, 0, 5, 2, 100.0, -8.0), (7, 0, 5, 4, 100.0, 7.0)))
    assert (0, 4) == (found.super_activations[0].onset, found.super_activations[0].last)
    assert {Coordinate(0, 5, 3)} == found.coordinates
    assert [Coordinate(5, 5, 2)] == [item.coordinate for item in found.cancellers]


def test_a_plateau_may_shrink_with_its_stream():
    """Each block keeps three fifths of all it is given: the activation is what it was, relative to that."""
    (found,) = detect(written((2, 0, 5, 3, 100.0, 8.0), carry=(0.6,) * BLOCKS)).super_activations
    assert (2, 7) == (found.onset, found.last)
    assert 800 + 0.6**3 == pytest.approx(found.magnitude)


def test_what_a_block_takes_from_the_stream_is_not_its_write():
    """A channel of 90 is cut to 9 by the block that adds 30 to it, and then grows fivefold with all."""
    before = (0, 0, 5, 3, 89.0, 1.0)
    carry = (1.0, 1.0, 0.1, 5.0, 1.0, 1.0, 1.0, 1.0)
    found = detect(written(before, (2, 0, 5, 4, 30.0, 1.0), carry=carry))
    (activation,) = found.super_activations
    assert (2, 7) == (activation.onset, activation.last)
    assert 195 == pytest.approx(activation.magnitude)
    assert {Coordinate(2, 5, 4)} <= found.coordinates


def test_the_magnitude_is_the_largest_within_the_plateau():
    """Its last block is in it. Behind it the stream grows threefold, and there -1,000 is less than 851."""
    writes = (1, 0, 5, 3, 100.0, 8.0), (5, 0, 5, 2, 100.0, 0.5), (6, 0, 5, 1, 100.0, -35.53)
    (found,) = detect(written(*writes, carry=(1, 1, 1, 1, 1, 1, 3, 1))).super_activations
    assert (1, 5, 851.0) == (found.onset, found.last, found.magnitude)


@pytest.mark.parametrize(("second", "core"), [(399.0, 2), (398.0, 1)])
def test_the_core_is_about_channels_of_two_fifths_and_more(second, core):
    """Of an activation of 1,000 one of 400 is strong, one of 399 is not."""
    found = detect(written((2, 0, 5, 3, 999.0, 1.0), (2, 0, 9, 4, second, 1.0)))
    assert core == len(found.strongest)


def test_a_write_below_a_tenth_of_the_activation_is_no_finding():
    """Neither of the core nor a companion: nine tenths stand without it."""
    found = detect(written((2, 0, 5, 3, 100.0, 8.0), (3, 0, 5, 4, 100.0, 0.5)))
    assert [Coordinate(2, 5, 3)] == [item.coordinate for item in (*found.super_weights, *found.companions)]


def chain(*made):
    """Return what is found where each (layer, product) is made by a scalar of its own on one channel."""
    return detect(
        written(
            *((layer, 0, 5, number, 100.0, product / 100) for number, (layer, product) in enumerate(made))
        )
    ).coordinates


@pytest.mark.parametrize(
    ("made", "found"),
    [
        pytest.param([(1, 400), (2, 400), (3, 70)], 3, id="eight per cent, next to it"),
        pytest.param([(1, 400), (2, 400), (3, 40)], 2, id="less than a twentieth"),
        pytest.param([(1, 400), (2, 400), (5, 70)], 2, id="not next to it"),
        pytest.param([(1, 800), (2, 70)], 1, id="one block is no chain"),
        pytest.param([(1, 300), (2, 300), (3, 300), (4, 75)], 4, id="of three blocks"),
        pytest.param([(1, 400), (2, 400), (3, 70), (4, 60)], 4, id="next to a link"),
        pytest.param([(1, 400), (2, 400), (3, 50), (3, 52)], 3, id="at least half of its block's write"),
        pytest.param([(1, 400), (2, 400), (3, 50), (3, 50)], 4, id="just half of its block's write"),
        pytest.param([(1, 400), (2, 400), (4, 70)], 2, id="with a block between"),
        pytest.param([(1, 400), (2, 400), (2, 1.0)], 2, id="hardly any of its block's write"),
        pytest.param([(1, 475), (2, 474), (3, 50)], 3, id="a twentieth"),
    ],
)
def test_links_belong_to_a_chain_down_to_a_twentieth(made, found):
    """Blocks in a row that build an activation up are one finding, also where one of them adds little."""
    assert found == len(chain(*made))


def lane_of(*writes, carry=(1.0,) * BLOCKS):
    """Return the lane of the activation where block l leaves every entry in lane l + 1."""
    trace = written(*writes, carry=carry)
    lanes = np.broadcast_to(np.arange(BLOCKS + 1)[:, None, None], trace.residual.shape)
    (found,) = detect(replace(trace, lanes=lanes)).super_activations
    return found.lane


@pytest.mark.parametrize(
    ("later", "lane"),
    [
        pytest.param([], 3, id="where it begins"),
        pytest.param([(4, 0, 5, 1, 100.0, 0.5)], 5, id="in the middle"),
        pytest.param([(6, 0, 5, 1, 100.0, 0.5), (7, 0, 5, 2, 100.0, -8.0)], 7, id="where it ends"),
    ],
)
def test_the_lane_is_that_of_the_largest_number_of_the_plateau(later, lane):
    """Its first and its last block are in it."""
    assert lane == lane_of((2, 0, 5, 3, 100.0, 8.0), *later)


def test_the_lane_before_the_onset_and_behind_the_end_does_not_count():
    """Behind the plateau the stream grows threefold, and there the channel holds a larger number."""
    writes = (1, 0, 5, 3, 100.0, 8.0), (5, 0, 5, 2, 100.0, 0.5), (6, 0, 5, 1, 100.0, -35.53)
    assert 6 == lane_of(*writes, carry=(1, 1, 1, 1, 1, 1, 3, 1))


def test_the_stream_that_a_block_shrinks_explains_what_it_writes():
    """Half of the 400 that were there, and 200 more: the block before it was at three fifths of all."""
    found = detect(
        written((1, 0, 5, 3, 100.0, 4.0), (2, 0, 5, 4, 100.0, 8.0), carry=(1.0, 0.6, 0.5, 1, 1, 1, 1, 1))
    )
    assert {Coordinate(1, 5, 3), Coordinate(2, 5, 4)} == found.coordinates


def test_the_links_are_those_of_the_largest_activation():
    """A second activation is made elsewhere, and its blocks are not in the list."""
    found = detect(written((1, 0, 5, 3, 100.0, 9.0), (2, 0, 9, 4, 100.0, 5.0)))
    assert 2 == len(found.super_activations)
    assert [(1, 5)] == [(link.layer, link.channel) for link in found.links]


@pytest.mark.parametrize(("taken", "cancellers"), [(-90.0, 1), (-70.0, 0), (-1.0, 0)])
def test_a_canceller_takes_a_tenth_of_the_activation(taken, cancellers):
    """Of an activation of 801, what takes less leaves nine tenths of it standing."""
    found = detect(written((1, 0, 5, 3, 100.0, 8.0), (4, 0, 5, 2, 100.0, taken / 100)))
    assert cancellers == len(found.cancellers)


def test_the_stream_before_the_onset_block_is_what_it_is_given():
    """The first block doubles the stream: of the 300 in the channel, the second hands on all."""
    before = (0, 0, 5, 1, 100.0, 3.0)
    found = detect(written(before, (1, 0, 5, 3, 100.0, 8.0), carry=(2.0, *[1.0] * (BLOCKS - 1))))
    assert {Coordinate(1, 5, 3)} <= found.coordinates
