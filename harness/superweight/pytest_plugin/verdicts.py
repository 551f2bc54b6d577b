"""Compare a claim's verdict with what is expected of it in a pytest run, its snapshot included."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest

from superweight.claims.baselines import read
from superweight.claims.catalogue import CLAIMS
from superweight.claims.evidence import Evidence
from superweight.claims.expectations import (
    PAPER,
    Outcome,
    baseline_of,
    compare_with_baseline,
    compare_with_expectation,
)
from superweight.claims.record import record
from superweight.claims.verdict import Verdict
from superweight.core.environment import in_ci
from superweight.pytest_plugin import collection
from superweight.pytest_plugin.snapshots import bound_to
from superweight.pytest_plugin.terminal import OBSERVED, UPDATE
from superweight.report.observations import document_of, shown


def judged(
    request: pytest.FixtureRequest,
    evidence: Evidence,
    base: Evidence | None,
    judge: Callable[[Evidence], Verdict],
) -> Outcome:
    """Judge a claim and hold the verdict to what is expected; ``--snapshot-update`` keeps it instead.

    Under CI a model that the registry alone knows has no gate to pass: that is a gap.
    """
    option, subject = request.config.option, evidence.subject
    claim = next((claim for claim, own in CLAIMS.items() if own is judge), None)
    refusal = evidence.budget.refusal(claim) if evidence.budget is not None and claim is not None else None
    verdict = evidence.verdict(judge) if refusal is None else refusal
    if verdict.unmet:
        return Outcome(verdict, None, None)
    path = baseline_of(collection.baselines(request), evidence, verdict)
    recorded = record(subject.name, verdict, evidence.provenance_of(verdict))
    stored = read(path)
    outcome = compare_with_expectation(
        verdict,
        recorded,
        stored,
        base=None if base is None else base.verdict(judge),
        expect=option.sw_expect,
        entry=subject.entry,
        path=path,
    )
    if option.sw_expect == PAPER or base is not None:
        return outcome
    updating = bool(getattr(option, "update_snapshots", False))
    if stored is None and not updating:
        if in_ci() and outcome.as_expected:
            gap = f"CI is set, and there is no baseline {path.name} for {path.parent.name}"
            return replace(outcome, source=None, gaps=(gap,))
        return outcome
    if not request.config.pluginmanager.hasplugin("syrupy"):
        return compare_with_baseline(verdict, recorded, stored or {})
    snapshot = request.getfixturevalue("snapshot").use_extension(bound_to(path))
    matches = snapshot == recorded
    outcome = compare_with_baseline(verdict, recorded, stored or {})
    if matches and outcome.gaps and updating:
        return Outcome(verdict, None, UPDATE)  # what was kept a moment ago was not expected before
    # Neither is believed alone: what one of them cannot tell apart, the other may.
    if matches or outcome.gaps:
        return outcome
    return replace(outcome, gaps=("the baseline does not match",))


def observe(config: pytest.Config, evidence: Evidence, base: Evidence | None) -> None:
    """Keep what the report shows of a model beside its verdicts, while it is still loaded."""
    parts = shown(evidence)
    if base is not None:
        parts["base"] = document_of(base)
    config.stash.setdefault(OBSERVED, {})[evidence.subject.name] = parts
