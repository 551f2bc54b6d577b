"""Define what is published about a model: scalars, activations, the damage that pruning does."""

from __future__ import annotations

from dataclasses import dataclass
from decimal import Decimal

from superweight.core.coordinates import Coordinate

# The spacing of each dtype relative to a value it holds.
STEPS = {"float32": 2.0**-23, "bfloat16": 2.0**-7, "float16": 2.0**-10}


@dataclass(frozen=True)
class PublishedScalar:
    """A super weight somebody published; ``value`` keeps the digits it was published with.

    ``read_as`` is the dtype it was read in, where that is coarser than the checkpoint's own.
    """

    coordinate: Coordinate
    value: Decimal | None = None
    read_as: str | None = None

    def agrees_with(self, measured: float, relative_step: float) -> bool:
        """Tell whether ``measured`` equals the published value to the digits given.

        ``relative_step`` is the spacing of the loaded dtype: a bfloat16 build cannot hold
        more digits than it has.
        """
        if self.value is None:
            return True
        exponent = self.value.as_tuple().exponent
        assert isinstance(exponent, int), "the registry refuses NaN and infinity"
        half_digit = 0.5 * 10.0**exponent
        published = float(self.value)
        step = max(relative_step, STEPS[self.read_as] if self.read_as else 0.0)
        # What was read in another dtype was rounded first, and then to the digits.
        rounded = step / 2 * abs(published)
        return abs(measured - published) <= (
            half_digit + rounded if self.read_as else max(half_digit, rounded)
        )


@dataclass(frozen=True)
class PublishedActivation:
    """A super activation somebody published; unset fields were not stated."""

    channel: int | None = None
    onset: int | None = None
    token: int | None = None
    magnitude: float | None = None


@dataclass(frozen=True)
class PublishedEffect:
    """Perplexity after over before pruning: the lowest and the highest ratio that anyone reports.

    ``pruned`` says what was zeroed: "all" super weights together, or "each" or the "first" alone.
    """

    pruned: str
    low: float
    high: float
    text: str
    by: str

    def __str__(self) -> str:
        both = f"x{self.low:g}" if self.low == self.high else f"x{self.low:g} to x{self.high:g}"
        return f"{self.pruned} pruned: {both} on {self.text} ({self.by})"


@dataclass(frozen=True)
class PublishedSet:
    """One reading of which scalars are a model's super weights, and who says so.

    Where readings of the same model conflict, each is kept, and the weights decide.
    """

    cited: str | None
    super_weights: tuple[PublishedScalar, ...]
    note: str | None = None

    @property
    def coordinates(self) -> frozenset[Coordinate]:
        return frozenset(scalar.coordinate for scalar in self.super_weights)
