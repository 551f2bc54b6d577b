"""C3: pruning the super weights destroys the model."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from superweight.claims.evidence import Evidence
from superweight.claims.sequential_verdict import SequentialTest, read_on
from superweight.claims.verdict import (
    AT_LEAST,
    Claim,
    Criterion,
    Verdict,
    judged,
    measured,
    not_applicable,
)
from superweight.core.coordinates import Coordinate
from superweight.core.statistics import Interval, jackknife
from superweight.measurement.conditions import (
    CANCELLERS,
    CHANNEL_GAINS,
    COMPANIONS,
    GAINS,
    INTACT,
    PRUNED,
    SINGLES,
    all_but,
    alone,
)
from superweight.measurement.sequential import Look

CLAIM = Claim(
    "C3", "Pruning the super weights multiplies perplexity.", 'Table 1, "Prune SW"', of_predictions=True
)

# The weakest prune that a replication of Table 2 calls catastrophic multiplies perplexity by 16,
# the strongest that it does not by 1.6; ten lies between, and is an order of magnitude.
PERPLEXITY_RATIO = 10.0


def judge(evidence: Evidence) -> Verdict:
    """Prune the set, the unit of the claim; single weights and leave-one-out are evidence.

    So are companions, pruned with the set, and gains, pruned by themselves. Of more than `SINGLES`
    super weights those that make the largest parts are pruned alone, which the evidence says.
    """
    return read_on(evidence, sequential_test(evidence))


def sequential_test(evidence: Evidence) -> SequentialTest | Verdict:
    """Return the claim as a test that reads on; all but the set itself is evidence."""
    found = evidence.scan.coordinates
    if not found:
        return not_applicable(CLAIM, "no super weight is found")
    others = [name(index) for index in range(len(found)) for name in (alone, all_but)]
    others += [CANCELLERS, COMPANIONS, GAINS, CHANNEL_GAINS]
    return SequentialTest(lambda look: _judged(look, found, others), lambda look: (PRUNED,))


def _judged(look: Look, found: Sequence[Coordinate], others: Sequence[str]) -> Verdict:
    damage, measurements = look.nll_increase(PRUNED), look.measurements
    logs = jackknife(damage)
    return judged(
        CLAIM,
        Criterion(
            "perplexity after over before",
            measured(float(np.exp(damage.mean()))),
            Interval(float(np.exp(logs.low)), float(np.exp(logs.high))),
            PERPLEXITY_RATIO,
            AT_LEAST,
        ),
        set=[str(coordinate) for coordinate in found],
        intact_perplexity=measured(measurements[INTACT].perplexity),
        pruned_perplexity=measured(measurements[PRUNED].perplexity),
        kl_from_intact=measured(measurements[PRUNED].kl.mean()),
        same_top_token=measured(measurements[PRUNED].top1_agreement.mean(), absolute=0.01),
        ratios={
            name: measured(float(np.exp(look.nll_increase(name).mean())))
            for name in others
            if name in measurements
        },
        # Said only where it is so: of the others, each alone would be one more condition.
        **({"measured_alone": SINGLES} if len(found) > SINGLES else {}),
    )
