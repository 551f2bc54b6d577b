"""Explain one tensor as a sum of others, each times a number: one for all tokens, or one a token."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch

# Rounding steps by which one entry may lie beside the sum, relative to the magnitudes that are added.
ROUNDINGS = 16.0

# Terms that differ by less are one term, and numbers above the other are no gains.
_SAME_TERM = 1e-10
_LARGE = 16.0

# Tokens that are fitted at once: each has its own small system of equations.
_TOKENS = 256


@dataclass(frozen=True)
class Fit:
    """The number for each term, (terms, 1) or (terms, tokens), and how well the sum holds.

    ``gap`` is the largest distance of an entry from the sum; ``explained`` says that every entry lies
    within rounding of it.
    """

    factors: torch.Tensor
    explained: bool
    gap: float


def fitted(target: torch.Tensor, terms: Sequence[torch.Tensor], *, by_token: bool = False) -> Fit:
    """Fit ``target`` to ``terms``, all (tokens, hidden); every entry is weighed by its own magnitude."""
    eps = torch.finfo(target.dtype).eps
    if not all(bool(item.isfinite().all()) for item in (target, *terms)):
        return Fit(torch.zeros(len(terms), 1), explained=False, gap=float("inf"))  # it overflowed
    if not by_token:
        return _fitted(target.reshape(1, -1), [term.reshape(1, -1) for term in terms], eps)
    chunks = [
        _fitted(part, [term[at : at + _TOKENS] for term in terms], eps)
        for at, part in zip(range(0, len(target), _TOKENS), target.split(_TOKENS), strict=True)
    ]
    return Fit(
        torch.cat([chunk.factors for chunk in chunks], dim=1),
        all(chunk.explained for chunk in chunks),
        max(chunk.gap for chunk in chunks),
    )


def _fitted(target: torch.Tensor, terms: Sequence[torch.Tensor], eps: float) -> Fit:
    """Fit each row of ``target`` by itself: (rows, entries)."""
    wanted = target.double()
    stacked = torch.stack([term.to(wanted) for term in terms], dim=1)  # (rows, terms, entries)
    size = wanted.abs() + stacked.abs().sum(1)
    weighed = stacked / size.clamp_min(1e-30)[:, None]
    lengths = weighed.norm(dim=2).clamp_min(1e-30)
    columns = weighed / lengths[..., None]
    # Lanes of a stream may differ by little: an orthogonal basis tells them apart where products do not.
    basis, upper = torch.linalg.qr(columns.transpose(1, 2))
    aims = basis.transpose(1, 2) @ (wanted / size.clamp_min(1e-30))[..., None]
    factors = (torch.linalg.pinv(upper, rtol=_SAME_TERM) @ aims)[..., 0] / lengths  # (rows, terms)
    beside = (wanted - (factors[..., None] * stacked).sum(1)).abs()
    # Large numbers of opposite sign, for terms that are nearly the same, must not excuse anything.
    share = factors.abs().clamp_max(_LARGE)[..., None] * stacked.abs()
    allowed = ROUNDINGS * eps * (wanted.abs() + share.sum(1))
    return Fit(factors.T, bool((beside <= allowed).all()), float(beside.max()))


def matters(part: torch.Tensor, size: torch.Tensor) -> torch.Tensor:
    """Return where a part of a sum is more than the rounding of the sum: a mask."""
    return part.abs() > ROUNDINGS * torch.finfo(size.dtype).eps * size


def independent(term: torch.Tensor, others: Sequence[torch.Tensor]) -> bool:
    """Tell whether no token's ``term`` is a sum of the ``others``, so that its number can be told."""
    if not others:
        return True
    given = term[term.abs().amax(1) > 0]
    rest = [other[term.abs().amax(1) > 0] for other in others]
    if not len(given):
        return True
    left = given.double()
    basis, _ = torch.linalg.qr(torch.stack([other.to(left) for other in rest], dim=2))
    left = left - (basis @ (basis.transpose(1, 2) @ left[..., None]))[..., 0]
    return bool((left.norm(dim=1) > 1e-4 * given.double().norm(dim=1)).all())
