"""Float32 numbers in 16 bits, where that loses nothing or less than a quantiser's own step."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt

from superweight.checkpoints.tensors.decoding import Floats

# How many numbers share a scale, in every GGUF type at least.
_RUN = 16
# The part of a step below which a number stays nearest to its own code.
_PART = 0.5
# Numbers that are looked at together: what a processor's cache holds.
_PIECE = 2**20

Stored = npt.NDArray[Any]
_Judge = Callable[[Floats, Floats], bool]


def bfloat16(numbers: Floats) -> npt.NDArray[np.uint16]:
    """Return the nearest bfloat16 by its bits, ties to even."""
    bits = np.ascontiguousarray(numbers).view(np.uint32)
    rounded = bits + (np.uint32(0x7FFF) + (bits >> np.uint32(16) & np.uint32(1)))
    return (rounded >> np.uint32(16)).astype(np.uint16)


def float16(numbers: Floats) -> npt.NDArray[np.float16]:
    """Return the nearest float16; what is too large becomes infinity."""
    with np.errstate(over="ignore"):
        return numbers.astype(np.float16)


def widened(stored: Stored) -> Floats:
    """Return what is stored as float16, or as bfloat16 by its bits, as float32."""
    if stored.dtype == np.uint16:
        return (stored.astype(np.uint32) << np.uint32(16)).view(np.float32)
    return stored.astype(np.float32)


def exactly(numbers: Floats) -> Stored | None:
    """Return numbers in 16 bits that are read back bit by bit, None where neither type holds them."""
    return _stored(numbers, np.array_equal)


def within_the_step(numbers: Floats, bits: int) -> Stored | None:
    """Return numbers in 16 bits, each moved by less than half of its quantiser's step.

    bfloat16 is tried first. ``bits`` is how many a code has: the numbers of a run lie 2^bits - 1 steps
    apart at most, which tells from below how large the step is. None where neither type is that close.
    """

    def close(numbers: Floats, again: Floats) -> bool:
        runs, back = numbers.reshape(-1, _RUN), again.reshape(-1, _RUN)
        with np.errstate(invalid="ignore"):
            moved = np.abs(back - runs).max(1)
        step = (runs.max(1) - runs.min(1)) / np.float32(2**bits - 1)
        # A run of one number has no step; it is held to what float16 keeps.
        allowed = np.where(step > 0, step * np.float32(_PART), np.abs(runs).max(1) * np.float32(2.0**-11))
        return bool((moved <= allowed).all())

    return None if numbers.size % _RUN else _stored(numbers, close)


def _stored(numbers: Floats, judge: _Judge) -> Stored | None:
    flat = numbers.reshape(-1)
    for convert, kind in ((bfloat16, np.uint16), (float16, np.float16)):
        stored: Stored = np.empty(flat.shape, kind)
        for first in range(0, flat.size, _PIECE):
            piece = flat[first : first + _PIECE]
            stored[first : first + _PIECE] = convert(piece)
            if not judge(piece, widened(stored[first : first + _PIECE])):
                break
        else:
            return stored.reshape(numbers.shape)
    return None
