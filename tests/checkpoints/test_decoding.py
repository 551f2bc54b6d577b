"""From stored bytes to float32, and the step between the numbers a type can store."""

from itertools import pairwise

import numpy as np
import pytest
import torch
from gguf.constants import GGML_QUANT_SIZES, GGMLQuantizationType
from gguf.quants import dequantize, quantize

from superweight.checkpoints.tensors.decoding import block_step, decode, float8_step
from superweight.core.errors import BadInput

EVEN = ("Q4_0", "Q4_1", "Q5_0", "Q5_1", "Q8_0", "Q2_K", "Q3_K", "Q4_K", "Q5_K", "Q6_K")


@pytest.mark.parametrize(
    ("dtype", "theirs"),
    [
        ("BF16", torch.bfloat16),
        ("F16", torch.float16),
        ("F8_E4M3", torch.float8_e4m3fn),
        ("F8_E5M2", torch.float8_e5m2),
        ("I8", torch.int8),
    ],
)
def test_every_bit_pattern_decodes_as_in_torch(dtype, theirs):
    """All patterns of a small type, subnormal, infinite and NaN ones included, mean what torch means."""
    size = 1 if theirs.itemsize == 1 else 2
    patterns = np.arange(256**size, dtype=f"u{size}").tobytes()
    expected = torch.frombuffer(bytearray(patterns), dtype=theirs).to(torch.float32).numpy()
    assert np.array_equal(expected, decode(patterns, dtype), equal_nan=True)


def test_a_number_beyond_float32_is_infinite():
    """A float64 that float32 cannot hold overflows without a warning, as in the model."""
    assert np.inf == decode(np.array([1e300]).tobytes(), "F64")[0]


def test_refuses_types_it_cannot_decode():
    """A type that gguf does not decode either is refused by name."""
    with pytest.raises(BadInput, match="type Q8_K cannot be read"):
        decode(bytes(GGML_QUANT_SIZES[GGMLQuantizationType.Q8_K][1]), "Q8_K")


@pytest.mark.parametrize("dtype", ["Q4_0", "Q4_1", "Q5_0", "Q5_1", "Q8_0"])
def test_the_step_is_the_scale_of_the_block(dtype):
    """The types that store one scale in front report exactly it, for every position."""
    numbers = np.random.default_rng(1).normal(size=32).astype(np.float32)
    block = quantize(numbers, GGMLQuantizationType[dtype]).tobytes()
    scale = abs(float(np.frombuffer(block[:2], np.float16)[0]))
    for position in range(32):
        assert scale == pytest.approx(block_step(block, dtype, position), rel=1e-6)


@pytest.mark.parametrize("dtype", ["Q4_0", "Q4_1", "Q5_0", "Q5_1", "Q8_0"])
def test_a_lone_super_weight_has_the_step_of_its_block(dtype):
    """Where every other number of the block is zero, the scale is not mistaken for the number's own."""
    numbers = np.zeros(32, np.float32)
    numbers[7] = -5.0
    block = quantize(numbers, GGMLQuantizationType[dtype]).tobytes()
    scale = abs(float(np.frombuffer(block[:2], np.float16)[0]))
    assert 0 < scale
    assert scale == pytest.approx(block_step(block, dtype, 7), rel=1e-6)


@pytest.mark.parametrize("dtype", EVEN)
def test_the_step_divides_every_difference_in_its_block(dtype):
    """Numbers of one (sub-)block differ by whole steps; the first 16 share a sub-block in every type."""
    rng = np.random.default_rng(2)
    size = GGML_QUANT_SIZES[GGMLQuantizationType[dtype]][1]
    block = rng.integers(1, 0x3C, size, dtype=np.uint8).tobytes()
    numbers = decode(block, dtype)[:16].astype(np.float64)
    steps = {block_step(block, dtype, position) for position in range(16)}
    step = max(steps)
    assert step == pytest.approx(min(steps), rel=1e-3)
    quanta = (numbers - numbers[0]) / step
    assert quanta.round().tolist() == pytest.approx(quanta.tolist(), abs=1e-2)
    assert 1 < len(set(quanta.round()))


def test_decodes_the_blocks_as_gguf_does():
    """A run of blocks decodes as the whole row does."""
    row = np.random.default_rng(3).normal(size=128).astype(np.float32)
    data = quantize(row, GGMLQuantizationType.Q5_1)
    expected = dequantize(data, GGMLQuantizationType.Q5_1)
    assert expected.tolist() == decode(data.tobytes(), "Q5_1").tolist()


@pytest.mark.parametrize("dtype", ["IQ4_NL", "IQ4_XS", "F16", "BF16"])
def test_types_without_even_steps_have_none(dtype):
    """A codebook's numbers do not lie evenly, and plain floats are not quantised."""
    assert block_step(bytes(GGML_QUANT_SIZES[GGMLQuantizationType[dtype]][1]), dtype, 0) is None


@pytest.mark.parametrize("dtype", ["F8_E4M3", "F8_E5M2"])
def test_the_step_of_a_small_float_is_the_gap_above_it(dtype):
    """For every finite positive number it is the distance to the next one up."""
    numbers = decode(bytes(range(128)), dtype)
    finite = numbers[np.isfinite(numbers)]
    for number, following in pairwise(finite):
        assert float(following - number) == float8_step(float(number), dtype)
        assert float8_step(float(number), dtype) == float8_step(-float(number), dtype)


@pytest.mark.parametrize(
    ("dtype", "largest", "step"), [("F8_E4M3", 448.0, 32.0), ("F8_E5M2", 57344.0, 8192.0)]
)
def test_the_largest_8_bit_float_has_the_step_below_it(dtype, largest, step):
    """A super weight is the largest number of its block, and there is none above."""
    assert step == float8_step(largest, dtype) == float8_step(-largest, dtype)


@pytest.mark.parametrize("dtype", EVEN)
def test_every_position_of_every_even_type_has_a_step(dtype):
    """No number of a block is without bits of its own, and none has a step that is not above zero."""
    elements, _ = GGML_QUANT_SIZES[GGMLQuantizationType[dtype]]
    size = GGML_QUANT_SIZES[GGMLQuantizationType[dtype]][1]
    block = np.random.default_rng(7).integers(0x11, 0x30, size, dtype=np.uint8)
    block[(block & 15) == 0] += 1
    assert all(block_step(block.tobytes(), dtype, position) is not None for position in range(elements))
