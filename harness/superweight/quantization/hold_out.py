"""Scalars held out of a rounding, and outliers clipped before it; equations 1 and 2 of section 4."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch

from superweight.core.errors import BadInput


@contextmanager
def held_out(
    values: torch.Tensor, places: tuple[torch.Tensor | slice, ...], stand_in: float | torch.Tensor
) -> Iterator[None]:
    """Put ``stand_in`` at ``places`` for the length of a ``with`` block, then the stored bits back.

    The paper's REPLACE and RESTORE: what is rounded in between is rounded without them. The paper's
    stand-in is the median of the tensor; zero does for weights, whose steps it never sets.
    ``places`` are index tensors or slices, one a dimension; none of them holds nothing out.
    """
    stored = values[places].clone() if places else None
    if stored is not None:
        values[places] = stand_in
    try:
        yield
    finally:
        if stored is not None:
            values[places] = stored


def clip_(values: torch.Tensor, z: float, spread: tuple[float, float] | None = None) -> torch.Tensor:
    """Clip to ``z`` standard deviations around the mean, in place, and return ``values``.

    Mean and deviation are those of the whole tensor: in a block of n entries no z-score exceeds
    the square root of n - 1. Who clips the same tensor again gives them as ``spread``. Raises
    `BadInput` unless z is positive.
    """
    if not z > 0:
        raise BadInput(f"cannot clip at a z-score of {z}; give a positive number")
    mean, deviation = spread_of(values) if spread is None else spread
    # As numbers: between bounds that are tensors it takes ten times as long.
    return values.clamp_(mean - z * deviation, mean + z * deviation)


def spread_of(values: torch.Tensor) -> tuple[float, float]:
    """Return the mean and the standard deviation of all entries of a matrix."""
    # From one norm a row: torch.std_mean takes some thirty times as long, and a deviation from
    # centred values would be a second matrix.
    precise = torch.promote_types(values.dtype, torch.float32)
    squares = torch.linalg.vector_norm(values, dim=-1, dtype=precise).cpu().double().square().sum()
    mean = values.mean(dtype=precise).cpu().double()
    deviation = (squares / values.numel() - mean.square()).clamp_min(0).sqrt()
    return float(mean), float(deviation)
