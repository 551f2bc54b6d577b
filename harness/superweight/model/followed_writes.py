"""What a block's MLP wrote, followed from its projections through gates, norms and sums.

Each write is carried by a tensor. A module of the block that returns a sum of carried tensors, each
times a number for all or for each token, returns the next one; so does a norm that reads one. What is
multiplied where is learnt from what is recorded, whatever the module is called.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field

import torch

from superweight.model.linear_fit import Fit, fitted, matters

# A number this near to one is one, rounded.
_ONE = 1e-4


@dataclass(frozen=True)
class Carrier:
    """A tensor, (tokens, hidden), that holds the writes of some sources, each times its factor.

    ``factors``: of each source (tokens,) or (tokens, hidden), without what all sources of the block
    have in common. ``scale`` is the number by which it differs from them where that is a plain one.
    """

    value: torch.Tensor
    factors: Mapping[int, torch.Tensor]
    scale: float | None = 1.0


@dataclass
class FollowedWrites:
    """The tensors that carry a block's writes, as far as the block has run; ``sources`` is their number."""

    sources: int
    carriers: list[Carrier] = field(default_factory=list)

    def wrote(self, source: int, value: torch.Tensor) -> None:
        """Take up what one source wrote: (tokens, hidden)."""
        ones = torch.ones(len(value), device=value.device)
        self.carriers.append(Carrier(value, {source: ones}))

    def returned(self, inside: Collection[int], output: torch.Tensor) -> None:
        """Follow the writes of the sources ``inside`` a module into what it returned, if it is their sum."""
        within = [item for item in self.carriers if set(item.factors) <= set(inside)]
        whole = self._sum(within, output)
        if whole is not None:
            self._replace(within, whole)

    def normed(self, given: torch.Tensor, output: torch.Tensor) -> None:
        """Follow what a norm was given into what it returned, if it was given carried tensors."""
        summed = self._sum(self.carriers, given)
        if summed is None:
            return
        read = [item for item in self.carriers if set(item.factors) <= set(summed.factors)]
        if len(summed.factors) == self.sources:
            whole = Carrier(output, summed.factors, None)
        else:
            ratio = output.float() / given.float()
            ratio = torch.where(given == 0, 0, ratio)
            factors = {source: times(factor, ratio) for source, factor in summed.factors.items()}
            whole = Carrier(output, factors, None)
        self._replace(read, whole)

    def _replace(self, old: list[Carrier], new: Carrier) -> None:
        self.carriers = [item for item in self.carriers if not any(item is other for other in old)]
        self.carriers.append(new)

    def _sum(self, terms: list[Carrier], output: torch.Tensor) -> Carrier | None:
        """Return ``output`` as a sum of carried tensors, those that take no part left out; or None."""
        if not terms or any(term.value.shape != output.shape for term in terms):
            return None
        if len(terms) == 1 and torch.equal(terms[0].value, output):
            return Carrier(output, terms[0].factors, terms[0].scale)
        fit = fit_of(output, [term.value for term in terms])
        if fit is None:
            return None
        size = output.abs() + sum(term.value.abs() for term in terms)
        numbers = [_snapped(number) for number in fit.factors.to(size.dtype)]
        parts = [
            (term, number)
            for term, number in zip(terms, numbers, strict=True)
            if bool(matters(term.value * number[:, None], size).any())
        ]
        if not parts:
            return None
        if len(parts) == 1 and len(parts[0][0].factors) == self.sources:
            term, number = parts[0]  # what all have in common is left to the comparison of the two tensors
            known = term.scale is not None and len(number) == 1
            return Carrier(output, term.factors, term.scale * float(number) if known else None)  # type: ignore[operator]  # known
        return Carrier(
            output, {source: times(f, n) for term, n in parts for source, f in term.factors.items()}, None
        )


def fit_of(target: torch.Tensor, terms: list[torch.Tensor]) -> Fit | None:
    """Return the fit with one number a term, or else one for each token; None where neither explains."""
    for by_token in (False, True):
        fit = fitted(target, terms, by_token=by_token)
        if fit.explained:
            return fit
    return None


def times(factor: torch.Tensor, other: torch.Tensor) -> torch.Tensor:
    """Multiply factors of (tokens,) or (tokens, hidden)."""
    if other.ndim < factor.ndim:
        return factor * other[:, None]
    return (factor if other.ndim == factor.ndim else factor[:, None]) * other


def _snapped(number: torch.Tensor) -> torch.Tensor:
    near = (number - 1).abs() <= max(_ONE, 4 * torch.finfo(number.dtype).eps)
    return torch.where(near, 1.0, number)
