"""Tell after each block whether what was seen so far settles which scalars are the super weights.

A full pass sees more: what takes the activation away, where its plateau ends, and whether a later one is
larger. What is settled earlier is therefore called provisional.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from superweight.core.errors import UnknownArchitecture
from superweight.detection.detect import OUTLIER_RATIO, detect
from superweight.detection.findings import Detection
from superweight.detection.trace import Trace

# Through so many blocks after its last change must the activation have been carried. The error rates of
# one to eight are in docs/remote.md.
CARRIES = 2

# It is unchanged while it stays within this share of itself: the plateau of SmolLM2-135M moves by up to
# 2 % from block to block, and one that is still being built up grows by more than 10 % in each.
UNCHANGED = 0.1


# And it must stand this far above the median magnitude, as massive activations do by their definition
# (Sun et al. 2024, arXiv 2402.17762). SmolLM2-135M has an earlier plateau on the same channel, at 680
# times the median from block 2 through block 8, which is gone when the one that counts is made, at 11,800.
MASSIVE = 1000.0


@dataclass(frozen=True)
class Depth:
    """How many ``blocks`` of a model were run, ``of`` how many, and whether that ``settled`` the answer."""

    blocks: int
    of: int
    settled: bool = False

    @property
    def whole(self) -> bool:
        return self.blocks == self.of

    def __str__(self) -> str:
        return f"seen through block {self.blocks - 1} of {self.of}"


@dataclass(frozen=True)
class Until:
    """When a pass ends: once settled, having carried through ``carries`` blocks, or after ``blocks``.

    None stands for neither.
    """

    carries: int | None = CARRIES
    blocks: int | None = None


def settled(trace: Trace, carries: int = CARRIES) -> Detection | None:
    """Return what a trace of a model's first blocks shows, if that is settled; else None.

    Of each of the strongest activations at least one scalar must be found that makes it, and the
    activation must be massive and have been carried, unchanged, through the last ``carries`` blocks.
    """
    try:
        found = detect(trace)
    except UnknownArchitecture:
        return None  # told where the pass has come to its end
    rows = {place.row for place in found.coordinates}
    if not found.super_weights or not {item.channel for item in found.strongest} <= rows:
        return None
    for item in found.strongest:
        if item.last != trace.blocks - 1:
            return None
        if abs(trace.residual[-1, item.token, item.channel]) < MASSIVE * trace.typical[-1]:
            return None
        # Where it appeared within them, what was there before it is among them, too.
        tail = np.abs(trace.residual[-1 - carries :, item.token, item.channel] / trace.kept[-1 - carries :])
        if tail.max() > (1 + UNCHANGED) * tail.min():
            return None
    return found


def reached(trace: Trace, of: int, until: Until) -> Depth:
    """Return how far a model of so many blocks was looked at, and whether that settles what it shows."""
    ended = until.carries is not None and settled(trace, until.carries) is not None
    return Depth(trace.blocks, of, settled=ended)


def ends_pass(
    until: Until, of: int, confirmed: Callable[[Detection, Trace], bool], hold_back: Callable[[bool], None]
) -> Callable[[Trace], bool]:
    """Return what is shown the trace after each block, and says whether the pass ends there.

    ``confirmed`` says whether the pruned copy beside it is without the activation. ``hold_back`` is told
    whether the next block may be the last, so that none beyond it is brought in vain.
    """

    def seen(trace: Trace) -> bool:
        if trace.blocks >= min(of, until.blocks or of):
            return until.blocks is not None
        if until.carries is None or not _stands_out(trace):
            return False
        found = settled(trace, until.carries)
        if found is not None and confirmed(found, trace):
            return True
        hold_back(until.carries > 0 and settled(trace, until.carries - 1) is not None)
        return False

    return seen


def _stands_out(trace: Trace) -> bool:
    """Tell, in a moment, whether there may be anything to look at."""
    last = trace.residual[-1]
    return bool(np.abs(last).max() > OUTLIER_RATIO * np.median(np.abs(last)))
