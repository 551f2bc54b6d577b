"""C8: restoring only the super activation recovers part of the quality."""

from __future__ import annotations

import numpy as np

from superweight.claims.evidence import Evidence
from superweight.claims.sequential_verdict import SequentialTest, loses_nothing, read_on
from superweight.claims.verdict import AT_LEAST, Claim, Criterion, Verdict, judged, measured, not_applicable
from superweight.core.statistics import jackknife
from superweight.measurement.conditions import INTACT, PRUNED, RESTORED_ACTIVATION
from superweight.measurement.sequential import Look

CLAIM = Claim(
    "C8", "Restoring only the super activation wins back part of the loss.", 'Table 1, "Prune SW, +SA"'
)

# The paper's own row wins back 0.097 of the lost log-perplexity (1211 -> 720, of 5.67). Half of
# that tells a part from nothing and does not ask for more than the paper has.
WON_BACK = 0.05


def judge(evidence: Evidence) -> Verdict:
    """Put the activation back at its one token, in the onset block, with the set still pruned."""
    return read_on(evidence, sequential_test(evidence))


def sequential_test(evidence: Evidence) -> SequentialTest | Verdict:
    """Return the claim as a test that reads on, or the verdict where there is nothing to read."""
    if not evidence.scan.coordinates:
        return not_applicable(CLAIM, "no super weight is found")
    return SequentialTest(_judged, _rests_on, of_stream=True)


def _rests_on(look: Look) -> tuple[str, ...]:
    if RESTORED_ACTIVATION not in look.measurements or loses_nothing(look, PRUNED):
        return ()
    return PRUNED, RESTORED_ACTIVATION


def _judged(look: Look) -> Verdict:
    if RESTORED_ACTIVATION not in look.measurements:
        return not_applicable(CLAIM, "no window of text is as long as the place of the super activation")
    lost, still_lost = look.nll_increase(PRUNED), look.nll_increase(RESTORED_ACTIVATION)
    if jackknife(lost).low <= 0:
        return not_applicable(CLAIM, "pruning the set loses nothing that could be won back")
    both = np.stack([lost - still_lost, lost], axis=1)
    won, all_lost = both.mean(axis=0)
    measurements = look.measurements
    return judged(
        CLAIM,
        Criterion(
            "share of the lost log-perplexity won back",
            measured(won / all_lost, absolute=0.01),
            jackknife(both, lambda means: means[:, 0] / means[:, 1]),
            WON_BACK,
            AT_LEAST,
        ),
        perplexities={
            name: measured(measurements[name].perplexity) for name in (INTACT, PRUNED, RESTORED_ACTIVATION)
        },
    )
