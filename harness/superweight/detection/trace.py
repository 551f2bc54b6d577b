"""Hold one forward pass as numpy arrays: what each MLP output projection read and wrote, and the stream.

Nothing here runs a model; `superweight.detection.run_trace` does.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float32]


class Weights(Protocol):
    """Reads single rows of the output projections' weights."""

    def row(self, layer: int, channel: int, expert: int | None = None) -> Array:
        """Return W[channel, :] of a block's, or an expert's, projection: (intermediate,)."""
        ...


@dataclass(frozen=True)
class Write:
    """What one output projection did for the tokens it saw; n of them.

    ``tokens``: (n,), their places in the sequence. ``inputs``: X, (n, intermediate). ``outputs``: Y,
    (n, hidden). ``factors``: (n,), what Y is multiplied with on its way into the block's write:
    an expert's routing weight, or 1; (n, hidden) where every channel has its own.
    """

    expert: int | None
    tokens: NDArray[np.int64]
    inputs: Array
    outputs: Array
    factors: Array

    def factor(self, at: int, channel: int) -> float:
        """Return what the write of token number ``at`` is multiplied with in a channel."""
        factors = self.factors[at]
        return float(factors if factors.ndim == 0 else factors[channel])


@dataclass(frozen=True)
class NormGains:
    """By what a norm, or layer scale, multiplies each channel of its block's write: ``gains``, (hidden,)."""

    norm: str
    gains: Array


@dataclass(frozen=True)
class Trace:
    """What one sequence left behind in one forward pass, in float32.

    ``writes[l]``: what each output projection of block l did, those that saw no token left out.
    ``arrived[l]``: (tokens, hidden), what their sum is where it reaches the residual stream, behind
    the norm of a post-norm block. ``residual``: (blocks + 1, tokens, hidden); 0 is the
    embedding, l + 1 the stream after block l. ``carry[l]``: by what block l multiplies the stream it is
    given; empty where every block hands it on as it is. Of a stream in several lanes ``residual`` and
    ``arrived`` hold each entry in the lane where it is largest after the block, and ``lanes``, (blocks + 1,
    tokens, hidden), says which. ``norms[l]``: the gains between the MLP of
    block l and the stream, None where there are none; empty where no block has any.
    """

    writes: tuple[tuple[Write, ...], ...]
    arrived: tuple[Array, ...]
    residual: Array
    weights: Weights
    carry: tuple[float, ...] = ()
    lanes: NDArray[np.uint8] | None = None
    norms: tuple[NormGains | None, ...] = ()

    @cached_property
    def kept(self) -> NDArray[np.float64]:
        """What is left, after each block, of a one that was in the embedding: (blocks + 1,)."""
        return np.cumprod([1.0, *(self.carry or [1.0] * self.blocks)])

    @property
    def blocks(self) -> int:
        return len(self.writes)

    @cached_property
    def typical(self) -> NDArray[np.float64]:
        """The median magnitude of the residual stream after each block: (blocks + 1,)."""
        return np.median(np.abs(self.residual).astype(np.float64), axis=(1, 2))

    @cached_property
    def largest(self) -> float:
        """The largest magnitude anywhere: stream, projection inputs and outputs."""
        every = [write for writes in self.writes for write in writes]
        arrays = [self.residual, *(write.inputs for write in every), *(write.outputs for write in every)]
        return max(float(np.abs(array).max()) for array in arrays)
