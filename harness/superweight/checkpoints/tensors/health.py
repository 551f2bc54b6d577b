"""Check whether a tensor's numbers are fit to compute with."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from superweight.checkpoints.tensors.checkpoint import Checkpoint
from superweight.checkpoints.tensors.decoding import INTEGERS
from superweight.checkpoints.tensors.tensor_info import TensorInfo

# Where the float16 factors of a GGUF block lie, in bytes.
FACTORS = {
    **dict.fromkeys(("Q4_0", "Q5_0", "Q8_0", "IQ4_NL", "IQ4_XS"), (0,)),
    **dict.fromkeys(("Q4_1", "Q5_1", "Q4_K", "Q5_K"), (0, 2)),
    "Q2_K": (80, 82),
    "Q3_K": (108,),
    "Q6_K": (208,),
}
# Blocks that are looked at together.
_BLOCKS = 2**16
# Zero points of symmetric quantisers.
_ZERO_POINTS = ("zero_point", "zeros", "_shift")


@dataclass(frozen=True)
class Condition:
    """What is wrong with a tensor at first sight; an empty one is finite and not zero."""

    finite: bool
    zero: bool


def condition(checkpoint: Checkpoint, name: str) -> Condition:
    """Look through a whole tensor, piece by piece; of GGUF blocks through what all is scaled by."""
    info = checkpoint.info(name)
    places = FACTORS.get(info.dtype) if checkpoint.is_gguf else None
    if places is not None:
        return Condition(_finite_factors(info, places), _nothing_but_zeros(checkpoint, name))
    finite, zero = True, checkpoint.info(name).elements > 0
    for piece in checkpoint.pieces(name):
        # NaN spreads to both ends. Two reductions make no array as large as the piece.
        ends = np.array([piece.min(initial=0.0), piece.max(initial=0.0)])
        finite = finite and bool(np.isfinite(ends).all())
        zero = zero and not ends.any()
    return Condition(finite, zero)


def _finite_factors(info: TensorInfo, places: tuple[int, ...]) -> bool:
    """Tell whether every block's factors are finite: a code times a finite float16 is finite."""
    for first in range(info.start, info.end, _BLOCKS * info.block_bytes):
        data = info.file.read(first, min(info.end, first + _BLOCKS * info.block_bytes))
        blocks = np.frombuffer(data, np.uint8).reshape(-1, info.block_bytes)
        for place in places:
            factors = np.ascontiguousarray(blocks[:, place : place + 2]).view(np.float16)
            if not np.isfinite(factors).all():
                return False
    return True


def _nothing_but_zeros(checkpoint: Checkpoint, name: str) -> bool:
    """Tell whether a tensor holds nothing else; the first number that is not zero ends the search."""
    return checkpoint.info(name).elements > 0 and not any(piece.any() for piece in checkpoint.pieces(name))


def zero_means_emptied(info: TensorInfo) -> bool:
    """Tell whether zeros throughout are damage: not where they are an index, a format or zero points."""
    if info.dtype not in INTEGERS:
        return True
    return len(info.shape) > 1 and not info.name.endswith(_ZERO_POINTS)
