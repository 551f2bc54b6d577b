"""C6: the skip connections carry the super activation through the model."""

from __future__ import annotations

import numpy as np

from superweight.claims.evidence import Evidence
from superweight.claims.verdict import AT_MOST, Claim, Criterion, Verdict, judged, measured, not_applicable
from superweight.core.statistics import bootstrap

CLAIM = Claim("C6", "The residual stream carries the super activation unchanged over a plateau.", "Figure 4")

# The paper's figure shows 1320 to 1360 over 28 blocks of Llama-7B, a spread of 3 %. Three times
# that is still a plateau to the eye.
SPREAD = 0.1


def judge(evidence: Evidence) -> Verdict:
    """Take the spread, greatest less least over the median, of the plateau of every prompt.

    "Exactly the same to the end" is not claimed here: late blocks write the activation away, and
    where that begins is evidence.
    """
    strongest = evidence.scan.strongest
    if strongest is None:
        return not_applicable(CLAIM, "no super activation is found")
    spreads = []
    for name, detection in evidence.detections.items():
        for item in detection.super_activations[:1]:
            plateau = slice(item.onset + 1, item.last + 2)
            course = np.abs(evidence.intact_traces[name].residual[plateau, item.token, item.channel])
            spreads.append(float(np.ptp(course) / np.median(course)))
    values = np.array(spreads)
    blocks = len(evidence.subject.architecture.blocks)
    return judged(
        CLAIM,
        Criterion(
            "spread of the activation over its plateau",
            measured(float(values.mean()), absolute=0.002),
            bootstrap(values),
            SPREAD,
            AT_MOST,
        ),
        onset=strongest.onset,
        last=strongest.last,
        blocks=blocks,
        steps_down=strongest.last < blocks - 1,
        cancellers=[str(canceller.coordinate) for canceller in evidence.scan.cancellers],
    )
