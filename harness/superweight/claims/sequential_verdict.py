"""Judge a claim on more and more windows of text, and stop once the verdict is decided."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import replace

from superweight.claims.verdict import REFUTED, SUPPORTED, Verdict
from superweight.measurement.sequential import Look


def settled(looks: Iterable[Look], judge: Callable[[Look], Verdict]) -> Verdict:
    """Return the first verdict that is for or against, or the one over all the text.

    The intervals that it rests on must allow for several looks: `superweight.core.statistics.jackknife`.
    """
    for look in looks:
        verdict = judge(look)
        if verdict.status in (SUPPORTED, REFUTED):
            break
    return replace(verdict, evidence={**verdict.evidence, "windows": look.windows})
