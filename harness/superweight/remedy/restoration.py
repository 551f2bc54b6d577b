"""Choose the scalars of a release that are put back, and read what the base has in their place."""

from __future__ import annotations

import math
from collections.abc import Collection, Sequence
from dataclasses import dataclass

import numpy as np

from superweight.checkpoints.gains import locate_gain
from superweight.checkpoints.tensors.checkpoint import Checkpoint
from superweight.checkpoints.tensors.decoding import Floats
from superweight.checkpoints.tensors.locations import Location, locate
from superweight.core.coordinates import Coordinate, GainCoordinate
from superweight.core.errors import BadInput

Place = Coordinate | GainCoordinate
# The cosine from where on two matrices are one and the same, rounded or tuned.
_ALIKE = 0.5
_USUAL, _EMPTIED = 0.99, 0.1
# A super weight that was moved leaves a scalar or two where it went; more are no moved scalars.
_MOST_STRAYS = 16


@dataclass(frozen=True)
class Restoration:
    """One scalar that is put back: where, from what to what, and in which tensor it is stored.

    ``index`` leads to it in the tensor as it is stored, ``location`` to its matrix; None for a gain.
    ``stray`` says that the scalar is no super weight, but stands where one was moved to.
    """

    place: Place
    was: float
    becomes: float
    tensor: str
    index: tuple[int, ...]
    location: Location | None
    stray: bool = False

    @property
    def words(self) -> str:
        what = (
            "gain" if isinstance(self.place, GainCoordinate) else "scalar" if self.stray else "super weight"
        )
        why = ", to which one was moved" if self.stray else ""
        return f"{what} {self.place}{why}: {self.was:.6g} becomes {self.becomes:.6g}"


def require_base(base: Checkpoint, release: Checkpoint, coordinates: Collection[Coordinate]) -> None:
    """Raise `BadInput` where the matrices around the super weights show that ``base`` is another model.

    >>> from superweight.checkpoints.scalars import open_model
    >>> from superweight.checkpoints.registry import resolve
    >>> planted, plain = (open_model(resolve(name)) for name in ("tiny-planted", "tiny-plain"))
    >>> require_base(planted, planted, [Coordinate(1, 41, 23)])
    >>> require_base(planted, plain, [Coordinate(1, 41, 23)])
    Traceback (most recent call last):
    ...
    superweight.core.errors.BadInput: ...
    """
    for coordinate in sorted(coordinates):
        own, other = _pair(base, release, coordinate)
        if own.shape != other.shape or not _alike(own.matrix(base), other.matrix(release)):
            raise BadInput(
                f"{base.name} is not what {release.name} was made from: the output projection of block "
                f"{coordinate.layer} is another matrix, or its neurons were put in another order; give the "
                "release's own base ('superweight compare' tells whether anything is damaged)"
            )


def restorations(
    base: Checkpoint,
    release: Checkpoint,
    damaged: Collection[Coordinate],
    gains: Collection[GainCoordinate],
    limit: float,
) -> list[Restoration]:
    """Return what is put back: the damaged scalars, and those that a moved one left behind.

    ``limit`` is by how much of itself a super weight may differ (`Limits.value_error`): in the same
    matrix a scalar that differs by as much of the super weight's size stands where one was moved to.
    """
    found: list[Restoration] = []
    for coordinate in sorted(damaged):
        own, other = _pair(base, release, coordinate)
        found.append(_of_scalar(base, release, coordinate, own, other))
    for coordinate in sorted(damaged):
        found += _strays(base, release, coordinate, [item.place for item in found], limit)
    return found + [_of_gain(base, release, gain) for gain in sorted(gains)]


def _pair(base: Checkpoint, release: Checkpoint, coordinate: Coordinate) -> tuple[Location, Location]:
    (own,) = locate(base, coordinate)
    try:
        (other,) = locate(release, coordinate)
    except BadInput as error:
        raise BadInput(f"{release.name} cannot be repaired from {base.name}: {error}") from error
    return own, other


def _alike(before: Floats, after: Floats) -> bool:
    """Tell whether two matrices point the same way where the base has no outlier.

    Rounding to two bits leaves a cosine of 0.8; another order of neurons, or another model, one near 0.
    A matrix that was emptied, or whose step is as large as its outlier, says nothing.
    """
    usual = (np.abs(before) <= np.quantile(np.abs(before), _USUAL)) & np.isfinite(after)
    own, other = before[usual].astype(np.float64), after[usual].astype(np.float64)
    lengths = float(np.linalg.norm(own)), float(np.linalg.norm(other))
    if lengths[1] <= _EMPTIED * lengths[0]:
        return True
    return float(own @ other) >= _ALIKE * lengths[0] * lengths[1]


def _of_scalar(
    base: Checkpoint,
    release: Checkpoint,
    place: Coordinate,
    own: Location,
    other: Location,
    *,
    stray: bool = False,
) -> Restoration:
    becomes = own.scalar(base, place.row, place.col).value
    if not math.isfinite(becomes):
        raise BadInput(f"{base.name}: the base's own super weight {place} is {becomes}; give a sound base")
    was = other.scalar(release, place.row, place.col).value
    pair = (place.col, place.row) if other.transposed else (place.row, place.col)
    return Restoration(place, was, becomes, other.tensor.name, (*other.leading, *pair), other, stray)


def _strays(
    base: Checkpoint, release: Checkpoint, damaged: Coordinate, known: Sequence[Place], limit: float
) -> list[Restoration]:
    own, other = _pair(base, release, damaged)
    before, after = own.matrix(base), other.matrix(release)
    size = abs(float(before[damaged.row, damaged.col]))
    # NaN differs from everything, and is put back as well.
    rows, cols = np.nonzero(~(np.abs(after - before) <= limit * size))
    places = [
        Coordinate(damaged.layer, int(row), int(col), damaged.expert)
        for row, col in zip(rows, cols, strict=True)
    ]
    new = [place for place in places if place not in known]
    if len(new) > _MOST_STRAYS:
        return []
    return [_of_scalar(base, release, place, own, other, stray=True) for place in new]


def _of_gain(base: Checkpoint, release: Checkpoint, gain: GainCoordinate) -> Restoration:
    own, other = locate_gain(base, gain), locate_gain(release, gain)
    values = own.scalar(base, gain.channel).value, other.scalar(release, gain.channel).value
    return Restoration(gain, values[1], values[0], other.tensor.name, (gain.channel,), None)
