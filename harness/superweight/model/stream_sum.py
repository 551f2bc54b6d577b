"""Fit what a block adds to the residual stream by what its parts write.

The stream after a block is a sum: the stream before it, what the MLP wrote, what the rest of the block
wrote, each times one number. The numbers are fitted, and the sum must then hold in every entry.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NoReturn

import torch

from superweight.core.errors import UnknownArchitecture

# Rounding steps by which one entry may lie beside the sum, relative to the magnitudes that are added.
_ROUNDINGS = 16.0

# A fitted number this near to the one expected is that number, rounded.
_SAME = 0.02


@dataclass(frozen=True)
class StreamSum:
    """By what a block multiplies the stream it is given, and the write of its MLP."""

    carry: float
    gain: float


def stream_sum(
    place: str,
    after: torch.Tensor,
    before: torch.Tensor,
    write: torch.Tensor | None,
    stages: Sequence[Sequence[torch.Tensor]],
    expected: float,
) -> StreamSum:
    """Fit the stream after a block to its parts, and refuse the block where they do not add up.

    ``stages`` are the writes of the block's other parts, the likely ones first; a later stage is
    looked at where the earlier ones do not explain the stream. ``expected`` is the gain of the MLP's
    write as far as it is known. Raises `UnknownArchitecture`, naming ``place``.
    """
    target = after.flatten().double()
    fixed = [before] if write is None else [before, write]
    terms = [_flat(term, target) for term in fixed]
    gap = float("inf")
    for stage in stages:
        terms += [_flat(term, target) for term in stage]
        factors = _fitted(target, terms)
        size = target.abs() + sum(abs(f) * t.abs() for f, t in zip(factors, terms, strict=True))
        total = sum((f * t for f, t in zip(factors, terms, strict=True)), torch.zeros_like(target))
        beside = ((target - total).abs() - _ROUNDINGS * torch.finfo(after.dtype).eps * size).max()
        if float(beside) <= 0:
            gain = expected if write is None else _snapped(factors[1], expected)
            if (
                write is not None
                and abs(gain) <= _SAME * abs(expected)
                and _matters(terms[1] * expected, size, after)
            ):
                break  # something else carries what the MLP wrote
            # The stream may come by way of another part, such as an attention that adds it to its own write.
            carry = 1.0 if abs(factors[0]) <= _SAME else _snapped(factors[0], 1.0)
            return StreamSum(carry, gain)
        gap = min(gap, float((target - total).abs().max()))
    else:
        _refuse_sum(place, write, gap)
    raise UnknownArchitecture(
        f"{place}: what its MLP writes does not reach the residual stream as it is written: something "
        "unknown stands between them, so nothing is measured"
    )


def _refuse_sum(place: str, write: torch.Tensor | None, gap: float) -> NoReturn:
    what = "the parts outside its MLP" if write is None else "its MLP and its other parts"
    raise UnknownArchitecture(
        f"{place}: what {what} write does not add up to what the residual stream changes by (an entry "
        f"lies {gap:g} beside the sum), so something unknown writes there and nothing is measured"
    )


def _matters(write: torch.Tensor, size: torch.Tensor, after: torch.Tensor) -> bool:
    """Tell whether a write is more than the rounding of the sum that it takes part in."""
    return bool((write.abs() > _ROUNDINGS * torch.finfo(after.dtype).eps * size).any())


def _flat(term: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
    return term.detach().flatten().to(target)


def _fitted(target: torch.Tensor, terms: Sequence[torch.Tensor]) -> list[float]:
    """Return the number for each term by least squares, every entry weighed by its own magnitude."""
    size = target.abs() + sum(term.abs() for term in terms)
    weighed = torch.stack([*terms, target]) / size.clamp_min(1e-30)
    lengths = weighed[:-1].norm(dim=1).clamp_min(1e-30)
    columns = weighed[:-1] / lengths[:, None]
    products = columns @ columns.T
    factors = torch.linalg.pinv(products, rtol=1e-12, hermitian=True) @ (columns @ weighed[-1])
    fitted: list[float] = (factors / lengths).tolist()
    return fitted


def _snapped(fitted: float, expected: float) -> float:
    return expected if abs(fitted - expected) <= _SAME * abs(expected) else fitted
