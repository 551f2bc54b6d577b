"""Write a scan down as the JSON that other tools rely on."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from superweight.core.coordinates import Coordinate
from superweight.detection.findings import SuperGain, SuperWeight
from superweight.detection.scan import Scan, head_room
from superweight.detection.steadiness import Seen, Steadiness
from superweight.model.subject import Subject


def _place(coordinate: Coordinate) -> dict[str, int]:
    """Return a coordinate's indices by name; the expert only where there is one."""
    expert = {} if coordinate.expert is None else {"expert": coordinate.expert}
    return {"layer": coordinate.layer, **expert, "row": coordinate.row, "col": coordinate.col}


def _weight(weight: SuperWeight) -> dict[str, Any]:
    return {
        **_place(weight.coordinate),
        "value": weight.value,
        "input": weight.input,
        "output": weight.output,
        "share": weight.share,
        "part": weight.part,
        "token": weight.token,
        "gain": weight.gain,
    }


def _gain(gain: SuperGain) -> dict[str, Any]:
    place = gain.coordinate
    return {
        "layer": place.layer,
        "norm": place.norm,
        "channel": place.channel,
        "value": gain.value,
        "median": gain.median,
        "rank": gain.rank,
        "part": gain.part,
        "makes": gain.makes,
    }


def neurons(weights: Sequence[SuperWeight]) -> list[dict[str, Any]]:
    """Return super weights by the neuron they belong to: block, column, and the channels it writes."""
    rows: dict[tuple[int, int | None, int], list[int]] = {}
    for weight in weights:
        place = weight.coordinate
        rows.setdefault((place.layer, place.expert, place.col), []).append(place.row)
    return [
        {"layer": layer, **({} if expert is None else {"expert": expert}), "col": col, "rows": channels}
        for (layer, expert, col), channels in rows.items()
    ]


def as_dict(subject: Subject, result: Scan, steady: Steadiness | None = None) -> dict[str, Any]:
    """Return the contract of ``superweight scan --json``; ``steady`` adds what several prompts show."""
    document: dict[str, Any] = {
        "model": subject.name,
        "provenance": subject.provenance.as_dict(),
        "passes": result.passes,
        "head_room": head_room(subject, result),
        "stop_reason": result.stop_reason,
        "super_weights": [
            _weight(weight) | {"rank": result.ranks[weight.coordinate]} for weight in result.super_weights
        ],
        "companions": [_weight(weight) for weight in result.companions],
        "successors": [_weight(weight) for weight in result.successors],
        "gains": [_gain(gain) for gain in result.gains],
        "chain": [{"layer": link.layer, "channel": link.channel, "part": link.part} for link in result.links],
        "neurons": neurons(result.super_weights),
        "super_activations": [
            {
                "channel": activation.channel,
                "token": activation.token,
                "onset": activation.onset,
                "last": activation.last,
                "magnitude": activation.magnitude,
                **({} if activation.lane is None else {"lane": activation.lane}),
            }
            for activation in result.super_activations
        ],
        "cancellers": [
            {
                **_place(canceller.coordinate),
                "value": canceller.value,
            }
            for canceller in result.cancellers
        ],
    }
    if result.depth is not None:
        depth = result.depth
        document["depth"] = {"blocks": depth.blocks, "of": depth.of, "provisional": result.provisional}
    if steady is not None:
        document["prompts"] = {
            "count": steady.prompts,
            "found": [{"at": str(place), **_seen(seen)} for place, seen in steady.seen.items()],
            "elsewhere": [{"at": str(place), **_seen(seen)} for place, seen in steady.elsewhere.items()],
        }
    return document


def _seen(seen: Seen) -> dict[str, Any]:
    return {
        "prompts": seen.prompts,
        "least_part": seen.least,
        "greatest_part": seen.greatest,
        "of_the_model": seen.of_the_model,
    }
