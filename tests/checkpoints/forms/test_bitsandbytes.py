"""bitsandbytes 4-bit: what is read is what its own CPU kernel dequantises."""

import json

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from superweight.core.errors import BadInput

few = settings(max_examples=10, deadline=None, suppress_health_check=list(HealthCheck))
STATE = "weight.quant_state.bitsandbytes__"


def quantised(seed, kind, nested, block, shape=(48, 128)):
    from bitsandbytes import functional

    weight = torch.randn(shape, generator=torch.Generator().manual_seed(seed)) / 20
    data, state = functional.quantize_4bit(
        weight, blocksize=block, quant_type=kind, compress_statistics=nested
    )
    expected = functional.dequantize_4bit(data, state)
    held = {f"weight.{name}": tensor for name, tensor in state.as_dict(packed=True).items()}
    return expected, {"weight": data, **held}


@given(
    seed=st.integers(0, 10**6),
    kind=st.sampled_from(["nf4", "fp4"]),
    nested=st.booleans(),
    block=st.sampled_from([64, 128]),
)
@few
def test_four_bits_are_read(same, seed, kind, nested, block):
    """nf4 and fp4, with the largest of each block as they are or quantised in their turn."""
    expected, held = quantised(seed, kind, nested, block)
    _, location = same(expected, held, rtol=1e-6, seed=seed)
    assert f"bitsandbytes {kind}" == location.tensor.dtype


def test_blocks_may_cross_rows(same):
    """Blocks are cut from the rows laid end to end, as they are when a matrix is quantised."""
    # The CPU kernel of bitsandbytes takes each row by itself, so it is not asked here.
    _, held = quantised(1, "nf4", False, 64, (6, 96))
    codes = torch.stack([held["weight"] >> 4, held["weight"] & 15], -1).reshape(-1, 64).long()
    expected = held["weight.quant_map"][codes] * held["weight.absmax"][:, None]
    same(expected.reshape(6, 96), held, rtol=1e-6)


def test_the_step_is_the_gap_of_the_table(packed):
    """The largest number of a block is code 1.0; the nearest other is 0.7229568."""
    expected, held = quantised(1, "nf4", False, 64)
    checkpoint, (location,) = packed(held)
    block = expected[0, :64]
    col = int(block.argmax()) if float(block.max()) == float(block.abs().max()) else int(block.argmin())
    largest = float(block.abs().max())
    gap = 1 - 0.7229568362236023 if float(block[col]) > 0 else 1 - 0.6961928009986877
    assert largest * gap == pytest.approx(location.scalar(checkpoint, 0, col).step, rel=1e-5)


def swapped_nibbles(held):
    return held | {"weight": held["weight"] >> 4 | held["weight"] << 4}


def without_the_offset(held):
    name = STATE + "nf4"
    state = json.loads(bytes(held[name].tolist())) | {"nested_offset": 0.0}
    return held | {name: torch.tensor(list(json.dumps(state).encode()), dtype=torch.uint8)}


@pytest.mark.parametrize("fault", [swapped_nibbles, without_the_offset])
def test_a_wrong_layout_is_noticed(same, fault):
    """The comparison fails when the halves of a byte are swapped or the nested offset is left out."""
    expected, held = quantised(2, "nf4", True, 64)
    with pytest.raises(AssertionError):
        same(expected, fault(held), rtol=1e-6)


def test_a_state_that_is_none_is_refused(packed):
    """A damaged quant_state is bad input, not a traceback."""
    _, held = quantised(2, "nf4", False, 64)
    with pytest.raises(BadInput, match="is no state of bitsandbytes"):
        packed(held | {STATE + "nf4": torch.zeros(3, dtype=torch.uint8)})


def test_fewer_bytes_than_the_state_says_are_refused(packed):
    """Two numbers a byte: one byte less cannot hold the matrix, one more may lie behind it."""
    _, held = quantised(2, "nf4", False, 64)
    with pytest.raises(BadInput, match="does not go with the tensors beside it as bitsandbytes 4-bit"):
        packed(held | {"weight": held["weight"][:-1]})
    packed(held | {"weight": torch.cat([held["weight"], held["weight"][:1]])})


@pytest.mark.parametrize("shape", [(-1,), (-1, 1), (48, -1)], ids=["flat", "a column", "a matrix"])
def test_bytes_may_lie_in_any_shape(same, shape):
    """What counts is their order."""
    expected, held = quantised(2, "nf4", False, 64)
    same(expected, held | {"weight": held["weight"].reshape(shape)}, rtol=1e-6)
