"""Find super activations, the scalars that make them and the scalars that cancel them.

Pure algebra over a `Trace`: no model is run and none is changed. Section 3.1 of the paper, with
the criteria that it leaves to the eye written out.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cache

import numpy as np
from numpy.typing import NDArray

from superweight.core.coordinates import Coordinate
from superweight.core.errors import UnknownArchitecture
from superweight.detection.findings import (
    CORE_CHANNEL,
    Canceller,
    Detection,
    Link,
    SuperActivation,
    SuperGain,
    SuperWeight,
    strongest_of,
)
from superweight.detection.gains import find_gains, find_links
from superweight.detection.trace import Array, Trace

__all__ = [
    "CORE_CHANNEL",
    "Canceller",
    "Detection",
    "Link",
    "SuperActivation",
    "SuperGain",
    "SuperWeight",
    "detect",
    "find_super_activations",
    "strongest_of",
]

RowReader = Callable[[int, int, int | None], Array]

# An outlier of the residual stream stands this far above the median magnitude of its block.
# Ordinary channels of trained models reach a few dozen medians (47 in block 0 of
# SmolLM2-135M); super activations reach hundreds, also where the prompt is a single token
# and the median is taken over that token alone (520 there).
OUTLIER_RATIO = 100.0

# A block carries the activation while it holds at least half of its peak.
CARRIED = 0.5

# The activation must outlive this share of the blocks after its onset. Late spikes, which
# write the activation away or feed the head, do not.
PERSISTENCE = 0.5

# And it must span this share of all blocks: two blocks before the head are soon outlived.
# SmolLM2-135M with its set pruned shows such runners-up in blocks 28 and 29 of 30.
SPAN = 0.25

# Channels below this share of the largest activation are its lesser companions. The least
# that anyone reports as a super weight is Llama-2-7B's second row at 59 % of its first (Phi-3's
# rows are alike); the most that was measured and found inert is SmolLM2-135M's channel 247 at
# 7.4 % (x1.02 when pruned). A quarter lies between the two on a logarithmic scale.
COMPANION = 0.25

# A scalar belongs to the core when its product is at least `SHARE` of the activation's peak. One just
# below half of that in another prompt, or in the pass that finds it, is the same finding (hysteresis):
# its share of the peak differs from prompt to prompt by up to a factor of 1.6 on that model.
BORDER = 2.0

# A block is a writer when its write is at least this share of the peak, and a scalar makes
# the write when its product is at least this share of it: below a tenth, pruning it leaves
# nine tenths of the activation standing.
SHARE = 0.1

# Where several blocks in a row build the activation up, one scalar that makes at least half of its own
# block's write is a link of the chain down to `SHARE` / `BORDER`: the links of Gemma-3-270m make 89 to
# 99 % of their blocks' writes, and 10 to 14 % of the activation each.
LINK = 0.5

# At the onset the stream changes by what the MLP writes, give or take what the block's attention
# adds. A factor of two is no attention: SmolLM2-135M's jump is 1.00 times its write.
MISREAD = 2.0


def detect(trace: Trace) -> Detection:
    """Return the super activations of a trace, their super weights and their cancellers.

    Raises `UnknownArchitecture` when a block's write does not explain what the stream does.
    """
    activations = find_super_activations(trace)
    for activation in activations:
        _refuse_unexplained(trace, activation)
    row = cache(trace.weights.row)  # one scalar may make the activations of many tokens
    by_activation = {item: list(_writes(trace, item, row)) for item in activations}
    writes = [write for found in by_activation.values() for write in found]
    strongest = strongest_of(activations)
    core = [write for item in strongest for write in _core(by_activation[item])]
    parts: dict[Coordinate, float] = {}
    for write in core:
        place = write.weight.coordinate
        parts[place] = max(parts.get(place, 0.0), write.weight.part)
    makers = [write for write in writes if write.makes]
    weights = tuple(
        replace(weight, part=parts[weight.coordinate])
        for weight in _strongest(write for write in makers if write.weight.coordinate in parts)
    )
    # Of what the block writes and of the peak: a companion's block writes a good part of its activation.
    others = [
        write
        for write in makers
        if write.weight.coordinate not in parts and write.weight.part >= SHARE * write.weight.share
    ]
    cancellers = [write for write in writes if not write.makes]
    return Detection(
        super_activations=activations,
        super_weights=weights,
        companions=tuple(_strongest(others)),
        gains=find_gains(trace, strongest),
        links=find_links(trace, activations[0]) if activations else (),
        cancellers=tuple(
            sorted(
                {Canceller(write.weight.coordinate, write.weight.value) for write in cancellers},
                key=lambda canceller: canceller.coordinate,
            )
        ),
    )


def find_super_activations(trace: Trace) -> tuple[SuperActivation, ...]:
    """Return the persistent residual outliers of a trace, the largest first.

    An outlier counts when a block brings it about (it is not there in the embedding), when it
    outlives most of the later blocks, of which there must be one, and when it is no mere
    companion of a larger one.
    """
    magnitude = np.abs(trace.residual)
    outlying = magnitude > OUTLIER_RATIO * trace.typical[:, None, None]
    # A block of zeros has a median of zero, above which everything would stand.
    outlying &= (trace.typical > 0)[:, None, None]
    found = []
    for token, channel in np.argwhere(outlying.any(axis=0)):
        course = trace.residual[:, token, channel]
        activation = _plateau(course, int(token), int(channel), trace.kept)
        if activation is not None and trace.lanes is not None:
            after = trace.lanes[activation.onset + 1 : activation.last + 2, token, channel]
            peak = np.abs(course[activation.onset + 1 : activation.last + 2]).argmax()
            activation = replace(activation, lane=int(after[peak]))
        if activation is not None and bool(outlying[activation.onset + 1, token, channel]):
            found.append(activation)
    found.sort(key=lambda activation: -abs(activation.magnitude))
    return tuple(item for item in found if abs(item.magnitude) >= COMPANION * abs(found[0].magnitude))


def _plateau(course: Array, token: int, channel: int, kept: NDArray[np.float64]) -> SuperActivation | None:
    """Return the plateau around the peak of one channel's course, (blocks + 1,), if it persists.

    A block that shrinks its whole stream shrinks a plateau with it: the course is judged relative to
    what is ``kept`` of the stream up to each block.
    """
    magnitude = np.abs(course / kept)
    peak = int(magnitude.argmax())
    carried = (magnitude >= CARRIED * magnitude[peak]) & (np.sign(course) == np.sign(course[peak]))
    first = last = peak
    while first > 0 and carried[first - 1]:
        first -= 1
    while last + 1 < len(course) and carried[last + 1]:
        last += 1
    if first == 0:
        return None  # in the embedding already: no block made it
    onset, last_block = first - 1, last - 1
    blocks = len(course) - 1
    later, outlived, spanned = blocks - 1 - onset, last_block - onset, last_block - onset + 1
    if outlived <= PERSISTENCE * later or spanned < SPAN * blocks:
        return None
    largest = first + int(np.abs(course[first : last + 1]).argmax())
    return SuperActivation(channel, token, onset, last_block, float(course[largest]))


@dataclass(frozen=True)
class _Write:
    """One scalar's part in making or taking away an activation."""

    weight: SuperWeight
    makes: bool


def _refuse_unexplained(trace: Trace, activation: SuperActivation) -> None:
    """Raise where the onset block writes an activation that does not arrive in the stream as written."""
    onset, token, channel = activation.onset, activation.token, activation.channel
    arrived = float(trace.arrived[onset][token, channel])
    carried = float(trace.residual[onset, token, channel]) * float(trace.kept[onset + 1] / trace.kept[onset])
    change = float(trace.residual[onset + 1, token, channel]) - carried
    small = SHARE * abs(activation.magnitude)
    if abs(arrived) >= small and not 1 / MISREAD <= change / arrived <= MISREAD:
        raise UnknownArchitecture(
            f"block {onset} writes {arrived:g} to channel {channel}, but the residual stream changes by "
            f"{change:g} there: something unknown stands between them, so nothing is measured"
        )


def _core(writes: Sequence[_Write]) -> list[_Write]:
    """Return the writes that make one activation: each a good part of it, or a link of their chain."""
    core = [write for write in writes if write.makes and write.weight.part >= SHARE]
    if len({write.weight.coordinate.layer for write in core}) < 2:
        return core
    links = [
        write
        for write in writes
        if write.makes and SHARE / BORDER <= write.weight.part < SHARE and write.weight.share >= LINK
    ]
    while near := [write for write in links if write not in core and _next_to(write, core)]:
        core += near
    return core


def _next_to(write: _Write, chain: Sequence[_Write]) -> bool:
    layer = write.weight.coordinate.layer
    return any(abs(layer - other.weight.coordinate.layer) <= 1 for other in chain)


def _writes(trace: Trace, activation: SuperActivation, row: RowReader) -> Iterator[_Write]:
    token, channel = activation.token, activation.channel
    for layer in range(trace.blocks):
        arrived = float(trace.arrived[layer][token, channel])
        makes = bool(np.sign(arrived) == np.sign(activation.magnitude))
        if abs(arrived) < SHARE * abs(activation.magnitude) / (BORDER if makes else 1):
            continue
        # Writes before the plateau's end make it; opposite writes after its onset take it away.
        if (makes and layer > activation.last) or (not makes and layer <= activation.onset):
            continue
        for weight in _makers(trace, layer, token, channel, row):
            part = weight.product / activation.magnitude
            yield _Write(replace(weight, part=part), makes)


def _makers(trace: Trace, layer: int, token: int, channel: int, read: RowReader) -> Iterator[SuperWeight]:
    arrived = float(trace.arrived[layer][token, channel])
    saw = [(write, int(at)) for write in trace.writes[layer] for at in np.flatnonzero(write.tokens == token)]
    # What the projections write together, before a norm that may stand behind them.
    output = sum(write.factor(at, channel) * float(write.outputs[at, channel]) for write, at in saw)
    if not output:
        return
    for write, at in saw:
        inputs = write.inputs[at].astype(np.float64)
        row = read(layer, channel, write.expert).astype(np.float64)
        shares = inputs * row * write.factor(at, channel) / output
        for col in np.flatnonzero(shares >= SHARE):
            yield SuperWeight(
                coordinate=Coordinate(layer, channel, int(col), write.expert),
                value=float(row[col]),
                input=float(inputs[col]),
                output=output,
                share=float(shares[col]),
                token=token,
                gain=write.factor(at, channel) * arrived / output,
            )


def _strongest(writes: Iterable[_Write]) -> list[SuperWeight]:
    """Return each coordinate once, from the token at which its product is largest."""
    best: dict[Coordinate, SuperWeight] = {}
    for write in sorted(writes, key=lambda write: -abs(write.weight.product)):
        best.setdefault(write.weight.coordinate, write.weight)
    return [best[coordinate] for coordinate in sorted(best)]
