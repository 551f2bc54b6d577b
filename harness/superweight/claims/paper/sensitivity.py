"""C10: damage grows as the super weights shrink; amplifying them does no harm."""

from __future__ import annotations

import math
from itertools import pairwise

import numpy as np

from superweight.claims.evidence import Evidence
from superweight.claims.sequential_verdict import SequentialTest, read_on
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
    return read_on(evidence, sequential_test(evidence))


def sequential_test(evidence: Evidence) -> SequentialTest | Verdict:
    """Return the claim as a test that reads on, with the scales between which a step is in doubt."""
    if not evidence.scan.coordinates:
        return not_applicable(CLAIM, "no super weight is found")
    return SequentialTest(_judged, _in_doubt)


def _judged(look: Look) -> Verdict:
    steps, above = _steps(look), _above(look)
    return judged(
        CLAIM,
        _worst("largest rise of the loss on the way from 0 to 1", steps, RISE),
        _worst("largest loss when amplified up to 2", above, HARM),
        perplexity_ratios={
            f"{factor:g}": measured(float(np.exp(damage.mean())))
            for factor, damage in sorted({**_curve(look), 1.0: np.zeros(1)}.items())
        },
    )


def _curve(look: Look) -> dict[float, Values]:
    """Return what each scale but 1 does to the loss, in each window that it was measured on."""
    return {0.0: look.nll_increase(PRUNED)} | {factor: look.nll_increase(scaled(factor)) for factor in SCALES}


def _steps(look: Look) -> dict[tuple[float, ...], Values]:
    """Return the rise of the loss from each scale up to 1 to the next, on the windows that both have."""
    curve = _curve(look)
    below = sorted(factor for factor in curve if factor < 1)
    steps: dict[tuple[float, ...], Values] = {(below[-1],): -curve[below[-1]]}
    for before, after in pairwise(below):
        count = min(len(curve[before]), len(curve[after]))
        steps[before, after] = curve[after][:count] - curve[before][:count]
    return steps


def _above(look: Look) -> dict[tuple[float, ...], Values]:
    return {(factor,): damage for factor, damage in _curve(look).items() if factor > 1}


def _in_doubt(look: Look) -> set[str]:
    """Return the conditions of every step that may still turn out above its threshold."""
    doubtful = [places for places, rise in _steps(look).items() if jackknife(rise).high > RISE]
    doubtful += [places for places, loss in _above(look).items() if jackknife(loss).high > HARM]
    names = {0.0: PRUNED} | {factor: scaled(factor) for factor in SCALES}
    return {names[factor] for places in doubtful for factor in places}


def _worst(name: str, candidates: dict[tuple[float, ...], Values], threshold: float) -> Criterion:
    """Return the criterion of the step with the largest rise; one in doubt before one that is not."""
    worst = max(candidates.values(), key=lambda rise: (jackknife(rise).high > threshold, float(rise.mean())))
    return Criterion(
        name, measured(float(worst.mean()), absolute=0.005), jackknife(worst), threshold, AT_MOST
    )
