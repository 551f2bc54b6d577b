"""Compare a verdict with what is expected: by the base model, the baseline, the registry or the paper."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from superweight.checkpoints.registry import ModelEntry
from superweight.claims.baselines import baseline_path, differences, has_others
from superweight.claims.catalogue import CLAIMS
from superweight.claims.properties.catalogue import PROPERTIES
from superweight.claims.verdict import INCONCLUSIVE, NOT_APPLICABLE, REFUTED, SUPPORTED, Verdict
from superweight.core.environment import in_ci
from superweight.core.readable import readable

if TYPE_CHECKING:
    from superweight.claims.evidence import Evidence

AUTO, PAPER = "auto", "paper"
EXPECTATIONS = (AUTO, PAPER)


@dataclass(frozen=True)
class Outcome:
    """A verdict beside what was expected of it.

    ``source`` says who expected it: "base", "baseline", "registry", "paper", or None when the
    model is being met for the first time. "update" says that nothing was expected: the verdict was
    accepted as the new baseline. ``gaps`` are the reasons why it is not as expected.
    """

    verdict: Verdict
    expected: str | None
    source: str | None
    gaps: tuple[str, ...] = ()

    @property
    def as_expected(self) -> bool:
        return not self.gaps

    @property
    def was_judged(self) -> bool:
        """Whether the verdict says anything: not where a budget ended before it was decided, or the text did
        while the base's is decided."""
        return not self.verdict.unmet


def compare_with_expectation(
    verdict: Verdict,
    recorded: Mapping[str, Any],
    stored: Mapping[str, Any] | None,
    *,
    base: Verdict | None,
    expect: str,
    entry: ModelEntry,
    path: Path,
) -> Outcome:
    """Compare a verdict with what is expected of it: the paper if that was asked for, else the base, else
    the committed baseline, else the registry.

    ``recorded`` is the verdict's own record, ``stored`` the baseline that lies at
    ``path``, or None where there is none.
    """
    if verdict.unmet:
        return Outcome(verdict, None, None)
    if expect == PAPER:
        return compare_with_paper(verdict)
    if base is not None and base.unmet:
        return Outcome(replace(verdict, unmet=f"the base: {base.unmet}"), None, None)
    if base is not None:
        return compare_with_base(verdict, base)
    if stored is not None:
        return compare_with_baseline(verdict, recorded, stored)
    if verdict.claim in {*CLAIMS, *PROPERTIES} and has_others(path):
        return report_missing_baseline(verdict, path)
    return compare_with_registry(verdict, entry)


def baseline_of(root: Path, evidence: Evidence, verdict: Verdict) -> Path:
    """Return where the baseline of a verdict on a model lies."""
    return baseline_path(root, evidence.subject.name, *evidence.place_of(verdict), verdict.claim.id)


def compare_with_base(verdict: Verdict, base: Verdict) -> Outcome:
    """Expect the status that the same claim has on the base model.

    A claim about the relation between the two is held to what it says: that it is supported, or that
    it says nothing where the base has no super weight. Where one of the two verdicts is decided and the other
    is not, their intervals are compared: they may be one measurement on either side of a threshold. An open
    verdict whose intervals meet those of a decided base shows neither damage nor that all is well.
    """
    if verdict.claim.relation:
        gaps = () if verdict.status == NOT_APPLICABLE else _status_gap(verdict, SUPPORTED, "the claim")
        return Outcome(verdict, SUPPORTED, "base", gaps)
    decided = [item.status in (SUPPORTED, REFUTED) for item in (verdict, base)]
    if INCONCLUSIVE in (verdict.status, base.status) and any(decided):
        gaps = tuple(_apart(verdict, base))
    else:
        gaps = _status_gap(verdict, base.status, "the base model")
    if verdict.status == INCONCLUSIVE and decided[1] and not gaps:
        verdict = replace(verdict, unmet=f"more text: the base model has {base.status}")
    return Outcome(verdict, base.status, "base", gaps)


def _apart(verdict: Verdict, base: Verdict) -> Iterator[str]:
    """Yield a gap for each criterion whose interval does not meet the base's; if none, for the status."""
    intervals = {criterion.name: criterion.interval for criterion in base.criteria}
    if {criterion.name for criterion in verdict.criteria} != intervals.keys() or not intervals:
        yield from _status_gap(verdict, base.status, "the base model")
        return
    for criterion in verdict.criteria:
        ours, theirs = criterion.interval, intervals[criterion.name]
        if ours.low > theirs.high or ours.high < theirs.low:
            yield (
                f"{criterion.name}: the base model has {_span(theirs.low, theirs.high)}, "
                f"this model {_span(ours.low, ours.high)}"
            )


def compare_with_paper(verdict: Verdict) -> Outcome:
    """Expect what the paper says: that the claim holds.

    A claim that says nothing about the model is no gap, but C1 always says something: a model
    in which nothing is found does not do what the paper says.
    """
    if verdict.status == NOT_APPLICABLE and verdict.claim.id != "C1":
        return Outcome(verdict, SUPPORTED, "paper")
    return Outcome(verdict, SUPPORTED, "paper", _status_gap(verdict, SUPPORTED, "the paper"))


def compare_with_baseline(
    verdict: Verdict, recorded: Mapping[str, Any], stored: Mapping[str, Any]
) -> Outcome:
    """Expect the committed baseline, every leaf of it within its tolerance."""
    if not stored:
        return Outcome(verdict, None, "baseline", ("the baseline file is not readable as one",))
    expected = str(stored["status"])
    gaps = tuple(differences(dict(stored), dict(recorded)))
    # The status is what a gate is about: it does not hang on the comparison of leaves alone.
    if not gaps and INCONCLUSIVE not in (expected, verdict.status):
        gaps = _status_gap(verdict, expected, "the baseline")
    return Outcome(verdict, expected, "baseline", gaps)


def report_missing_baseline(verdict: Verdict, path: Path) -> Outcome:
    """Expect the baseline that other claims have and this one lacks: a gap, not a first meeting."""
    gap = f"there is no baseline {path.name} in {path.parent.name}, though other claims have theirs there"
    return Outcome(verdict, None, None, (gap,))


def compare_with_registry(verdict: Verdict, entry: ModelEntry) -> Outcome:
    """Expect what the registry says somebody reported; nothing where it is silent.

    With nothing to compare with, the run has only characterised the model: a finding for a
    person, a failure for a gate.
    """
    expected = entry.expected(verdict.claim.id)
    spread = entry.undecided.get(verdict.claim.id)
    if spread is not None and verdict.deciding is not None and verdict.status in (SUPPORTED, REFUTED):
        low, high = spread
        name, value = verdict.deciding.name, verdict.deciding.statistic.value
        gap = f"{name}: the registry has {_span(low, high)}, this model {readable(value)}"
        return Outcome(verdict, expected, "registry", () if low <= value <= high else (gap,))
    if expected is not None:
        return Outcome(verdict, expected, "registry", _status_gap(verdict, expected, "the registry"))
    if in_ci():
        return Outcome(verdict, None, None, ("CI is set, and there is nothing to compare with",))
    return Outcome(verdict, None, None)


def _span(low: float, high: float) -> str:
    return f"{readable(low)} to {readable(high)}"


def _status_gap(verdict: Verdict, expected: str, who: str) -> tuple[str, ...]:
    if verdict.status == expected:
        return ()
    return (f"status: {who} has {expected}, this model {verdict.status}",)


_NEXT_STEPS = {
    "base": "Look for what the release changed: superweight scan on both names the scalars.",
    "baseline": (
        "If the model was meant to change, accept it with --snapshot-update and commit the baseline; "
        "if not, the checkpoint or what loads it has changed."
    ),
    "registry": "If the report in fixtures/models.toml is wrong for these weights, correct it there.",
    "paper": "The paper's claim does not hold on this model; without --sw-expect paper that is a finding.",
    None: "Run once with --snapshot-update and commit the baselines, or give a base model.",
}


def explain(model: str, outcome: Outcome) -> str:
    """Return what a person reads when an outcome is not as expected."""
    verdict = outcome.verdict
    lines = [
        f"{verdict.claim.id} on {model}: {verdict.claim.sentence} ({verdict.claim.place})",
        f"  expected  {outcome.expected or 'nothing on record'} ({outcome.source or 'no source'})",
        f"  measured  {verdict.status}: {verdict.reason}",
        *(f"  changed   {gap}" for gap in outcome.gaps),
        *(f"  found     {line}" for line in verdict.evidence.get("differences", [])),
        f"  next      {_NEXT_STEPS[outcome.source]}",
    ]
    return "\n".join(lines)
