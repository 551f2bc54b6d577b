"""C10: damage grows as the super weights shrink; amplifying them does no harm."""

from __future__ import annotations

import math
from itertools import pairwise

import numpy as np

from superweight.claims.evidence import Evidence
from superweight.claims.sequential_verdict import settled
from superweight.claims.verdict import AT_MOST, Claim, Criterion, Verdict, judged, measured, not_applicable
from superweight.core.statistics import jackknife
from superweight.measurement.conditions import PRUNED, SCALES, scaled
from superweight.measurement.evaluate import Values
from superweight.measurement.sequential import Look

CLAIM = Claim(
    "C10",
    "Damage grows as the super weights shrink; amplifying them does no harm.",
    "Figure 6",
    of_predictions=True,
)

# From 0 to 1 each step must lower the loss. A rise of a hundredth of a nat, one per cent of
# perplexity, is within what a few dozen short windows resolve.
RISE = 0.01
# Above 1 the paper's accuracy moves by less than half a point. A tenth of perplexity is far from
# any catastrophe (C3) and far above what it measures.
HARM = math.log(1.1)


def judge(evidence: Evidence) -> Verdict:
    """Scale the whole set from 0 to 2 and look at the worst step on either side of 1."""
    if not evidence.scan.coordinates:
        return not_applicable(CLAIM, "no super weight is found")
    return settled(evidence.sequential.at([PRUNED, *map(scaled, SCALES)]), _judged)


def _judged(look: Look) -> Verdict:
    curve = {0.0: look.nll_increase(PRUNED)}
    curve |= {factor: look.nll_increase(scaled(factor)) for factor in SCALES}
    curve[1.0] = np.zeros_like(curve[0.0])
    below = sorted(factor for factor in curve if factor <= 1)
    steps = [curve[after] - curve[before] for before, after in pairwise(below)]
    above = [damage for factor, damage in curve.items() if factor > 1]
    return judged(
        CLAIM,
        _worst("largest rise of the loss on the way from 0 to 1", steps, RISE),
        _worst("largest loss when amplified up to 2", above, HARM),
        perplexity_ratios={
            f"{factor:g}": measured(float(np.exp(curve[factor].mean()))) for factor in sorted(curve)
        },
    )


def _worst(name: str, candidates: list[Values], threshold: float) -> Criterion:
    worst = max(candidates, key=lambda damage: float(damage.mean()))
    return Criterion(
        name, measured(float(worst.mean()), absolute=0.005), jackknife(worst), threshold, AT_MOST
    )
