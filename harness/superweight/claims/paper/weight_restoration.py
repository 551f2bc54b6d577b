"""C7: restoring the scalars restores the model, bit for bit."""

from __future__ import annotations

import sys

import torch

from superweight.claims.evidence import Evidence
from superweight.claims.verdict import AT_LEAST, AT_MOST, Claim, Verdict, counted, judged, not_applicable
from superweight.model.edits import edited

CLAIM = Claim("C7", "Restoring the super weights restores every logit, bit for bit.", "section 3.2")

# Nothing is approximate about putting a stored number back.
NO_DIFFERENCE = 0.0
# Any change at all shows that there was something to restore.
SOME_DIFFERENCE = sys.float_info.min


def judge(evidence: Evidence) -> Verdict:
    """Compare all logits of one window before, during and after a prune."""
    if not evidence.scan.coordinates:
        return not_applicable(CLAIM, "no super weight is found")
    before = _logits(evidence)
    with edited(evidence.subject, evidence.pruned_set):
        pruned = _logits(evidence)
    after = _logits(evidence)
    left = float((after - before).abs().max())
    changed = "largest change of a logit while pruned"
    return judged(
        CLAIM,
        counted("largest change of a logit after restoring", left, NO_DIFFERENCE, AT_MOST),
        counted(changed, float(not torch.equal(pruned, before)), SOME_DIFFERENCE, AT_LEAST),
    )


def _logits(evidence: Evidence) -> torch.Tensor:
    ids = torch.from_numpy(evidence.windows.ids[:1]).to(evidence.subject.device)
    with torch.no_grad():
        logits: torch.Tensor = evidence.subject.model(input_ids=ids, use_cache=False).logits.float()
    return logits
