"""C11: without the super weights, what the model writes collapses."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from superweight.claims.evidence import Evidence
from superweight.claims.verdict import AT_LEAST, Claim, Criterion, Verdict, judged, measured, not_applicable
from superweight.core.statistics import bootstrap
from superweight.measurement.conditions import INTACT
from superweight.measurement.generation import Continuation

CLAIM = Claim(
    "C11", "Without the super weights, what the model writes collapses.", "Figure 1", of_predictions=True
)

# "Collapses" speaks of the model, not of a lucky prompt: most continuations, beyond those that
# the intact model spoils by itself.
MORE_COLLAPSED = 0.5


def judge(evidence: Evidence) -> Verdict:
    """Count greedy continuations that loop or are gibberish, pruned less intact.

    Gibberish is text that the intact model finds less likely, per token, than the text people
    wrote for the corpus; its own greedy text is always likelier than that.
    """
    if not evidence.scan.coordinates:
        return not_applicable(CLAIM, "no super weight is found")
    human = float(evidence.sequential.first().measurements[INTACT].nll.mean())
    rows, collapsed = {}, {}
    for name, writing in (("intact", evidence.intact_writing), ("pruned", evidence.pruned_writing)):
        nlls = evidence.judged_by_intact(writing)
        collapsed[name] = np.array(
            [float(item.loops or nll > human) for item, nll in zip(writing, nlls, strict=True)]
        )
        rows[name] = _summary(writing, nlls)
    more = collapsed["pruned"] - collapsed["intact"]
    return judged(
        CLAIM,
        Criterion(
            "share of continuations that collapse, pruned less intact",
            measured(float(more.mean()), absolute=0.13),  # one continuation of eight may tip over
            bootstrap(more),
            MORE_COLLAPSED,
            AT_LEAST,
        ),
        human_nll=measured(human),
        **rows,
    )


def _summary(writing: Sequence[Continuation], nlls: Sequence[float]) -> dict[str, object]:
    def mean(values: Sequence[float], within: float) -> object:
        return measured(float(np.mean(values)), absolute=within)

    return {
        "loop_rate": mean([item.loops for item in writing], 0.13),
        "repeated_4grams": mean([item.repeated_4grams for item in writing], 0.05),
        "distinct_2": mean([item.distinct_2 for item in writing], 0.05),
        "nll_by_intact": mean(nlls, 0.5),
    }
