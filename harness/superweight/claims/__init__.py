"""The paper's claims, one small module each: what it says, the statistic, the threshold, why.

``CLAIMS`` lists them in the paper's order; each module has a ``CLAIM`` and a function ``judge``.
"""

from __future__ import annotations

from collections.abc import Callable

from superweight.claims import (
    activation_restored,
    activation_rounding,
    generation,
    location,
    one_pass,
    other_outliers,
    persistence,
    pruning,
    restoring,
    sensitivity,
    stopwords,
    suppression,
    tuning,
    weight_rounding,
)
from superweight.claims.verdict import Claim, Verdict
from superweight.evidence import Evidence

_MODULES = (
    location,
    one_pass,
    pruning,
    other_outliers,
    suppression,
    persistence,
    restoring,
    activation_restored,
    stopwords,
    sensitivity,
    generation,
    activation_rounding,
    weight_rounding,
    tuning,
)

CLAIMS: dict[Claim, Callable[[Evidence], Verdict]] = {module.CLAIM: module.judge for module in _MODULES}
