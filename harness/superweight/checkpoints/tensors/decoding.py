"""Decode stored bytes to float32, and compute the step between numbers of a type."""

from __future__ import annotations

from functools import cache
from typing import Any

import numpy as np
import numpy.typing as npt

from superweight.core.errors import BadInput

Floats = npt.NDArray[np.float32]

_PLAIN = {
    "BOOL": "u1",
    **{f"I{bits}": f"<i{bits // 8}" for bits in (8, 16, 32, 64)},
    **{f"U{bits}": f"<u{bits // 8}" for bits in (8, 16, 32, 64)},
    **{f"F{bits}": f"<f{bits // 8}" for bits in (16, 32, 64)},
}
INTEGERS = tuple(name for name in _PLAIN if name[0] in "IU")
FLOAT8 = ("F8_E4M3", "F8_E5M2")
# What ml_dtypes calls the types that numpy lacks; in E4M3 and E8M0 of safetensors there is no infinity.
_SMALL_FLOATS = {
    "F8_E4M3": "float8_e4m3fn",
    "F8_E5M2": "float8_e5m2",
    "F8_E8M0": "float8_e8m0fnu",
    "F4": "float4_e2m1fn",
}
# The gap between 1 and the next number, of types that are not quantised.
EPSILON = {"F64": 2.0**-52, "F32": 2.0**-23, "F16": 2.0**-10, "BF16": 2.0**-7}
# GGUF types whose numbers lie evenly in each block; the others look theirs up in a codebook.
_EVEN = ("Q4_0", "Q4_1", "Q5_0", "Q5_1", "Q8_0", "Q2_K", "Q3_K", "Q4_K", "Q5_K", "Q6_K")

# As many numbers are dequantised at a time.
_RUN = 2**17


def decode(data: bytes, dtype: str) -> Floats:
    """Return the numbers that a run of whole blocks stores, one after the other.

    Numbers that float32 cannot hold are rounded to it. Raises `BadInput` for a type that cannot be
    read, such as one of less than a byte.
    """
    if dtype in _PLAIN:
        # F64 may hold what float32 overflows on; infinity is what the model would see as well.
        with np.errstate(over="ignore"):
            return np.frombuffer(data, _PLAIN[dtype]).astype(np.float32, copy=False)
    if dtype == "BF16":
        return (np.frombuffer(data, "<u2").astype(np.uint32) << 16).view(np.float32)
    if dtype == "F4":
        return four_bit_floats(np.frombuffer(data, "u1"))
    if dtype in _SMALL_FLOATS:
        return np.frombuffer(data, _small_float(dtype)).astype(np.float32)
    return _dequantise(data, dtype)


def integers(data: bytes, dtype: str) -> npt.NDArray[Any]:
    """Return stored integers as they are, also those that float32 would round."""
    return np.frombuffer(data, _PLAIN[dtype])


def _small_float(dtype: str) -> np.dtype[Any]:
    # Reading what numpy has a type for does without the package.
    import ml_dtypes

    found: np.dtype[Any] = np.dtype(getattr(ml_dtypes, _SMALL_FLOATS[dtype]))
    return found


def nibbles(packed: npt.NDArray[np.uint8]) -> npt.NDArray[np.uint8]:
    """Return the two 4-bit codes of each byte along the last axis, the lower one first."""
    return np.stack([packed & 15, packed >> 4], axis=-1).reshape(*packed.shape[:-1], -1)


def four_bit_floats(packed: npt.NDArray[np.uint8]) -> Floats:
    """Return the two numbers of each byte of OCP's MX formats and NVFP4 (E2M1), the lower one first."""
    return nibbles(packed).view(_small_float("F4")).astype(np.float32)


def exponents(stored: Floats) -> Floats:
    """Return the powers of two that bytes of type E8M0 stand for, read as unsigned integers."""
    return stored.astype(np.uint8).view(_small_float("F8_E8M0")).astype(np.float32)


def _dequantise(data: bytes, dtype: str) -> Floats:
    from gguf.constants import GGML_QUANT_SIZES, GGMLQuantizationType
    from gguf.quants import dequantize

    try:
        kind = GGMLQuantizationType[dtype]
        elements, size = GGML_QUANT_SIZES[kind]
        count = len(data) // size
        blocks = np.frombuffer(data, np.uint8).reshape(count, size)
        numbers = np.empty((count, elements), np.float32)
        # A run at a time, whose numbers stay in the processor's cache through the package's many
        # steps: half the time. A corrupt scale overflows, and is to be seen in the numbers, not in
        # a warning.
        each = max(1, _RUN // elements)
        with np.errstate(all="ignore"):
            for first in range(0, count, each):
                run = blocks[first : first + each].reshape(1, -1)
                numbers[first : first + each] = dequantize(run, kind).reshape(-1, elements)
        return numbers.reshape(-1)
    except (KeyError, NotImplementedError):
        raise BadInput(f"numbers of type {dtype} cannot be read; give a checkpoint of another type") from None


def block_step(block: bytes, dtype: str, position: int) -> float | None:
    """Return how far the number at ``position`` moves when its quantum changes by one.

    That is the scale of its own block, or sub-block in the K-quants. None for types whose numbers
    do not lie evenly.
    """
    if dtype not in _EVEN:
        return None
    own = decode(block, dtype)[position]
    moved = _flipped(block, dtype)[_own_bits(dtype, len(block), position), position]
    steps = np.abs(moved - own)
    return float(steps.min())


@cache
def _own_bits(dtype: str, size: int, position: int) -> npt.NDArray[np.intp]:
    """Return which bits of a block belong to one number alone.

    They are found in a block in which no quantum is likely zero: in the block of a super weight
    all the other numbers may be zero, and its scale then seems to belong to that one.
    """
    # Bytes this small make no infinite scale; with both halves set, no scale of 4 bits is zero.
    source = np.random.default_rng(0)
    typical = (source.integers(1, 4, size) << 4 | source.integers(1, 16, size)).astype(np.uint8).tobytes()
    changed = _flipped(typical, dtype) != decode(typical, dtype)
    return np.flatnonzero(changed[:, position] & (changed.sum(axis=1) == 1))


def _flipped(block: bytes, dtype: str) -> Floats:
    """Return the numbers of a block with each of its bits flipped in turn: (bits, numbers)."""
    bits = np.unpackbits(np.frombuffer(block, np.uint8))
    variants = np.packbits(bits ^ np.eye(len(bits), dtype=np.uint8), axis=1)
    return decode(variants.tobytes(), dtype).reshape(len(bits), -1)


def float8_step(value: float, dtype: str) -> float:
    """Return the gap between numbers of an 8-bit float type around ``value``.

    Beyond the largest there is none; there the gap is that to the number below.
    """
    kind = _small_float(dtype)
    number = np.array(abs(value), kind)
    gap = float(np.spacing(number))
    if np.isfinite(gap):
        return gap
    return float(number) - float(np.nextafter(number, np.array(0, kind)))
