"""Do with one model what its job says, in this process: measure, judge, make the report."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from superweight.checkpoints.agreement import SetAgreement
from superweight.checkpoints.model_ref import ModelRef, parse_model
from superweight.claims.check import CheckRequest, evidence_of, run_check
from superweight.claims.run_config import RunConfig
from superweight.core.errors import BadInput, BrokenModel
from superweight.core.run_notes import noted
from superweight.fleet.job import CHECK, COMPARE, REPORT, SCAN, Job
from superweight.fleet.judgement import Judgement, judged_document
from superweight.fleet.row import AS_EXPECTED, CANNOT_JUDGE, NOT_AS_EXPECTED
from superweight.report.document import of_comparison, read_document
from superweight.report.run_info import Stages, run_of

_BROKEN = "broken"


def judge(job: Job, source: str | None = None, base: str | None = None) -> Judgement:
    """Return what comes of a job. Raises nothing that a model can bring about.

    ``source`` and ``base`` take the place of what the job names, tied to one revision.
    """
    by_mode: Mapping[str, Callable[[Job, _Run], Judgement]]
    by_mode = {SCAN: _scan, CHECK: _check, COMPARE: _compare, REPORT: _report}
    try:
        with noted() as notes:
            run = _Run(job, source, base, notes)
            return by_mode[job.mode](job, run)
    except BrokenModel as error:
        # Damage that was seen, as in the other doors: no limit of this machine.
        status = AS_EXPECTED if job.expect == "damaged" else NOT_AS_EXPECTED
        return Judgement(status, str(error), verdict=_BROKEN)
    except BadInput as error:
        return Judgement(CANNOT_JUDGE, str(error))


class _Run:
    """The model, its base and the options of one job, read as the other doors read them."""

    def __init__(self, job: Job, source: str | None, base: str | None, notes: list[str]) -> None:
        folder = Path(job.folder) if job.folder else None
        self.model = self._parsed(job.model, source, folder)
        self.base = None if job.base is None else self._parsed(job.base, base, folder)
        self.config = RunConfig(
            corpus=job.corpus,
            baselines=Path(job.baselines),
            device=job.device,
            dtype=job.dtype,
            trust=job.trust,
            engine=job.engine,
        )
        self.stages = Stages()
        self._job, self._notes = job, notes

    @staticmethod
    def _parsed(model: str, source: str | None, folder: Path | None) -> ModelRef:
        ref = parse_model(model, folder)
        if source is None or source == ref.entry.source:
            return ref
        return replace(ref, entry=replace(ref.entry, source=source, revision=None))

    @property
    def part(self) -> dict[str, Any]:
        """The ``run`` of the report: the command that does the same by itself."""
        job = self._job
        words = ["superweight", job.mode, *([str(self.base)] if job.mode == COMPARE else []), str(self.model)]
        if job.mode == CHECK and self.base is not None:
            words += ["--base", str(self.base)]
        words += ["--expect", job.expect] if job.mode == CHECK and job.expect == "paper" else []
        for name in ("device", "dtype", "engine", "corpus"):
            if (value := getattr(job, name)) != getattr(Job, name):
                words += [f"--{name}", value]
        for name in job.trust:
            words += ["--trust", name]
        return run_of(words, job.corpus, self.stages.seconds(), self._notes)


def _scan(job: Job, run: _Run) -> Judgement:
    from superweight.claims.paper.location import published_agreement
    from superweight.measurement.effect import as_dict, measure_effect, summary
    from superweight.report.observations import document_of

    if job.streamed:
        return _scan_streamed(run)
    subject = run.config.load(run.model, run.stages)
    evidence = evidence_of(subject, job.corpus, None)
    run.stages("scanning")
    found = evidence.scan
    run.stages("measuring what it carries")
    effect = measure_effect(subject, found, evidence.windows)
    document = document_of(evidence)
    if effect is not None:
        document["observed"] |= {"effect": as_dict(effect), "summary": summary(found, effect)}
    document["run"] = run.part
    return replace(_held(published_agreement(subject, found)), document=document)


def _scan_streamed(run: _Run) -> Judgement:
    """Scan a model block by block where its files are, no further than it takes to settle the answer."""
    from superweight.claims.paper.location import published_agreement
    from superweight.detection.scan import scan
    from superweight.detection.scan_record import as_dict
    from superweight.detection.stopping_rule import Until
    from superweight.measurement.corpus import default_prompt
    from superweight.model.stream_plan import costing
    from superweight.model.streamed_model import streamed

    run.stages("scanning")
    with streamed(run.model.entry, dtype=run.config.dtype) as opened:
        with costing(opened.stream, opened.checkpoint) as cost:
            found = scan(opened.subject, default_prompt(), Until())
        judged = _held(published_agreement(opened.subject, found))
        record = as_dict(opened.subject, found) | {"cost": cost.as_dict()}
    depth = f"{'provisional: ' if found.provisional else ''}{found.depth}"
    return replace(judged, reason=f"{judged.reason}; {depth}; {cost.line}", scan=record)


def _held(agreement: Sequence[SetAgreement]) -> Judgement:
    """Hold what was found to what is published; one reading of several is enough."""
    if not agreement:
        return Judgement(AS_EXPECTED, "nothing is published: nothing was compared")
    if agreeing := [item for item in agreement if item.supported]:
        return Judgement(AS_EXPECTED, f"as published by {agreeing[0].reading.cited}", None, "registry")
    gaps = tuple(difference for item in agreement for difference in item.differences)
    return Judgement(NOT_AS_EXPECTED, "; ".join(gaps[:3]), None, "registry", gaps)


def _check(job: Job, run: _Run) -> Judgement:
    from superweight.report.observations import document_of

    request = CheckRequest(run.model, run.base, job.expect, run.config)
    checked = run_check(request, run.stages)
    run.stages("gathering what the report shows")
    document = document_of(checked.evidence, checked.outcomes)
    if checked.base is not None:
        document["base"] = document_of(checked.base)
    document["run"] = run.part
    return replace(judged_document(document), document=document)


def _compare(job: Job, run: _Run) -> Judgement:
    from superweight.claims.evidence import Evidence
    from superweight.release.compare import CompareRequest, compare
    from superweight.release.limits import read_limits
    from superweight.release.result import DEPTHS
    from superweight.report.observations import document_if_measurable

    if run.base is None:
        raise BadInput("a comparison needs a base")
    depths = DEPTHS if job.depth == "all" else (job.depth,)
    limits = read_limits(None if job.limits is None else Path(job.limits))
    models: list[Evidence] = []
    request = CompareRequest(run.base, run.model, depths, limits, run.config)
    result = compare(request, run.stages, models.append)
    run.stages("gathering what the report shows")
    documents = [document_if_measurable(evidence) for evidence in models]
    document = of_comparison(result.as_dict(), documents, run.part)
    return replace(judged_document(document, job.expect), document=document)


def _report(job: Job, run: _Run) -> Judgement:
    path = Path(job.folder) / job.model
    document = read_document(path)
    return replace(judged_document(document), document=document)
