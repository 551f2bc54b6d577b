"""Fit what of a block's recorded writes arrived in the residual stream, and by which factor each did."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from statistics import median

import torch
from torch import nn

from superweight.core.errors import UnknownArchitecture
from superweight.model.experts import ExpertsCall
from superweight.model.followed_writes import FollowedWrites, times
from superweight.model.stream_sum import StreamSum, stream_sum


@dataclass
class BlockRecord:
    """What the hooks of one block caught."""

    writes: FollowedWrites
    dense: tuple[torch.Tensor, torch.Tensor] | None = None
    experts: ExpertsCall | None = None
    before: torch.Tensor | None = None  # (lanes, sequences, tokens, hidden), as after
    after: torch.Tensor | None = None
    # What the block's other parts returned, by path, and which of them are norms.
    others: dict[str, torch.Tensor] = field(default_factory=dict)
    norms: set[str] = field(default_factory=set)
    # The parts, by path, that are no norms and were given what carries the MLP's write.
    readers: list[str] = field(default_factory=list)
    # What the last norm behind a write was given and returned, (tokens, hidden).
    last_norm: tuple[torch.Tensor, torch.Tensor] | None = None
    carry: float = 1.0
    norm: nn.Module | None = None
    arrived: torch.Tensor | None = None
    factors: dict[int, torch.Tensor] = field(default_factory=dict)
    # The number by which the dense projection's write arrives, where it is a plain one.
    scale: float | None = None


def explained(
    place: str, seen: BlockRecord, expected: float, before: torch.Tensor, after: torch.Tensor
) -> list[list[torch.Tensor]]:
    """Return the gains of the carried writes in every lane; refuse what does not add up."""
    writes = [carrier.value for carrier in seen.writes.carriers]
    # Lanes differ by little at first: told apart by how they differ from the first one.
    rows = [
        (lane if at == 0 else lane.double() - before[0].double()).flatten(0, 1)
        for at, lane in enumerate(before)
    ]
    if any(write.shape != rows[0].shape for write in writes):
        raise UnknownArchitecture(
            f"{place} hands on a stream of {tuple(rows[0].shape)} numbers, and its MLP writes "
            f"{tuple(writes[0].shape)}"
        )
    try:
        sums = [_sum(place, seen, expected, rows, lane.flatten(0, 1), writes) for lane in after]
    except UnknownArchitecture as error:
        if not seen.readers:
            raise
        by = seen.readers[0]
        raise UnknownArchitecture(f"{error}; what its MLP writes is read by {by}") from None
    seen.carry = median(found.carry for found in sums)
    return [list(found.gains) for found in sums]


def _sum(
    place: str,
    seen: BlockRecord,
    expected: float,
    before: list[torch.Tensor],
    after: torch.Tensor,
    writes: list[torch.Tensor],
) -> StreamSum:
    target = after
    others = {path: write.flatten(0, -2) for path, write in seen.others.items()}
    if seen.last_norm is not None and torch.equal(seen.last_norm[1], after):
        target = seen.last_norm[0]  # a norm at the block's end: what it was given is the sum
    known = [after, *writes]
    others = {
        path: write for path, write in others.items() if not any(torch.equal(write, item) for item in known)
    }
    parts = [write for path, write in others.items() if "." not in path and path not in seen.norms]
    norms = [write for path, write in others.items() if "." not in path and path in seen.norms]
    inner = [write for path, write in others.items() if "." in path]
    found = stream_sum(place, target, before, writes, (parts, norms, inner), expected)
    return found if target is after else replace(found, carry=1.0)


def settle(seen: BlockRecord, gains: list[list[torch.Tensor]], *, routed: bool) -> None:
    """Keep what arrived in each lane, and by which factor each source's write did."""
    carriers = seen.writes.carriers
    if not carriers:
        return
    shape = seen.after.shape  # type: ignore[union-attr]  # the block has ended
    values = [carrier.value for carrier in carriers]
    sums = [sum(gain.to(value) * value for gain, value in zip(own, values, strict=True)) for own in gains]
    seen.arrived = torch.stack(sums).view(shape)  # type: ignore[arg-type]  # none is empty
    for at, carrier in enumerate(carriers):
        for source, factor in carrier.factors.items():
            if len(gains) > 1:
                factor = torch.stack([_by(factor, own[at]) for own in gains])
            elif len(carriers) > 1:
                factor = _by(factor, gains[0][at])
            seen.factors[source] = factor  # of one carrier the rest is told from what arrived
    scale, gain = carriers[0].scale, gains[0][0]
    if not routed and len(gains) == gain.numel() == 1 and scale is not None:
        seen.scale = scale * float(gain)


def _by(factor: torch.Tensor, gain: torch.Tensor) -> torch.Tensor:
    """Multiply a source's factor by a gain that is one number, (tokens, 1) or (1, hidden)."""
    return times(factor, gain[:, 0] if gain.shape[1] == 1 else gain.expand(len(factor), -1)).to(factor.dtype)
