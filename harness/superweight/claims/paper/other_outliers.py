"""C4: other outlying weights matter less, however many."""

from __future__ import annotations

import numpy as np

from superweight.claims.evidence import Evidence
from superweight.claims.sequential_verdict import SequentialTest, loses_nothing, read_on
from superweight.claims.verdict import AT_MOST, Claim, Criterion, Verdict, judged, measured, not_applicable
from superweight.core.statistics import jackknife
from superweight.measurement.conditions import OTHER_OUTLIERS, PRUNED, RANDOM, SAME_MATRIX
from superweight.measurement.sequential import Look

CLAIM = Claim(
    "C4", "Pruning all other outlying weights hurts far less.", 'Table 1, "Prune Non-SW"', of_predictions=True
)

# In the paper 7,000 other weights do 0.013 of the damage in log-perplexity (5.67 -> 6.08 against
# 5.67 -> 1211.11). A tenth is still an order of magnitude less than the super weights.
SHARE_OF_DAMAGE = 0.1

_CONTROLS = (OTHER_OUTLIERS, SAME_MATRIX, RANDOM)


def judge(evidence: Evidence) -> Verdict:
    """Prune the largest millionth of every matrix, as the paper's code does, the set left out."""
    return read_on(evidence, sequential_test(evidence))


def sequential_test(evidence: Evidence) -> SequentialTest | Verdict:
    """Return the claim as a test that reads on; controls of the same matrices are evidence."""
    if not evidence.scan.coordinates:
        return not_applicable(CLAIM, "no super weight is found")
    return SequentialTest(_judged, _rests_on)


def _rests_on(look: Look) -> tuple[str, ...]:
    return () if loses_nothing(look, PRUNED) else (PRUNED, OTHER_OUTLIERS)


def _judged(look: Look) -> Verdict:
    both = np.stack([look.nll_increase(OTHER_OUTLIERS), look.nll_increase(PRUNED)], axis=1)
    if jackknife(both[:, 1]).low <= 0:
        return not_applicable(CLAIM, "pruning the set does no damage that others could do less of")
    others, treated = both.mean(axis=0)
    return judged(
        CLAIM,
        Criterion(
            "share of the set's damage that the others do",
            measured(others / treated, absolute=0.002),
            jackknife(both, lambda means: means[:, 0] / means[:, 1]),
            SHARE_OF_DAMAGE,
            AT_MOST,
        ),
        ratios={name: measured(float(np.exp(look.nll_increase(name).mean()))) for name in _CONTROLS},
    )
