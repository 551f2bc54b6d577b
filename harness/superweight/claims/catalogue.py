"""List every claim of the paper with the function that judges it, in the paper's order."""

from __future__ import annotations

from collections.abc import Callable

from superweight.claims.evidence import Evidence
from superweight.claims.paper import (
    activation_quantization,
    activation_restoration,
    fine_tuning,
    generation,
    location,
    one_pass,
    other_outliers,
    persistence,
    pruning,
    sensitivity,
    stopwords,
    suppression,
    weight_quantization,
    weight_restoration,
)
from superweight.claims.sequential_verdict import SequentialTest
from superweight.claims.verdict import Claim, Verdict

_MODULES = (
    location,
    one_pass,
    pruning,
    other_outliers,
    suppression,
    persistence,
    weight_restoration,
    activation_restoration,
    stopwords,
    sensitivity,
    generation,
    activation_quantization,
    weight_quantization,
    fine_tuning,
)

CLAIMS: dict[Claim, Callable[[Evidence], Verdict]] = {module.CLAIM: module.judge for module in _MODULES}

# Those that read on while they are in doubt, and share what is measured for it.
SEQUENTIAL: tuple[Callable[[Evidence], SequentialTest | Verdict], ...] = tuple(
    module.sequential_test
    for module in (pruning, other_outliers, activation_restoration, stopwords, sensitivity)
)
