"""A whole check outside pytest: load, measure, judge every claim, hold it to what is expected."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

from superweight.checkpoints.registry import resolve
from superweight.checkpoints.sources import require_different_models
from superweight.claims.baselines import read
from superweight.claims.catalogue import CLAIMS
from superweight.claims.evidence import Evidence
from superweight.claims.expectations import Outcome, baseline_of, hold
from superweight.claims.record import record
from superweight.claims.run_config import RunConfig
from superweight.claims.verdict import Claim, Verdict
from superweight.detection.scan import scan
from superweight.measurement.corpus import default_prompt
from superweight.model.subject import free


@dataclass(frozen=True)
class CheckRequest:
    """What a person asked to be checked, as on the command line."""

    model: str
    base: str | None
    expect: str
    run_config: RunConfig = field(default_factory=RunConfig)
    tasks: tuple[str, ...] = ()
    limit: int | None = None


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
        require_different_models(resolve(request.base), resolve(request.model))
    judges = CLAIMS | _zero_shot(request)
    origin = resolve(request.model).tuned_from
    base_scan = None
    if origin is not None and request.base is None:
        progress(f"scanning {origin}, from which it is tuned")
        tuned_from = request.run_config.load(origin, progress)
        base_scan = scan(tuned_from, default_prompt())
        free(tuned_from)  # there may be room for one model only
    progress(f"loading {request.model}")
    subject = request.run_config.load(request.model, progress)
    base = request.run_config.evidence(request.base, progress) if request.base else None
    if base is not None:
        base_scan = base.scan
    evidence = Evidence(subject, request.run_config.corpus, base_scan)
    _ = evidence.windows  # a corpus that cannot be used is refused even where no claim would read it
    outcomes = []
    for claim, judge in judges.items():
        progress(f"{claim.id}: {claim.sentence}")
        verdict = judge(evidence)
        outcomes.append(_hold(request, evidence, verdict, judge(base) if base else None))
    return Checked(tuple(outcomes), evidence, base)


def _zero_shot(request: CheckRequest) -> dict[Claim, Callable[[Evidence], Verdict]]:
    """Return the claim that is judged only where tasks are asked for; their data is read at once."""
    if not request.tasks:
        return {}
    from superweight.claims.paper import zero_shot
    from superweight.measurement.zero_shot import read_tasks

    tasks = read_tasks(request.tasks, request.limit)
    return {zero_shot.CLAIM: lambda evidence: zero_shot.judge(evidence, tasks)}


def _hold(request: CheckRequest, evidence: Evidence, verdict: Verdict, base: Verdict | None) -> Outcome:
    subject = evidence.subject
    path = baseline_of(request.run_config.baselines, subject, verdict)
    recorded = record(subject.name, verdict, subject.provenance.as_dict())
    return hold(
        verdict, recorded, read(path), base=base, expect=request.expect, entry=subject.entry, path=path
    )
