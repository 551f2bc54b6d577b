"""Run a whole check: load, measure, judge every claim, compare with what is expected."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace

from superweight.checkpoints.model_ref import ModelRef, parse_model
from superweight.checkpoints.sources import require_different_models
from superweight.claims.baselines import read
from superweight.claims.budget import Budget, cheapest_first
from superweight.claims.catalogue import CLAIMS, SEQUENTIAL
from superweight.claims.evidence import Evidence
from superweight.claims.expectations import Outcome, baseline_of, compare_with_expectation
from superweight.claims.plan import Plan, plan_of
from superweight.claims.record import record
from superweight.claims.run_config import RunConfig
from superweight.claims.verdict import Claim, Verdict
from superweight.detection.scan import Scan, scan
from superweight.engines.engine import Engine
from superweight.measurement.corpus import default_prompt
from superweight.model.subject import Subject, free


@dataclass(frozen=True)
class CheckRequest:
    """The options of a check, as on the command line."""

    model: ModelRef
    base: ModelRef | None
    expect: str
    run_config: RunConfig = field(default_factory=RunConfig)
    tasks: tuple[str, ...] = ()
    limit: int | None = None
    budget: float | None = None


@dataclass(frozen=True)
class Checked:
    """The outcome of every claim, in the paper's order, and what they rest on."""

    outcomes: tuple[Outcome, ...]
    evidence: Evidence
    base: Evidence | None


def run_check(request: CheckRequest, progress: Callable[[str], None] = lambda step: None) -> Checked:
    """Judge every claim of a model and hold the verdicts to what is expected.

    Raises `BadInput` for a model, base or corpus that cannot be used, and for a base that is the model.
    """
    if request.base is not None:
        require_different_models(request.base.entry, request.model.entry)
    request.run_config.require_engines(request.model, request.base)
    judges = CLAIMS | _zero_shot(request)
    base_scan = None
    if request.base is None:

        def acquire(origin: ModelRef) -> Subject:
            progress(f"scanning {origin}, from which it is tuned")
            return request.run_config.load(origin, progress)

        base_scan = scan_of_origin(request.model, acquire, free)
    progress(f"loading {request.model}")
    subject = request.run_config.load(request.model, progress)
    base = None
    if request.base is not None:
        base = request.run_config.for_base(request.base).evidence(request.base, progress)
    if base is not None:
        base_scan = base.scan
    loader = request.run_config.engine_loader(request.run_config.engine)
    evidence = evidence_of(subject, request.run_config.corpus, base_scan, loader)
    order = list(judges)
    if request.budget is not None:
        progress("planning what fits into the budget")
        evidence.budget = Budget(request.budget, plan_of(evidence))
        order = cheapest_first(judges, evidence.budget.plan)
    outcomes = {}
    for claim in order:
        progress(f"{claim.id}: {claim.sentence}")
        outcomes[claim] = _judged(request, judges[claim], claim, evidence, base)
    return Checked(tuple(outcomes[claim] for claim in judges), evidence, base)


def run_plan(
    model: ModelRef, run_config: RunConfig, progress: Callable[[str], None] = lambda step: None
) -> Plan:
    """Return what a check of a model would measure; only the scan and one timed pass are run.

    Raises `BadInput` for a model or corpus that cannot be used.
    """
    progress(f"loading {model}")
    # Planned in transformers, whatever engine measures: there the scan is.
    evidence = evidence_of(run_config.load(model, progress), run_config.corpus, None)
    progress(f"scanning {model}")
    return plan_of(evidence)


def _judged(
    request: CheckRequest,
    judge: Callable[[Evidence], Verdict],
    claim: Claim,
    evidence: Evidence,
    base: Evidence | None,
) -> Outcome:
    """Judge a claim, if the budget has room for it, and hold the verdict to what is expected."""
    refusal = evidence.budget.refusal(claim) if evidence.budget is not None else None
    if refusal is not None:
        return _outcome(request, evidence, refusal, None)
    verdict = evidence.verdict(judge)
    return _outcome(request, evidence, verdict, base.verdict(judge) if base and not verdict.unmet else None)


def scan_of_origin(
    model: ModelRef, acquire: Callable[[ModelRef], Subject], release: Callable[[Subject], None]
) -> Scan | None:
    """Scan the model that a model was tuned from, if the registry names it, and release it again.

    To be called before the model itself is loaded: there may be room for one only.
    """
    if model.entry.tuned_from is None:
        return None
    origin = acquire(replace(parse_model(model.entry.tuned_from), named_by_user=model.named_by_user))
    try:
        return scan(origin, default_prompt())
    finally:
        release(origin)


def evidence_of(
    subject: Subject,
    corpus: str,
    base_scan: Scan | None,
    load_engine: Callable[[Subject], Engine] | None = None,
) -> Evidence:
    """Return the evidence of a model; raises `BadInput` for a corpus or an engine that cannot be used.

    The corpus is read at once, even where no claim would read it: before anything is measured.
    """
    evidence = Evidence(subject, corpus, base_scan, load_engine, SEQUENTIAL)
    _ = evidence.windows, evidence.engine
    return evidence


def _zero_shot(request: CheckRequest) -> dict[Claim, Callable[[Evidence], Verdict]]:
    """Return the claim that is judged only where tasks are asked for; their data is read at once."""
    if not request.tasks:
        return {}
    from superweight.claims.paper import zero_shot
    from superweight.measurement.zero_shot import read_tasks

    tasks = read_tasks(request.tasks, request.limit)
    return {zero_shot.CLAIM: lambda evidence: zero_shot.judge(evidence, tasks)}


def _outcome(request: CheckRequest, evidence: Evidence, verdict: Verdict, base: Verdict | None) -> Outcome:
    subject = evidence.subject
    path = baseline_of(request.run_config.baselines, evidence, verdict)
    recorded = record(subject.name, verdict, evidence.provenance_of(verdict))
    return compare_with_expectation(
        verdict, recorded, read(path), base=base, expect=request.expect, entry=subject.entry, path=path
    )
