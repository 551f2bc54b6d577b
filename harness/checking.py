"""A whole check outside pytest: load, measure, judge every claim, hold it to what is expected."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from harness.baselines import baseline_path, read, record
from harness.claims import CLAIMS
from harness.claims.verdict import Verdict
from harness.corpus import default_prompt
from harness.evidence import Evidence
from harness.expectations import (
    PAPER,
    Outcome,
    hold_to_base,
    hold_to_baseline,
    hold_to_paper,
    hold_to_registry,
)
from harness.loading import Subject, load
from harness.registry import resolve
from harness.scanning import scan


@dataclass(frozen=True)
class Request:
    """What a person asked to be checked, as on the command line."""

    model: str
    base: str | None
    expect: str
    corpus: str
    baselines: Path
    device: str = "auto"
    dtype: str = "auto"
    trust: tuple[str, ...] = ()

    def load(self, spec: str) -> Subject:
        return load(resolve(spec), device=self.device, dtype=self.dtype, trust=self.trust)


def check_model(
    request: Request, progress: Callable[[str], None] = lambda step: None
) -> tuple[list[Outcome], Mapping[str, Any]]:
    """Return the outcome of every claim, in the paper's order, and the subject's provenance.

    Raises `BadInput` for a model, base or corpus that cannot be used.
    """
    progress(f"loading {request.model}")
    subject = request.load(request.model)
    base = Evidence(request.load(request.base), request.corpus) if request.base else None
    base_scan = base.scan if base else None
    if base_scan is None and subject.entry.tuned_from:
        base_scan = scan(request.load(subject.entry.tuned_from), default_prompt())
    evidence = Evidence(subject, request.corpus, base_scan)
    _ = evidence.windows  # a corpus that cannot be used is refused even where no claim would read it
    outcomes = []
    for claim, judge in CLAIMS.items():
        progress(f"{claim.id}: {claim.sentence}")
        verdict = judge(evidence)
        outcomes.append(_hold(request, evidence, verdict, judge(base) if base else None))
    return outcomes, subject.provenance.as_dict()


def _hold(request: Request, evidence: Evidence, verdict: Verdict, base: Verdict | None) -> Outcome:
    subject, provenance = evidence.subject, evidence.subject.provenance
    if request.expect == PAPER:
        return hold_to_paper(verdict)
    if base is not None:
        return hold_to_base(verdict, base)
    stored = read(
        baseline_path(request.baselines, subject.name, provenance.device, provenance.dtype, verdict.claim.id)
    )
    if stored is not None:
        return hold_to_baseline(verdict, record(subject.name, verdict, provenance.as_dict()), stored)
    return hold_to_registry(verdict, subject.entry)
