"""Check whether a tensor's numbers are fit to compute with."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from superweight.checkpoints.tensors.checkpoint import Checkpoint
from superweight.checkpoints.tensors.decoding import INTEGERS
from superweight.checkpoints.tensors.tensor_info import TensorInfo

# Zero points of symmetric quantisers.
_ZERO_POINTS = ("zero_point", "zeros", "_shift")


@dataclass(frozen=True)
class Condition:
    """What is wrong with a tensor at first sight; an empty one is finite and not zero."""

    finite: bool
    zero: bool


def condition(checkpoint: Checkpoint, name: str) -> Condition:
    """Look through a whole tensor, piece by piece."""
    finite, zero = True, checkpoint.info(name).elements > 0
    for piece in checkpoint.pieces(name):
        # NaN spreads to both ends. Two reductions make no array as large as the piece.
        ends = np.array([piece.min(initial=0.0), piece.max(initial=0.0)])
        finite = finite and bool(np.isfinite(ends).all())
        zero = zero and not ends.any()
    return Condition(finite, zero)


def zero_means_emptied(info: TensorInfo) -> bool:
    """Tell whether zeros throughout are damage: not where they are an index, a format or zero points."""
    if info.dtype not in INTEGERS:
        return True
    return len(info.shape) > 1 and not info.name.endswith(_ZERO_POINTS)
