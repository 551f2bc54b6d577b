"""List every property with the function that judges it."""

from __future__ import annotations

from collections.abc import Callable

from superweight.claims.evidence import Evidence
from superweight.claims.properties import (
    any_order,
    any_prompt,
    batch_invariance,
    dtype_agreement,
    monotone,
)
from superweight.claims.properties.search import Budget
from superweight.claims.verdict import Claim, Verdict

_MODULES = (any_prompt, any_order, monotone, batch_invariance, dtype_agreement)

PROPERTIES: dict[Claim, Callable[[Evidence, Budget], Verdict]] = {
    module.CLAIM: module.judge for module in _MODULES
}
