"""C14: instruction tuning keeps the coordinates."""

from __future__ import annotations

from collections.abc import Collection

from superweight.claims.evidence import Evidence
from superweight.claims.verdict import AT_MOST, Claim, Verdict, counted, judged, not_applicable
from superweight.core.coordinates import Coordinate, GainCoordinate
from superweight.detection.scan import Scan

CLAIM = Claim(
    "C14",
    "A tuned model keeps the super weights of its base where they were.",
    "section 3.1",
    relation=True,
)

# The claim is identity of coordinates; there is no being nearly at the same place.
MOVED = 0


def judge(evidence: Evidence) -> Verdict:
    """Compare the set, and the gains that make the activation, with the base model's.

    What is found in one of them only refutes.
    """
    if evidence.base is None:
        return not_applicable(CLAIM, "no base model is given (--sw-base) or known to the registry")
    base, tuned = _places(evidence.base), _places(evidence.scan)
    if not evidence.base.coordinates:
        return not_applicable(CLAIM, "the base model has no super weight")
    return judged(
        CLAIM,
        counted("number of super weights in one model only", len(base ^ tuned), MOVED, AT_MOST),
        lost=_named(base - tuned),
        gained=_named(tuned - base),
    )


def _places(found: Scan) -> set[Coordinate | GainCoordinate]:
    return {*found.coordinates, *(gain.coordinate for gain in found.making_gains)}


def _named(places: Collection[Coordinate | GainCoordinate]) -> list[str]:
    """Return places in writing, weights before gains."""
    weights = sorted(place for place in places if isinstance(place, Coordinate))
    gains = sorted(place for place in places if isinstance(place, GainCoordinate))
    return [*map(str, weights), *map(str, gains)]
