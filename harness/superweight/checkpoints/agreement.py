"""Compare conflicting published sets of super weights with what a scan found."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from superweight.checkpoints.published import PublishedSet
from superweight.core.coordinates import Coordinate


@dataclass(frozen=True)
class SetAgreement:
    """One published set, and how what was found differs from it; no differences: it is supported."""

    reading: PublishedSet
    differences: tuple[str, ...]

    @property
    def supported(self) -> bool:
        return not self.differences

    def __str__(self) -> str:
        places = ", ".join(map(str, sorted(self.reading.coordinates)))
        verdict = "supported" if self.supported else f"not supported: {'; '.join(self.differences)}"
        return f"{self.reading.cited} ({places}): {verdict}"


def compare_sets(
    readings: Sequence[PublishedSet], found: Mapping[Coordinate, float], relative_step: float
) -> tuple[SetAgreement, ...]:
    """Compare every published set with the super weights that a scan found, values by coordinate.

    ``relative_step`` is the spacing of the loaded dtype, as `PublishedScalar.agrees_with` takes it.
    """
    return tuple(
        SetAgreement(reading, tuple(_differences(reading, found, relative_step))) for reading in readings
    )


def _differences(reading: PublishedSet, found: Mapping[Coordinate, float], relative_step: float) -> list[str]:
    published = {scalar.coordinate: scalar for scalar in reading.super_weights}
    missing = [f"{place} is published but not found" for place in sorted(published.keys() - found.keys())]
    extra = [f"{place} is found but not published" for place in sorted(found.keys() - published.keys())]
    values = [
        f"value of {place}: published {published[place].value}, found {found[place]!r}"
        for place in sorted(published.keys() & found.keys())
        if not published[place].agrees_with(found[place], relative_step)
    ]
    return missing + extra + values


def nearest(held: Sequence[SetAgreement]) -> SetAgreement:
    """Return the set with the fewest differences, the first of them where several have as few."""
    return min(held, key=lambda each: len(each.differences))
