"""C2: one forward pass finds the super weights, whatever the prompt."""

from __future__ import annotations

from collections.abc import Mapping, Set

from superweight.claims.evidence import Evidence
from superweight.claims.verdict import AT_LEAST, Claim, Verdict, counted, judged, measured, not_applicable
from superweight.core.coordinates import Coordinate
from superweight.detection.detect import BORDER, SHARE, Detection
from superweight.detection.steadiness import Seen, steadiness

CLAIM = Claim("C2", "One forward pass finds the same super weights, whatever the prompt.", "section 3.1")

# "Whatever the prompt" leaves no room for a prompt on which it fails.
ALL_PROMPTS = 1.0


def judge(evidence: Evidence) -> Verdict:
    """Detect by every prompt alone and count those that agree with the confirmed core.

    A scalar that one of the two calls core, and that makes nearly enough of the activation in the other,
    is no disagreement (`superweight.detection.detect.BORDER`). The evidence says in how many prompts each
    scalar of the core is found, and how its part of the activation varies.
    """
    expected = frozenset(evidence.scan.coordinates)
    if not expected:
        return not_applicable(CLAIM, "no super weight is found")
    detections = evidence.detections
    own = evidence.scan.parts
    astray = {
        name: [str(coordinate) for coordinate in sorted(detection.coordinates)]
        for name, detection in detections.items()
        if not agree(expected, own, detection)
    }
    magnitudes = [
        abs(detection.super_activations[0].magnitude)
        for detection in detections.values()
        if detection.super_activations
    ]
    seen = steadiness(evidence.scan, [*detections.values()]).seen
    gains = [gain.coordinate for gain in evidence.scan.making_gains]
    share = 1 - len(astray) / len(detections)
    return judged(
        CLAIM,
        counted("share of prompts that find the same set", share, ALL_PROMPTS, AT_LEAST),
        prompts=len(detections),
        astray=astray,
        least_magnitude=measured(min(magnitudes, default=0.0)),
        greatest_magnitude=measured(max(magnitudes, default=0.0)),
        scalars={str(place): _written(seen[place]) for place in sorted(expected)},
        **({"gains": {str(place): _written(seen[place]) for place in gains}} if gains else {}),
    )


def agree(expected: Set[Coordinate], own: Mapping[Coordinate, float], detection: Detection) -> bool:
    """Tell whether a prompt finds the core, give or take scalars at the border of it."""
    lost = expected - detection.coordinates
    more = detection.coordinates - expected
    return all(detection.parts.get(place, 0.0) * BORDER >= SHARE for place in lost) and all(
        own.get(place, 0.0) * BORDER >= SHARE for place in more
    )


def _written(seen: Seen) -> dict[str, object]:
    return {
        "prompts": seen.prompts,
        "least_part": measured(seen.least, absolute=0.02),
        "greatest_part": measured(seen.greatest, absolute=0.02),
    }
