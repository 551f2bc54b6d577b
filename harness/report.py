"""A check written down: report.json for other tools, and the same as one page for people."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined

from harness.errors import BadInput
from harness.expectations import Outcome
from harness.records import record


def verdict_row(outcome: Outcome) -> dict[str, Any]:
    """Return one entry of the contract's ``verdicts``, with what a page needs besides."""
    verdict, deciding = outcome.verdict, outcome.verdict.deciding
    row = record("", verdict, {})
    return {
        "claim": verdict.claim.id,
        "sentence": verdict.claim.sentence,
        "place": verdict.claim.place,
        "status": verdict.status,
        "expected": outcome.expected,
        "expected_by": outcome.source,
        "as_expected": outcome.as_expected,
        "gaps": list(outcome.gaps),
        "reason": verdict.reason,
        "statistic": deciding.statistic.value if deciding else None,
        "interval": [deciding.interval.low, deciding.interval.high] if deciding else None,
        "threshold": deciding.threshold if deciding else None,
        "direction": deciding.direction if deciding else None,
        "criteria": row["criteria"],
        "evidence": row["evidence"],
    }


def write_report(
    directory: Path, model: str, provenance: Mapping[str, Any], rows: Sequence[Mapping[str, Any]]
) -> None:
    """Write ``report.json`` and ``report.html`` into ``directory``, each of them whole or not at all.

    Raises `BadInput` when the directory cannot be written.
    """
    document = {"model": model, "provenance": dict(provenance), "verdicts": list(rows)}
    text = json.dumps(document, indent=2, ensure_ascii=False, allow_nan=False) + "\n"
    try:
        directory.mkdir(parents=True, exist_ok=True)
        _replace(directory / "report.json", text)
        _replace(directory / "report.html", page(document))
    except OSError as error:
        raise BadInput(f"cannot write the report to {directory}: {error.strerror or error}") from error


def page(document: Mapping[str, Any]) -> str:
    """Return the self-contained page of one report; names and texts in it are escaped."""
    environment = Environment(
        loader=PackageLoader("harness"), autoescape=True, undefined=StrictUndefined, trim_blocks=True
    )
    return environment.get_template("report.html.jinja").render(document)


def _replace(path: Path, text: str) -> None:
    scratch = path.with_name(f".{path.name}.tmp")
    scratch.write_text(text, encoding="utf-8")
    scratch.replace(path)
