"""Put what a report says of one model into its row."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from superweight.core.coordinates import Coordinate
from superweight.fleet.row import Activation, Carried, Place, Row

if TYPE_CHECKING:
    from superweight.fleet.judgement import Judgement

_ACTIVATION = ("channel", "token", "onset", "last", "magnitude")


def with_judgement(row: Row, judged: Judgement) -> Row:
    """Return a row with a judgement, and what its report says of the model."""
    row = replace(
        row,
        status=judged.status,
        reason=" ".join(judged.reason.split()),
        verdict=judged.verdict,
        expected_by=judged.expected_by,
        unexpected=judged.unexpected,
    )
    if judged.scan is not None:
        return with_scan(row, judged.scan)
    return row if judged.document is None else with_document(row, judged.document)


def with_scan(row: Row, scan: Mapping[str, Any]) -> Row:
    """Return a row with what ``superweight scan --json`` says of a model that ran block by block."""
    activations = sorted(scan["super_activations"], key=lambda item: -abs(item["magnitude"]))
    return replace(
        row,
        **_provenance(scan["provenance"]),
        blocks=scan["depth"]["of"],
        super_weights=tuple(
            Place(str(Coordinate.of(*_indices(item))), item["value"]) for item in scan["super_weights"]
        ),
        neurons=len(scan["neurons"]),
        activation=next(
            (Activation(*(item[name] for name in _ACTIVATION)) for item in activations),
            None,
        ),
    )


def _indices(item: Mapping[str, int]) -> list[int]:
    return [item[name] for name in ("layer", "expert", "row", "col") if name in item]


def _provenance(provenance: Mapping[str, Any]) -> dict[str, Any]:
    names = ("source", "revision", "architecture", "parameters", "dtype")
    return {name: provenance.get(name) for name in names}


def with_document(row: Row, document: Mapping[str, Any]) -> Row:
    """Return a row with what a report.json says of the model: of the release, where it compares two."""
    models = document.get("models", []) if "comparison" in document else [document]
    if not models:
        return row
    subject = models[-1]
    provenance, observed = subject["provenance"], subject.get("observed") or {}
    row = replace(
        row,
        claims={item["claim"]: item["status"] for item in subject.get("verdicts", ())},
        corpus=(document.get("run") or {}).get("corpus"),
        **_provenance(provenance),
    )
    if not observed:
        return row
    return replace(
        row,
        blocks=observed["blocks"],
        super_weights=tuple(Place(item["at"], item["value"]) for item in observed["super_weights"]),
        neurons=len(observed.get("neurons", ())),
        activation=_activation(observed),
        carried=_carried(observed),
    )


def _activation(observed: Mapping[str, Any]) -> Activation | None:
    item = observed.get("activation")
    if item is None:
        return None
    (intact,) = [course["values"] for course in item["courses"] if course["condition"] == "intact"]
    largest = max(map(abs, intact[item["onset"] : item["last"] + 1]), default=None)
    return Activation(item["channel"], item["token"], item["onset"], item["last"], largest)


def _carried(observed: Mapping[str, Any]) -> Carried | None:
    effect = observed.get("effect")
    if effect is None:
        return None
    whole = [item for item in effect["conditions"] if item["condition"] in ("pruned", "gains of norms")]
    if not whole:
        return None
    low, high = whole[0]["interval"]
    return Carried(whole[0]["perplexity_ratio"], low, high, effect["verdict"])
