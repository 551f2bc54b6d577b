"""What an MLP wrote, followed to the stream through arithmetic that no module names."""

from __future__ import annotations

import pytest
import torch

from superweight.core.errors import UnknownArchitecture
from superweight.model.followed_writes import FollowedWrites
from superweight.model.lanes import in_lane, lanes_of, leading_lane
from superweight.model.stream_sum import stream_sum

TOKENS, HIDDEN = 7, 64


def drawn(seed):
    return torch.randn(TOKENS, HIDDEN, generator=torch.Generator().manual_seed(seed))


def test_a_gate_and_a_scale_are_learnt_from_what_a_module_returns():
    """Shared experts behind a gate for each token, routed ones times 2.5."""
    shared, routed, gate = drawn(1), drawn(2), drawn(3)[:, :1].sigmoid()
    writes = FollowedWrites(2)
    writes.wrote(0, shared)
    writes.wrote(1, routed)
    writes.returned({0, 1}, gate * shared + 2.5 * routed)
    (carrier,) = writes.carriers
    torch.testing.assert_close(carrier.factors[0], gate[:, 0])
    torch.testing.assert_close(carrier.factors[1], torch.full((TOKENS,), 2.5))


def test_a_norm_before_the_sum_gives_every_channel_a_factor():
    """Gemma 4's experts stand behind a norm of their own before the dense network's write is added."""
    dense, routed, weight = drawn(1), drawn(2), drawn(4)[0].abs()
    normed = weight * routed * routed.pow(2).mean(-1, keepdim=True).rsqrt()
    writes = FollowedWrites(2)
    writes.wrote(0, dense)
    writes.wrote(1, routed)
    writes.normed(routed, normed)
    writes.returned({0, 1}, dense + normed)
    (carrier,) = writes.carriers
    torch.testing.assert_close(carrier.factors[1] * routed, normed)
    torch.testing.assert_close(carrier.factors[0], torch.ones(TOKENS))


def test_what_all_writes_have_in_common_is_left_to_the_comparison():
    """Of one source a norm changes the tensor and not the factor: the gain is told from what arrived."""
    write = drawn(1)
    writes = FollowedWrites(1)
    writes.wrote(0, write)
    writes.returned({0}, 3 * write)
    assert 3.0 == pytest.approx(writes.carriers[0].scale)
    writes.normed(3 * write, write / 2)
    assert writes.carriers[0].scale is None
    assert torch.equal(writes.carriers[0].factors[0], torch.ones(TOKENS))
    assert torch.equal(writes.carriers[0].value, write / 2)


def test_what_is_no_sum_of_the_writes_carries_none():
    """A module that adds something else, or a norm of something else, is passed over."""
    writes = FollowedWrites(1)
    writes.wrote(0, drawn(1))
    writes.returned({0}, drawn(1) + drawn(2))
    writes.normed(drawn(1) * drawn(2), drawn(3))
    assert torch.equal(writes.carriers[0].value, drawn(1))


def test_a_part_that_holds_the_stream_takes_nothing_from_its_carry():
    """ZAYA scales its stream in a module that returns it: the block hands it on whole all the same."""
    before, attention, write = drawn(1), drawn(2), drawn(3)
    middle = before + attention
    found = stream_sum("block 0", middle + write, [before], [write], ([attention, middle], [], []), 1.0)
    assert 1.0 == found.carry
    assert [1.0] == [float(gain) for gain in found.gains]


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("expected", [1.0, 0.5])
def test_a_plain_sum_is_not_fitted(monkeypatch, dtype, expected):
    """What most blocks compute is told by adding up: no equations are solved."""
    monkeypatch.setattr("superweight.model.stream_sum.fitted", None)
    before, attention, write = (drawn(seed).to(dtype) for seed in (1, 2, 3))
    after = before + attention + write * expected
    found = stream_sum("block 0", after, [before], [write], ([attention], [], []), expected)
    assert (1.0, [expected]) == (found.carry, [float(gain) for gain in found.gains])


@pytest.mark.parametrize(
    ("after", "carry", "gain"),
    [
        (lambda before, attention, write: before + 0.5 * attention + write, 1.0, 1.0),
        (lambda before, attention, write: 0.7 * before + attention + write, 0.7, 1.0),
        (lambda before, attention, write: before + attention + 0.3 * write, 1.0, 0.3),
        (lambda before, attention, write: attention + write, 1.0, 1.0),
    ],
    ids=["attention scaled", "stream scaled", "write scaled", "carried by the attention"],
)
def test_a_sum_that_is_not_the_plain_one_is_fitted(after, carry, gain):
    """Whichever number is another one, it is found, and what is plain beside it stays so."""
    before, attention, write = drawn(1), drawn(2), drawn(3)
    given = after(before, attention, write)
    found = stream_sum("block 0", given, [before], [write], ([attention], [], []), 1.0)
    assert (carry, gain) == (
        pytest.approx(found.carry, rel=1e-5),
        pytest.approx(float(found.gains[0]), rel=1e-5),
    )


def test_a_number_that_is_none_is_never_a_plain_sum():
    """What overflowed adds up to nothing."""
    before, attention, write = drawn(1), drawn(2), drawn(3)
    before[0, 0] = torch.nan
    with pytest.raises(UnknownArchitecture, match="does not add up"):
        stream_sum("block 0", before + attention + write, [before], [write], ([attention], [], []), 1.0)


@pytest.mark.parametrize("lost", [False, True])
def test_what_nothing_recorded_explains_is_refused(lost):
    """One entry beside the sum is enough; so is a write that does not arrive."""
    before, attention, write = drawn(1), drawn(2), drawn(3)
    after = before + attention + (0 if lost else write)
    if not lost:
        after[3, 5] += 1e-3
    with pytest.raises(UnknownArchitecture, match="reach the residual stream" if lost else "does not add up"):
        stream_sum("block 4", after, [before], [write], ([attention], [], []), 1.0)


def test_a_write_that_another_part_repeats_has_no_number_of_its_own():
    """Where the sum needs a number for each token and two parts are alike, whose it is cannot be told."""
    before, write, gate = drawn(1), drawn(2), drawn(3)[:, :1].sigmoid()
    same = 2 * write
    with pytest.raises(UnknownArchitecture, match="does not add up"):
        stream_sum("block 0", before + gate * write, [before], [write], ([same], [], []), 1.0)


def test_the_gains_of_a_write_are_learnt_in_every_lane():
    """Hyper-connections mix their lanes and add the write to each by a number of the token's own."""
    before = [drawn(seed) for seed in range(4)]
    mix, post, write, attention = drawn(9)[:, :4], drawn(8)[:, :1], drawn(5), drawn(6)
    after = sum(mix[:, at : at + 1] * lane for at, lane in enumerate(before)) + post * write + 0.3 * attention
    told = [before[0], *(lane - before[0] for lane in before[1:])]
    found = stream_sum("block 0", after, told, [write], ([attention], [], []), 1.0)
    torch.testing.assert_close(found.gains[0].float(), post)
    assert found.carry == pytest.approx(float(mix.sum(1).median()), rel=1e-4)


def test_a_scale_for_each_channel_is_learnt_over_the_tokens():
    """Muse Spark's and ZAYA's blocks weigh the stream and the write by stored vectors."""
    many = lambda seed: torch.randn(40, HIDDEN, generator=torch.Generator().manual_seed(seed))  # noqa: E731
    before, attention, write = many(1), many(2), many(3)
    alpha, beta = many(4)[0].abs() + 0.1, many(5)[0]
    after = alpha * (before + attention) + beta * write
    found = stream_sum("block 0", after, [before], [write], ([attention], [], []), 1.0)
    torch.testing.assert_close(found.gains[0].float(), beta[None])


def test_lanes_are_told_by_their_shape():
    """Before the channels, before everything, or side by side in the channels; anything else is refused."""
    lanes = torch.randn(4, 2, 7, 64)
    assert torch.equal(lanes, lanes_of(lanes, 64, (2, 7)))
    assert torch.equal(lanes, lanes_of(lanes.permute(1, 2, 0, 3), 64, (2, 7)))
    assert torch.equal(lanes, lanes_of(lanes.permute(1, 2, 0, 3).flatten(2), 64, (2, 7)))
    assert torch.equal(lanes[:1], lanes_of(lanes[0], 64, (2, 7)))
    with pytest.raises(UnknownArchitecture, match="hand on a stream of shape"):
        lanes_of(lanes, 64, (3, 7))
    with pytest.raises(UnknownArchitecture, match="hand on a stream of shape"):
        lanes_of(lanes[0], 60, (2, 7))


def test_each_entry_is_seen_in_the_lane_where_it_is_largest():
    """With its sign, and the lane's number."""
    lanes = torch.tensor([[[[1.0, -9.0]]], [[[-2.0, 3.0]]]])
    lane = leading_lane(lanes)
    assert [[[1, 0]]] == lane.tolist()
    assert [[[-2.0, -9.0]]] == in_lane(lanes, lane).tolist()
    assert leading_lane(lanes[:1]) is None
