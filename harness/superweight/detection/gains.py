"""Find the gains, of norms and layer scales behind the MLP, that make a super activation.

A norm behind the MLP multiplies each channel of what the MLP wrote. Where its gain at one channel is
far above its others, an ordinary write becomes an enormous one there.
"""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np

from superweight.core.coordinates import GainCoordinate
from superweight.detection.findings import PASSED, Link, SuperActivation, SuperGain
from superweight.detection.trace import Trace

# A gain stands out when it is this often the median gain of its norm: with an ordinary gain in its
# place, a fifth of the write would be left. The least of a real model's is 9 (block 11 of Gemma-3-270m),
# and of `python -m benchmarks.truth` every norm with ordinary gains stays below 3.
OUTSTANDING = 5.0


def find_gains(trace: Trace, activations: Iterable[SuperActivation]) -> tuple[SuperGain, ...]:
    """Return the outstanding gains at the channels of some activations, block by block.

    Of those through which nothing much passes, only the largest of their norm are named.
    """
    found: dict[GainCoordinate, SuperGain] = {}
    for item in activations:
        for layer, norm in enumerate(trace.norms[: item.last + 1]):
            if norm is None:
                continue
            sizes = np.abs(norm.gains.astype(np.float64))
            own, median = float(sizes[item.channel]), float(np.median(sizes))
            if not own > OUTSTANDING * median:
                continue
            gain = SuperGain(
                coordinate=GainCoordinate(layer, norm.norm, item.channel),
                value=float(norm.gains[item.channel]),
                median=median,
                rank=1 + int(np.count_nonzero(sizes > own)),
                part=float(trace.arrived[layer][item.token, item.channel]) / item.magnitude,
            )
            if (gain.makes or gain.rank == 1) and gain.coordinate not in found:
                found[gain.coordinate] = gain
    return tuple(found[place] for place in sorted(found))


def find_links(trace: Trace, activation: SuperActivation) -> tuple[Link, ...]:
    """Return what each block writes of an activation, those that write next to nothing left out."""
    parts = [
        float(arrived[activation.token, activation.channel]) / activation.magnitude
        for arrived in trace.arrived
    ]
    return tuple(
        Link(layer, activation.channel, part) for layer, part in enumerate(parts) if abs(part) >= PASSED
    )
