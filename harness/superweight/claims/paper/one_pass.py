"""C2: one forward pass finds the super weights, whatever the prompt."""

from __future__ import annotations

from superweight.claims.evidence import Evidence
from superweight.claims.verdict import AT_LEAST, Claim, Verdict, counted, judged, measured, not_applicable

CLAIM = Claim("C2", "One forward pass finds the same super weights, whatever the prompt.", "section 3.1")

# "Whatever the prompt" leaves no room for a prompt on which it fails.
ALL_PROMPTS = 1.0


def judge(evidence: Evidence) -> Verdict:
    """Detect by every prompt alone and count those that agree with the confirmed set."""
    expected = frozenset(evidence.scan.coordinates)
    if not expected:
        return not_applicable(CLAIM, "no super weight is found")
    detections = evidence.detections
    astray = {
        name: [str(coordinate) for coordinate in sorted(detection.coordinates)]
        for name, detection in detections.items()
        if detection.coordinates != expected
    }
    magnitudes = [
        abs(detection.super_activations[0].magnitude)
        for detection in detections.values()
        if detection.super_activations
    ]
    share = 1 - len(astray) / len(detections)
    return judged(
        CLAIM,
        counted("share of prompts that find the same set", share, ALL_PROMPTS, AT_LEAST),
        prompts=len(detections),
        astray=astray,
        least_magnitude=measured(min(magnitudes, default=0.0)),
        greatest_magnitude=measured(max(magnitudes, default=0.0)),
    )
