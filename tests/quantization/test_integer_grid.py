"""What holds of every rounding scheme, whatever the matrix: the step, the ends, the blocks, the hold-out."""

from __future__ import annotations

import contextlib

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from superweight.core.errors import BadInput
from superweight.quantization.granularity import PerBlock, PerGroup, PerRow, PerTensor
from superweight.quantization.hold_out import clip_, held_out
from superweight.quantization.integer_grid import (
    INT4,
    INT4_ASYMMETRIC,
    INT8,
    INT8_ASYMMETRIC,
    Scheme,
    round_,
    round_to_grid_,
    step_of,
)

SCHEMES = [INT4, INT8, INT4_ASYMMETRIC, INT8_ASYMMETRIC]
LAYOUTS = [PerTensor(), PerRow(), PerBlock(3), PerBlock(4), PerGroup(5), PerGroup(8), PerGroup(1000)]

shapes = st.tuples(st.integers(1, 13), st.integers(1, 13))
seeds = st.integers(0, 2**32 - 1)
sizes = st.sampled_from([1e-4, 1.0, 37.0])
schemes, layouts = st.sampled_from(SCHEMES), st.sampled_from(LAYOUTS)

many = settings(max_examples=60, deadline=None)


def matrix(shape, seed, size=1.0):
    return size * torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def block_ids(layout, shape):
    """Which block each entry belongs to, by arithmetic on its place: (rows, columns)."""
    rows, columns = torch.meshgrid(torch.arange(shape[0]), torch.arange(shape[1]), indexing="ij")
    match layout:
        case PerTensor():
            return torch.zeros(shape, dtype=torch.long)
        case PerRow():
            return rows
        case PerBlock(side):
            return rows // side * 1000 + columns // side
        case PerGroup(size):
            return (rows * shape[1] + columns) // size


def rounded_by_definition(values, scheme):
    """One block, entry by entry, from the formulas of the paper and of its released code."""
    numbers = values.tolist()
    if scheme.symmetric:
        top = 2 ** (scheme.bits - 1) - 1
        step = max(abs(number) for number in numbers) / top or 1.0
        return torch.tensor([max(-top, min(top, round(number / step))) * step for number in numbers]).double()
    top = 2**scheme.bits - 1
    least, greatest = min(0.0, *numbers), max(0.0, *numbers)
    step = (greatest - least) / top or 1.0
    zero = round(-least / step)
    return torch.tensor(
        [(max(0, min(top, round(number / step) + zero)) - zero) * step for number in numbers]
    ).double()


@many
@given(shape=shapes, seed=seeds, size=sizes, scheme=schemes, layout=layouts)
def test_rounding_is_the_formula_in_each_block(shape, seed, size, scheme, layout):
    """Step, ends and blocks are those of the definition, whatever sits in the neighbouring blocks."""
    values = matrix(shape, seed, size)
    ids = block_ids(layout, shape)
    # Blocks of unlike size: a step taken from a neighbour would show.
    values *= 10.0 ** (ids % 4)
    expected = torch.empty_like(values)
    for block in ids.unique():
        expected[ids == block] = rounded_by_definition(values[ids == block], scheme)
    found = round_(values.clone(), scheme, layout)
    torch.testing.assert_close(found, expected, rtol=1e-6, atol=0)


@many
@given(shape=shapes, layout=layouts)
def test_blocks_hold_every_entry_once(shape, layout):
    """The views of a layout are its blocks: nothing twice, nothing left out, nobody in the wrong one."""
    places = torch.arange(shape[0] * shape[1]).view(shape)
    ids = block_ids(layout, shape).flatten()
    seen = []
    for view, spanned in layout.split(places):
        dims = [dim % view.ndim for dim in spanned]
        others = [dim for dim in range(view.ndim) if dim not in dims]
        for block in view.permute(*others, *dims).flatten(0, len(others) - 1) if others else [view]:
            members = block.flatten()
            assert 1 == len(ids[members].unique())
            assert len(members) == int((ids == ids[members[0]]).sum())
            seen += members.tolist()
    assert sorted(seen) == list(range(shape[0] * shape[1]))


@many
@given(shape=shapes, seed=seeds, scheme=schemes, layout=layouts)
def test_rounding_twice_changes_nothing_more(shape, seed, scheme, layout):
    """What lies on a symmetric grid stays there: the largest entry sets the same step again."""
    once = round_(matrix(shape, seed), scheme, layout)
    twice = round_(once.clone(), scheme, layout)
    if scheme.symmetric:
        torch.testing.assert_close(twice, once, rtol=1e-9, atol=0)


@many
@given(shape=shapes, seed=seeds, scheme=schemes, layout=layouts)
def test_no_entry_moves_by_more_than_half_a_step(shape, seed, scheme, layout):
    """Inside the grid rounding is to the nearest level; at an asymmetric end it may be a whole step."""
    values = matrix(shape, seed)
    found = round_(values.clone(), scheme, layout)
    ids = block_ids(layout, shape)
    for block in ids.unique():
        step, _ = step_of(values[ids == block], scheme, (0,))
        reach = 0.5 if scheme.symmetric else 1.0
        assert float((found - values)[ids == block].abs().max()) <= reach * float(step) * (1 + 1e-9)


@many
@given(seed=seeds, scheme=schemes, shrink=st.floats(0.05, 0.9))
def test_what_lies_beyond_the_grid_lands_on_its_end(seed, scheme, shrink):
    """A step that is too small for an entry saturates it: no level outside the grid is ever used."""
    values = matrix((4, 9), seed)
    step, zero = step_of(values, scheme, (0, 1))
    step = step * shrink
    found = values.clone()
    round_to_grid_(found, scheme, step, zero)
    low, high = scheme.levels
    ends = (low - zero) * step, (high - zero) * step
    nearest = values.clamp(*ends)
    assert float((found - nearest).abs().max()) <= 0.5 * float(step) * (1 + 1e-9)
    assert float(ends[0]) - 1e-9 <= float(found.min())
    assert float(found.max()) <= float(ends[1]) + 1e-9


@pytest.mark.parametrize(
    ("scheme", "levels"), [(INT4, 15), (INT8, 255), (INT4_ASYMMETRIC, 16), (INT8_ASYMMETRIC, 256)], ids=str
)
def test_every_level_is_used_and_no_other(scheme, levels):
    """Symmetric INT4 has 15 levels, -7 to 7 steps; asymmetric has all 16."""
    values = torch.linspace(-1, 1, 100_001, dtype=torch.float64)[None]
    assert levels == len(round_(values, scheme, PerTensor()).unique())


@pytest.mark.parametrize("scheme", [INT4, INT8], ids=str)
def test_the_largest_entry_of_every_block_comes_back(scheme):
    """The paper's step is max|x| / (2^(N-1) - 1), so the largest lies on the grid."""
    values = matrix((12, 12), 3)
    found = round_(values.clone(), scheme, PerBlock(4))
    for block in (ids := block_ids(PerBlock(4), values.shape)).unique():
        largest = values[ids == block].abs().argmax()
        assert float(values[ids == block][largest]) == pytest.approx(float(found[ids == block][largest]))


@pytest.mark.parametrize("scheme", [INT4_ASYMMETRIC, INT8_ASYMMETRIC], ids=str)
def test_the_released_code_divides_the_range_by_all_levels(scheme):
    """Its step is (max - min) / (2^N - 1), a little over half the paper's where signs are even."""
    values = torch.tensor([[-1.0, 0.25, 3.0]])
    step, _ = step_of(values, scheme, (0, 1))
    assert 4 / (2**scheme.bits - 1) == pytest.approx(float(step))


@pytest.mark.parametrize("scheme", SCHEMES, ids=str)
@pytest.mark.parametrize("layout", LAYOUTS, ids=str)
def test_zeros_stay_zero(scheme, layout):
    """A block of zeros has no step of its own and is left as it is."""
    assert torch.equal(torch.zeros(7, 9), round_(torch.zeros(7, 9), scheme, layout))


@many
@given(shape=shapes, seed=seeds, scheme=st.sampled_from([INT4, INT8]), layout=layouts)
def test_exempting_the_largest_of_its_own_block_changes_nothing(shape, seed, scheme, layout):
    """It sets the step and lies on the grid: to put it back afterwards is no hold-out at all."""
    values = matrix(shape, seed)
    place = divmod(int(values.abs().argmax()), shape[1])
    plain = round_(values.clone(), scheme, layout)
    exempted = plain.clone()
    exempted[place] = values[place]
    torch.testing.assert_close(exempted, plain, rtol=1e-12, atol=0)


@many
@given(seed=seeds, scheme=schemes)
def test_holding_out_a_giant_shrinks_the_error_of_the_rest(seed, scheme):
    """One value 1,000 times the rest makes the step 1,000 times as wide; held out, it does not."""
    values = matrix((24, 24), seed)
    rest = values.abs().max()
    values[5, 7] = 1000 * rest
    others = torch.ones_like(values, dtype=torch.bool)
    others[5, 7] = False
    # Fine enough that the rest does not all fall on one level.
    fine = Scheme(16, symmetric=scheme.symmetric)
    plain, held = values.clone(), values.clone()
    round_(plain, fine, PerTensor())
    with held_out(held, (torch.tensor([5]), torch.tensor([7])), stand_in=0.0):
        round_(held, fine, PerTensor())
    before, after = ((found - values)[others].abs().mean() for found in (plain, held))
    # The range of the rest runs from its least to its greatest, not from -rest to rest.
    spread = rest if scheme.symmetric else values[others].max() - values[others].min()
    factor = 1000 * rest / spread
    assert float(factor) == pytest.approx(float(before / after), rel=0.25)


@many
@given(seed=seeds, size=sizes, scheme=schemes, layout=layouts)
def test_a_held_out_scalar_comes_back_exactly(seed, size, scheme, layout):
    """Its stored bits are put back; the others are rounded as if it had never been there."""
    values = matrix((9, 11), seed, size)
    places = torch.tensor([2, 2, 8]), torch.tensor([3, 4, 10])
    stored = values.clone()
    with held_out(values, places, stand_in=0.0):
        round_(values, scheme, layout)
        without = values.clone()
    assert torch.equal(stored[places], values[places])
    others = torch.ones_like(values, dtype=torch.bool)
    others[places] = False
    assert torch.equal(without[others], values[others])


def test_a_held_out_scalar_comes_back_from_an_error():
    """Whatever goes wrong in between, the stored bits are there again."""
    values = torch.ones(2, 2)
    place = torch.tensor([1]), torch.tensor([0])
    with contextlib.suppress(KeyboardInterrupt), held_out(values, place, stand_in=0.5):
        assert 0.5 == values[1, 0]
        raise KeyboardInterrupt
    assert 1.0 == values[1, 0]


@many
@given(seed=seeds, z=st.floats(0.5, 3))
def test_clipping_moves_only_what_lies_outside(seed, z):
    """Entries within z deviations of the mean keep their bits; the others land on the bound."""
    values = matrix((20, 20), seed) + 5
    mean, deviation = values.mean(), values.std(correction=0)
    found = clip_(values.clone(), z)
    inside = (values - mean).abs() < z * deviation
    assert torch.equal(values[inside], found[inside])
    bound = (found[~inside] - mean).abs()
    torch.testing.assert_close(bound, torch.full_like(bound, float(z * deviation)))


@pytest.mark.parametrize("z", [0.0, -1.0, float("nan")])
def test_a_z_score_that_is_no_width_is_refused(z):
    """Zero, negative and NaN would clip everything or nothing."""
    with pytest.raises(BadInput, match="positive"):
        clip_(torch.ones(3), z)


@pytest.mark.parametrize(
    "wrong",
    [lambda: Scheme(1), lambda: Scheme(17), lambda: PerBlock(0), lambda: PerGroup(-4)],
    ids=["1 bit", "17 bits", "empty tile", "negative group"],
)
def test_grids_and_blocks_that_hold_nothing_are_refused(wrong, refusal):
    """One line says what to give instead."""
    assert "give" in refusal(wrong)


def test_integers_are_rounded_already(refusal):
    """Rounding a packed matrix would round its codes, not its values."""
    assert "rounded already" in refusal(round_, torch.ones(2, 2, dtype=torch.int8), INT8, PerRow())
