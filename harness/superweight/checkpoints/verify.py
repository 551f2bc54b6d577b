"""Compare what is published about a model with its files, without loading it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from superweight.checkpoints.published import PublishedSet
from superweight.checkpoints.registry import ModelEntry
from superweight.checkpoints.scalars import StoredScalar, open_model
from superweight.checkpoints.tensors.checkpoint import Checkpoint
from superweight.checkpoints.tensors.locations import Location, locate
from superweight.core.coordinates import Coordinate
from superweight.core.errors import BadInput

AGREES, DISAGREES = "agrees", "DISAGREES"
UNREACHABLE, NOTHING = "not reachable", "nothing published"

# Of the 4,096 x 11,008 weights of a matrix, none lies this many standard deviations out by chance.
STANDS_OUT = 6.0
# The median magnitude of a normal distribution, in standard deviations.
_MEDIAN = 0.6745


@dataclass(frozen=True)
class CheckedScalar:
    """A published scalar as the files hold it; ``deviations`` is its size against its row's spread."""

    reading: StoredScalar
    deviations: float

    @property
    def confirmed(self) -> bool:
        """Whether this may be a super weight: the published value, or at least an outlier."""
        return self.reading.agrees is not False and self.deviations >= STANDS_OUT

    def __str__(self) -> str:
        published = self.reading.published
        said = ""
        if published is not None and published.value is not None:
            said = f", published {published.value}" + ("" if self.reading.agrees else ": DISAGREES")
        elif self.deviations < STANDS_OUT:
            said = ": does not stand out"
        value = f"{self.reading.scalar.value:.6g}"
        return f"{self.reading.coordinate} = {value} ({self.deviations:.3g} sigma of its row{said})"


@dataclass(frozen=True)
class Verification:
    """How the files of one model compare with what is published; ``reason`` says why they could not."""

    model: str
    status: str
    readings: tuple[tuple[PublishedSet, tuple[CheckedScalar, ...]], ...] = ()
    reason: str | None = None

    @property
    def supported(self) -> tuple[PublishedSet, ...]:
        """The published sets of which every scalar holds."""
        return tuple(reading for reading, places in self.readings if all(place.confirmed for place in places))

    def lines(self) -> list[str]:
        """Return what a person reads: one line for the model, more where readings conflict."""
        if self.reason is not None:
            return [f"{self.model}: {self.status}: {self.reason}"]
        if not self.readings:
            return [f"{self.model}: {self.status}"]
        if len(self.readings) == 1 and self.status != NOTHING:
            return [f"{self.model}: {self.status}: {_listed(self.readings[0][1])}"]
        each = [f"  {reading.cited}: {_listed(places)}" for reading, places in self.readings]
        names = " and ".join(str(reading.cited) for reading in self.supported) or "none"
        return [f"{self.model}: {self.status}", *each, f"  the files support: {names}"]

    def as_dict(self) -> dict[str, Any]:
        return {
            "model": self.model,
            "status": self.status,
            "reason": self.reason,
            "readings": [
                {
                    "cited": reading.cited,
                    "supported": reading in self.supported,
                    "scalars": [_scalar(place) for place in places],
                }
                for reading, places in self.readings
            ],
        }


def _listed(places: tuple[CheckedScalar, ...]) -> str:
    return ", ".join(map(str, places))


def _scalar(place: CheckedScalar) -> dict[str, Any]:
    reading = place.reading
    published = None if reading.published is None else reading.published.value
    return {
        "at": list(reading.coordinate.indices),
        "value": reading.scalar.value,
        "published": None if published is None else float(published),
        "agrees": reading.agrees,
        "deviations": place.deviations,
    }


def verify(entry: ModelEntry) -> Verification:
    """Read every published scalar of a model from its files, wherever they are.

    Files that cannot be had, or hold no such place, are a finding too: nothing is raised for them.
    """
    try:
        checkpoint = open_model(entry)
        coordinates = sorted({place for reading in entry.readings for place in reading.coordinates})
        found = dict(zip(coordinates, locate(checkpoint, *coordinates), strict=True))
        readings = tuple((reading, _places(checkpoint, reading, found)) for reading in entry.readings)
    except BadInput as error:
        return Verification(entry.name, UNREACHABLE, reason=str(error))
    if not entry.super_weights:
        return Verification(entry.name, NOTHING, readings)
    own = readings[0][1]
    agrees = all(place.reading.agrees is not False for place in own)
    return Verification(entry.name, AGREES if agrees else DISAGREES, readings)


def _places(
    checkpoint: Checkpoint, reading: PublishedSet, found: Mapping[Coordinate, Location]
) -> tuple[CheckedScalar, ...]:
    places = []
    for published in reading.super_weights:
        coordinate = published.coordinate
        location = found[coordinate]
        row = np.abs(location.row(checkpoint, coordinate.row).astype(np.float64))
        spread = float(np.median(row)) / _MEDIAN
        scalar = location.scalar(checkpoint, coordinate.row, coordinate.col)
        # A row of zeros has no spread: whatever is not zero stands out of it.
        deviations = abs(scalar.value) / spread if spread else (0.0 if scalar.value == 0 else float("inf"))
        places.append(CheckedScalar(StoredScalar(coordinate, location.tensor, scalar, published), deviations))
    return tuple(places)
