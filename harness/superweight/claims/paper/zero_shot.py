"""C15: without the super weights, zero-shot accuracy falls to guessing; judged where tasks are asked for."""

from __future__ import annotations

import numpy as np

from superweight.claims.evidence import Evidence
from superweight.claims.verdict import (
    AT_LEAST,
    AT_MOST,
    Claim,
    Criterion,
    Measured,
    Verdict,
    counted,
    judged,
    measured,
    not_applicable,
)
from superweight.core.statistics import bootstrap
from superweight.measurement.zero_shot import Accuracy, Tasks

CLAIM = Claim(
    "C15", "Without the super weights, zero-shot accuracy falls to guessing.", "Table 1", of_predictions=True
)

# Most of what is known above guessing. The paper's own share is 0.84: its mean falls from 70.11 to
# 35.14, and guessing would reach 28.6 on its seven tasks.
SHARE_LOST = 0.5
# Of a stored number that was put back nothing is approximate.
NO_DIFFERENCE = 0


def judge(evidence: Evidence, tasks: Tasks) -> Verdict:
    """Take the accuracy above guessing, over the items of all tasks, and the share that pruning costs."""
    if not evidence.scan.coordinates:
        return not_applicable(CLAIM, "no super weight is found")
    intact = evidence.engine.accuracies(tasks)
    pruned = evidence.engine.accuracies(tasks, evidence.pruned_set)
    restored = evidence.engine.accuracies(tasks)
    rows = {
        name: {
            "guessing": measured(of_intact.guessing),
            "items": len(of_intact.right),
            "intact": _row(of_intact),
            "pruned": _row(pruned[name]),
            "restored": _row(restored[name]),
        }
        for name, of_intact in intact.items()
    }
    above = np.concatenate([task.right - task.guessing for task in intact.values()])
    lost = np.concatenate([task.right - pruned[name].right for name, task in intact.items()])
    changed = sum(int((task.right != restored[name].right).sum()) for name, task in intact.items())
    if bootstrap(above).low <= 0:
        reason = "the intact model does no better than guessing, so there is nothing to lose"
        return Verdict(CLAIM, not_applicable(CLAIM, reason).status, reason, evidence={"accuracy": rows})
    both = np.stack([lost, above], axis=1)
    share = lost.mean() / above.mean()
    return judged(
        CLAIM,
        Criterion(
            "share of the accuracy above guessing that is lost",
            measured(float(share), absolute=0.05),
            bootstrap(both, lambda means: means[:, 0] / means[:, 1]),
            SHARE_LOST,
            AT_LEAST,
        ),
        counted("items that are answered otherwise after restoring", changed, NO_DIFFERENCE, AT_MOST),
        accuracy=rows,
    )


def _row(accuracy: Accuracy) -> dict[str, Measured]:
    # One item in fifty may tip over between kernels.
    return {
        "accuracy": measured(accuracy.mean, absolute=0.02),
        "standard_error": measured(accuracy.standard_error, absolute=0.01),
    }
