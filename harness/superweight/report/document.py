"""Build and check report.json: one model, several, or a release beside its base.

The page is made from such a document alone. ``schema.json`` beside this module describes it.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from importlib.resources import files
from pathlib import Path
from typing import Any

from superweight.claims.expectations import Outcome
from superweight.claims.record import record, to_json
from superweight.claims.verdict import Verdict
from superweight.core.errors import BadInput
from superweight.report.privacy import without_home

Document = dict[str, Any]


def verdict_row(outcome: Outcome) -> dict[str, Any]:
    """Return one entry of the contract's ``verdicts``, with what a page needs besides."""
    verdict, deciding = outcome.verdict, outcome.verdict.deciding
    row = record("", verdict, {})
    return {
        "claim": verdict.claim.id,
        "sentence": verdict.claim.sentence,
        "place": verdict.claim.place,
        "status": verdict.status,
        "engine": verdict.engine,
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
        **({"unmet": verdict.unmet} if verdict.unmet else {}),
        **({"examples": to_json(dict(verdict.examples))} if verdict.examples else {}),
    }


def statistics(verdict: Verdict) -> list[tuple[str, str]]:
    """Return the status and every criterion's numbers as named properties, for JUnit XML."""
    rows = [(f"{verdict.claim.id} status", verdict.status)]
    for criterion in verdict.criteria:
        name, interval = f"{verdict.claim.id} {criterion.name}", criterion.interval
        numbers = {"": criterion.statistic.value, " low": interval.low, " high": interval.high}
        rows += [(name + end, repr(value)) for end, value in numbers.items()]
        rows.append((f"{name} supported when", f"{criterion.direction} {criterion.threshold!r}"))
    return rows


def of_model(
    model: str,
    provenance: Mapping[str, Any],
    verdicts: Sequence[Mapping[str, Any]],
    *,
    observed: Mapping[str, Any] | None = None,
    sweep: Sequence[Mapping[str, Any]] = (),
    base: Document | None = None,
    run: Mapping[str, Any] | None = None,
) -> Document:
    """Return the document of one model; ``base`` is that of the model it is held to."""
    document: Document = {"model": model, "provenance": dict(provenance), "verdicts": list(verdicts)}
    further = {"observed": observed, "base": base, "run": run}
    document |= {name: dict(part) for name, part in further.items() if part}
    return document | ({"sweep": list(sweep)} if sweep else {})


def of_models(documents: Sequence[Document], run: Mapping[str, Any] | None = None) -> Document:
    """Return the document of a run: that of its one model, or all of them under ``models``."""
    further = {"run": dict(run)} if run else {}
    if len(documents) == 1:
        return documents[0] | further
    return {"models": list(documents)} | further


def of_comparison(
    comparison: Mapping[str, Any], models: Sequence[Document], run: Mapping[str, Any] | None = None
) -> Document:
    """Return the document of ``superweight compare``: its contract, and the models that were loaded."""
    return {"comparison": dict(comparison), "models": list(models)} | ({"run": dict(run)} if run else {})


def dumped(document: Mapping[str, Any]) -> str:
    """Return report.json as text. Raises `ValueError` for a number that JSON has not."""
    return json.dumps(without_home(document), indent=2, ensure_ascii=False, allow_nan=False) + "\n"


def schema() -> Mapping[str, Any]:
    """Return the JSON Schema of report.json."""
    text = (files("superweight.report") / "schema.json").read_text(encoding="utf-8")
    document: Mapping[str, Any] = json.loads(text)
    return document


def read_document(path: Path) -> Document:
    """Return the document that a file holds. Raises `BadInput` naming the file and the place in it."""
    import jsonschema

    try:
        document: Document = json.loads(path.read_text(encoding="utf-8"), parse_constant=_refuse)
    except (OSError, ValueError, RecursionError) as error:
        reason = getattr(error, "strerror", None) or str(error)
        raise BadInput(
            f"cannot read the report {path}: {reason}; give a report.json that --report wrote"
        ) from error
    fault = jsonschema.exceptions.best_match(jsonschema.Draft202012Validator(schema()).iter_errors(document))
    if fault is not None:
        what = fault.message if len(fault.message) <= 120 else f"{fault.validator} does not hold"
        raise BadInput(f"{path} is no report: {fault.json_path}: {' '.join(what.split())}")
    _refuse_inconsistent(path, document)
    return document


def _refuse_inconsistent(path: Path, document: Document) -> None:
    """Raise `BadInput` where parts contradict each other, which no schema can say."""
    models = document.get("models", [document])
    for subject in [*models, *(model["base"] for model in models if "base" in model)]:
        observed = subject.get("observed")
        if observed is None:
            continue
        blocks, activation = observed["blocks"], observed.get("activation", {"courses": []})
        series = [values for sides in observed["magnitudes"].values() for values in sides.values()]
        series += [course["values"] for course in activation["courses"]]
        layers = [item["layer"] for item in observed["super_weights"] + observed["cancellers"]]
        layers += [activation[end] for end in ("onset", "last") if end in activation]
        if any(len(values) != blocks for values in series) or not all(0 <= at < blocks for at in layers):
            raise BadInput(
                f"{path} is no report: {subject['model']} has {blocks} blocks, its data other ones"
            )
        if "activation" in observed and "intact" not in {c["condition"] for c in activation["courses"]}:
            raise BadInput(f"{path} is no report: {subject['model']} has no intact course of its activation")


def _refuse(name: str) -> float:
    raise ValueError(f"{name} is no JSON number")
