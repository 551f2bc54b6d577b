"""C14: instruction tuning keeps the coordinates."""

from __future__ import annotations

from superweight.claims.evidence import Evidence
from superweight.claims.verdict import AT_MOST, Claim, Verdict, counted, judged, not_applicable

CLAIM = Claim(
    "C14",
    "A tuned model keeps the super weights of its base where they were.",
    "section 3.1",
    relation=True,
)

# The claim is identity of coordinates; there is no being nearly at the same place.
MOVED = 0


def judge(evidence: Evidence) -> Verdict:
    """Compare the set with the base model's; what is found in one of them only refutes."""
    if evidence.base is None:
        return not_applicable(CLAIM, "no base model is given (--sw-base) or known to the registry")
    base, tuned = set(evidence.base.coordinates), set(evidence.scan.coordinates)
    if not base:
        return not_applicable(CLAIM, "the base model has no super weight")
    return judged(
        CLAIM,
        counted("number of super weights in one model only", len(base ^ tuned), MOVED, AT_MOST),
        lost=[str(coordinate) for coordinate in sorted(base - tuned)],
        gained=[str(coordinate) for coordinate in sorted(tuned - base)],
    )
