"""Fit what a block adds to the residual stream by what its parts write.

The stream after a block is a sum: the stream before it, what the MLP wrote, what the rest of the block
wrote, each times one number, or one for each token, or one for each channel. The numbers are fitted, and
the sum must then hold in every entry.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch

from superweight.core.errors import UnknownArchitecture
from superweight.model.linear_fit import ROUNDINGS, Fit, fitted, independent, matters

# A fitted number this near to the one expected is that number, rounded.
_SAME = 0.02

# A token's numbers are told from its channels, a channel's from the tokens: so many for each of them.
_ENTRIES = 4

# What has numbers of its own.
_ALL, _TOKEN, _CHANNEL = "all", "token", "channel"


@dataclass(frozen=True)
class StreamSum:
    """By what a block multiplies the stream it is given, and the writes of its MLP.

    ``gains``: of each write (1, 1); (tokens, 1) or (1, hidden) where every token or channel has its own.
    """

    carry: float
    gains: tuple[torch.Tensor, ...]


def stream_sum(
    place: str,
    after: torch.Tensor,
    before: Sequence[torch.Tensor],
    writes: Sequence[torch.Tensor],
    stages: Sequence[Sequence[torch.Tensor]],
    expected: float,
) -> StreamSum:
    """Fit the stream after a block to its parts, and refuse the block where they do not add up.

    All are (tokens, hidden); ``before`` holds the stream before the block, and of a stream in lanes how the
    others differ from the first, so that the number of the first is what is left of all. ``stages`` are
    the writes of the block's other parts, the likely ones first; a later stage is looked at where the
    earlier ones do not explain the stream. ``expected`` is the gain of the MLP's writes as far as it is
    known. Raises `UnknownArchitecture`, naming ``place``.
    """
    if len(before) == 1 and _adds_up(after, [before[0], *stages[0]], writes, expected):
        return StreamSum(1.0, tuple(torch.full((1, 1), expected, dtype=torch.float64) for _ in writes))
    gap = float("inf")
    for each in (_ALL, _TOKEN, _CHANNEL) if len(before) == 1 else (_TOKEN,):
        own = each != _ALL
        target, *terms = (_rows(item, each) for item in (after, *before, *writes))
        for stage in stages:
            terms = [*terms, *(_rows(item, each) for item in stage)]
            if own and len(terms) * _ENTRIES > target.shape[1]:
                break
            fit = fitted(target, terms, by_token=own)
            gap = min(gap, fit.gap)
            if not fit.explained or (own and not _told(terms, len(before), len(writes))):
                continue
            if len(before) == 1 and not _plain(fit.factors[0]):
                terms, fit = _fewest(target, terms, fit, 1 + len(writes), by_token=own)
            found = _numbers(place, target, terms, fit, len(before), len(writes), expected)
            return replace(found, gains=tuple(_rows(gain, each) for gain in found.gains))
    raise _unlike_sum(place, gap, writes=bool(writes))


def _adds_up(
    after: torch.Tensor, parts: Sequence[torch.Tensor], writes: Sequence[torch.Tensor], expected: float
) -> bool:
    """Tell whether a stream is the plain sum that most families make, which nothing need be fitted for."""
    wide = torch.promote_types(after.dtype, torch.float32)
    terms = [*(part.to(wide) for part in parts), *(write.to(wide) * expected for write in writes)]
    size = after.to(wide).abs()
    for term in terms:
        size = size + term.abs()
    beside = (after.to(wide) - sum(terms)).abs()
    # Written so that a NaN anywhere counts as unlike.
    return bool((beside <= ROUNDINGS * torch.finfo(after.dtype).eps * size).all())


def _rows(item: torch.Tensor, each: str) -> torch.Tensor:
    """Turn (tokens, hidden) so that its rows are what has a number of its own."""
    return item.T if each == _CHANNEL else item


def _plain(carry: torch.Tensor) -> bool:
    """Tell whether the stream is carried as it is, or by way of another part."""
    middle = abs(float(carry.median()))
    return middle <= _SAME or abs(middle - 1) <= _SAME


def _fewest(
    after: torch.Tensor, terms: list[torch.Tensor], fit: Fit, first: int, *, by_token: bool
) -> tuple[list[torch.Tensor], Fit]:
    """Leave out, of the parts from ``first`` on, each that the others explain: it may hold the stream."""
    for at in range(len(terms) - 1, first - 1, -1):
        fewer = [*terms[:at], *terms[at + 1 :]]
        without = fitted(after, fewer, by_token=by_token)
        if without.explained:
            terms, fit = fewer, without
    return terms, fit


def _told(terms: Sequence[torch.Tensor], first: int, count: int) -> bool:
    """Tell whether no write is a sum of the other terms: its numbers would be anybody's."""
    return all(independent(terms[at], [*terms[:at], *terms[at + 1 :]]) for at in range(first, first + count))


def _numbers(
    place: str,
    after: torch.Tensor,
    terms: Sequence[torch.Tensor],
    fit: Fit,
    lanes: int,
    count: int,
    expected: float,
) -> StreamSum:
    size = after.abs() + sum(
        (numbers.to(term.dtype)[:, None] * term).abs()
        for numbers, term in zip(fit.factors, terms, strict=True)
    )
    gains = []
    for write, numbers in zip(terms[lanes : lanes + count], fit.factors[lanes : lanes + count], strict=True):
        one = len(numbers) == 1
        lost = (
            (numbers.abs() <= _SAME * abs(expected)).all()
            if one
            else ~matters(write * numbers[:, None], size).any()
        )
        if bool(lost) and bool(matters(write * expected, size).any()):
            raise UnknownArchitecture(
                f"{place}: what its MLP writes does not reach the residual stream, or not as it is written, "
                "so nothing is measured"
            )
        near = (numbers - expected).abs() <= _SAME * abs(expected)
        gains.append((torch.where(near, expected, numbers) if one else numbers)[:, None])
    # The stream may come by way of another part, such as an attention that adds it to its own write.
    carry = float(fit.factors[0].median())
    carry = 1.0 if abs(carry) <= _SAME or abs(carry - 1) <= _SAME else carry
    return StreamSum(carry, tuple(gains))


def _unlike_sum(place: str, gap: float, *, writes: bool) -> UnknownArchitecture:
    what = "its MLP and its other parts" if writes else "the parts outside its MLP"
    return UnknownArchitecture(
        f"{place}: what {what} write does not add up to what the residual stream changes by (an entry "
        f"lies {gap:g} beside the sum), so something unknown writes there and nothing is measured"
    )
