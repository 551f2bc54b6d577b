"""C5: pruning the super weights removes the super activation."""

from __future__ import annotations

import numpy as np

from superweight.claims.evidence import Evidence
from superweight.claims.verdict import AT_MOST, Claim, Criterion, Verdict, judged, measured, not_applicable
from superweight.core.statistics import bootstrap
from superweight.detection.detect import CARRIED

CLAIM = Claim("C5", "Pruning the super weights removes the super activation.", "Figure 4")

# In Llama-7B a fifth to a quarter is left. The threshold is the half below which detection no
# longer counts a block as carrying the activation.
LEFT = CARRIED


def judge(evidence: Evidence) -> Verdict:
    """Compare the residual stream before and after, over the plateau, for every prompt."""
    if not evidence.scan.coordinates:
        return not_applicable(CLAIM, "no super weight is found")
    left = []
    for name, detection in evidence.detections.items():
        for item in detection.super_activations[:1]:
            plateau = slice(item.onset + 1, item.last + 2)
            before = np.abs(evidence.intact_traces[name].residual[plateau, item.token, item.channel])
            after = np.abs(evidence.pruned_traces[name].residual[plateau, item.token, item.channel])
            left.append(float(np.median(after / before)))
    shares = np.array(left)
    return judged(
        CLAIM,
        Criterion(
            "share of the activation that is left",
            measured(float(shares.mean()), absolute=0.005),
            bootstrap(shares),
            LEFT,
            AT_MOST,
        ),
        prompts=len(shares),
        most_left=measured(float(shares.max()), absolute=0.005),
    )
