"""A whole check outside pytest: load, measure, judge every claim, hold it to what is expected."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

from superweight.checkpoints.registry import resolve
from superweight.checkpoints.sources import refuse_itself
from superweight.claims.baselines import read
from superweight.claims.catalogue import CLAIMS
from superweight.claims.evidence import Evidence
from superweight.claims.expectations import Outcome, baseline_of, hold
from superweight.claims.record import record
from superweight.claims.run_config import Setting
from superweight.claims.verdict import Claim, Verdict
from superweight.detection.scan import scan
from superweight.measurement.corpus import default_prompt
from superweight.model.subject import free


@dataclass(frozen=True)
class Request:
    """What a person asked to be checked, as on the command line."""

    model: str
    base: str | None
    expect: str
    setting: Setting = field(default_factory=Setting)
    tasks: tuple[str, ...] = ()
    limit: int | None = None


@dataclass(frozen=True)
class Checked:
    """The outcome of every claim, in the paper's order, and what they rest on."""

    outcomes: tuple[Outcome, ...]
    evidence: Evidence
    base: Evidence | None


def check_model(request: Request, progress: Callable[[str], None] = lambda step: None) -> Checked:
    """Judge every claim of a model and hold the verdicts to what is expected.

    Raises `BadInput` for a model, base or corpus that cannot be used, and for a base that is the model.
    """
    if request.base is not None:
        refuse_itself(resolve(request.base), resolve(request.model))
    judges = CLAIMS | _zero_shot(request)
    origin = resolve(request.model).tuned_from
    base_scan = None
    if origin is not None and request.base is None:
        progress(f"scanning {origin}, from which it is tuned")
        tuned_from = request.setting.load(origin, progress)
        base_scan = scan(tuned_from, default_prompt())
        free(tuned_from)  # there may be room for one model only
    progress(f"loading {request.model}")
    subject = request.setting.load(request.model, progress)
    base = request.setting.evidence(request.base, progress) if request.base else None
    if base is not None:
        base_scan = base.scan
    evidence = Evidence(subject, request.setting.corpus, base_scan)
    _ = evidence.windows  # a corpus that cannot be used is refused even where no claim would read it
    outcomes = []
    for claim, judge in judges.items():
        progress(f"{claim.id}: {claim.sentence}")
        verdict = judge(evidence)
        outcomes.append(_hold(request, evidence, verdict, judge(base) if base else None))
    return Checked(tuple(outcomes), evidence, base)


def _zero_shot(request: Request) -> dict[Claim, Callable[[Evidence], Verdict]]:
    """Return the claim that is judged only where tasks are asked for; their data is read at once."""
    if not request.tasks:
        return {}
    from superweight.claims.paper import zero_shot
    from superweight.measurement.zero_shot import read_tasks

    tasks = read_tasks(request.tasks, request.limit)
    return {zero_shot.CLAIM: lambda evidence: zero_shot.judge(evidence, tasks)}


def _hold(request: Request, evidence: Evidence, verdict: Verdict, base: Verdict | None) -> Outcome:
    subject = evidence.subject
    path = baseline_of(request.setting.baselines, subject, verdict)
    recorded = record(subject.name, verdict, subject.provenance.as_dict())
    return hold(
        verdict, recorded, read(path), base=base, expect=request.expect, entry=subject.entry, path=path
    )
