"""Name what a trace can show: super activations, the scalars and gains that make them, and cancellers."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from superweight.core.coordinates import Coordinate, GainCoordinate

# The core is about channels of at least this share of the largest activation. The least that anyone
# reports as a super weight stands at 59 % (above), the most that real models at hand show as a mere
# companion at 26 % (channel 490 of Qwen2.5-Coder-0.5B): 0.4 lies between the two on a logarithmic scale.
CORE_CHANNEL = 0.4

# A gain belongs to those that make the activation when this share of the peak passes through it.
PASSED = 0.05


@dataclass(frozen=True)
class SuperActivation:
    """A residual outlier at (token, channel) that lasts from block ``onset`` through ``last``.

    ``magnitude`` is its signed peak. ``onset`` and ``last`` bound the plateau, both inclusive. ``lane`` is
    where it peaks in a stream of several lanes.
    """

    channel: int
    token: int
    onset: int
    last: int
    magnitude: float
    lane: int | None = None


@dataclass(frozen=True)
class SuperWeight:
    """A scalar whose product X[token, col] · W[row, col] makes a super activation.

    ``input`` is X[token, col], ``output`` is what the block's MLP writes at [token, row], and
    ``share`` is the product's share of that write. ``gain`` is what stands between the product and
    the residual stream: a routing weight, and the norm of a post-norm block; 1 where there is neither.
    ``part`` is the product's share of the activation's peak, which several blocks may build up.
    """

    coordinate: Coordinate
    value: float
    input: float
    output: float
    share: float
    token: int
    gain: float
    part: float = 1.0

    @property
    def product(self) -> float:
        """What the scalar adds to the residual stream."""
        return self.value * self.input * self.gain


@dataclass(frozen=True)
class Canceller:
    """A scalar of a late block whose product takes the super activation away again."""

    coordinate: Coordinate
    value: float


@dataclass(frozen=True)
class SuperGain:
    """A gain through which a super activation is written.

    ``value`` is what the norm multiplies the channel by, ``median`` the median magnitude of its gains,
    ``rank`` its place among them, 1 for the largest. ``part`` is the share of the activation's peak
    that its block writes through it: next to nothing where the gain only lies on the same channel.
    """

    coordinate: GainCoordinate
    value: float
    median: float
    rank: int
    part: float

    @property
    def makes(self) -> bool:
        """Whether enough of the activation passes through it."""
        return self.part >= PASSED


@dataclass(frozen=True)
class Link:
    """What one block writes of a super activation: ``part`` of its peak, the negative taking it away."""

    layer: int
    channel: int
    part: float


@dataclass(frozen=True)
class Detection:
    """What one trace shows; empty tuples are a result.

    ``super_weights`` are the core: each makes at least `SHARE` of one of the strongest activations.
    ``companions`` make weaker activations, or a smaller part of a strong one. ``gains`` are those of norms
    behind the MLP. ``links`` say what each block writes of the largest activation.
    """

    super_activations: tuple[SuperActivation, ...]
    super_weights: tuple[SuperWeight, ...]
    cancellers: tuple[Canceller, ...]
    companions: tuple[SuperWeight, ...] = ()
    gains: tuple[SuperGain, ...] = ()
    links: tuple[Link, ...] = ()

    @property
    def coordinates(self) -> frozenset[Coordinate]:
        return frozenset(weight.coordinate for weight in self.super_weights)

    @property
    def strongest(self) -> tuple[SuperActivation, ...]:
        """The activations that the core is about: of each strong channel the one at its strongest token."""
        return strongest_of(self.super_activations)

    @property
    def parts(self) -> dict[Coordinate, float]:
        """The share of its activation that each scalar makes, companions included."""
        return {weight.coordinate: weight.part for weight in (*self.companions, *self.super_weights)}


def strongest_of(activations: Sequence[SuperActivation]) -> tuple[SuperActivation, ...]:
    """Return, of activations that are sorted by magnitude, the first of each strong channel."""
    first: dict[int, SuperActivation] = {}
    for item in activations:
        if abs(item.magnitude) >= CORE_CHANNEL * abs(activations[0].magnitude):
            first.setdefault(item.channel, item)
    return tuple(first.values())
