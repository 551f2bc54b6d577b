"""Define what came of one model, and read it from a report.json; nothing here needs torch."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from superweight.core.errors import BadInput
from superweight.fleet.row import AS_EXPECTED, CANNOT_JUDGE, NOT_AS_EXPECTED
from superweight.report.document import Document, read_document


@dataclass(frozen=True)
class Judgement:
    """What came of one model: a status of the index, why, and the report where there is one.

    ``scan`` is the JSON of ``superweight scan`` in place of a report, of a model that ran block by block.
    """

    status: str
    reason: str
    verdict: str | None = None
    expected_by: str | None = None
    unexpected: tuple[str, ...] = ()
    document: Document | None = field(default=None, repr=False)
    scan: Mapping[str, Any] | None = field(default=None, repr=False)


def judged_document(document: Document, expected: str = "kept") -> Judgement:
    """Return what a report says, without the report itself; ``expected`` is the verdict of a comparison."""
    if (comparison := document.get("comparison")) is not None:
        verdict, reasons = comparison["verdict"], comparison["reasons"]
        status = NOT_AS_EXPECTED
        if verdict == expected:
            status = AS_EXPECTED
        elif verdict == CANNOT_JUDGE:
            status = CANNOT_JUDGE
        gaps = tuple(reasons) if status == NOT_AS_EXPECTED else ()
        reason = "; ".join(reasons[:2]) or f"{verdict}, by every check"
        return Judgement(status, reason, verdict, "base", gaps)
    if "models" in document:
        raise BadInput("the report holds several models; give each of them a report of its own")
    rows = document["verdicts"]
    gaps = tuple(row["claim"] for row in rows if not row["as_expected"])
    sources = {row["expected_by"] for row in rows} - {None}
    counts = {status: sum(row["status"] == status for row in rows) for status in ("supported", "refuted")}
    verdict = ", ".join(f"{count} {status}" for status, count in counts.items() if count) or None
    if gaps:
        return Judgement(
            NOT_AS_EXPECTED,
            f"{len(gaps)} of {len(rows)} claims are not as expected: {', '.join(gaps)}",
            verdict,
            ", ".join(sorted(sources)) or None,
            tuple(f"{row['claim']}: {gap}" for row in rows for gap in row["gaps"]),
        )
    if open_ := [f"{row['claim']} needs {row['unmet']}" for row in rows if "unmet" in row]:
        said = f"{len(open_)} of {len(rows)} claims could not be judged: {'; '.join(open_)}"
        return Judgement(CANNOT_JUDGE, said, verdict, ", ".join(sorted(sources)) or None)
    said = (
        f"all {len(rows)} claims are as expected"
        if sources
        else "met for the first time: nothing was compared"
    )
    return Judgement(AS_EXPECTED, said, verdict, ", ".join(sorted(sources)) or None)


def judged_report(path: Path, expected: str = "kept") -> Judgement:
    """Return what a stored report.json says. Raises nothing that the file can bring about."""
    try:
        document = read_document(path)
        return replace(judged_document(document, expected), document=document)
    except BadInput as error:
        return Judgement(CANNOT_JUDGE, str(error))
