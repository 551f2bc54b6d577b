"""Rows and indexes by hand."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

from superweight.fleet.index import index_json
from superweight.fleet.row import AS_EXPECTED, Activation, Carried, Place, Row, encoded

PLANTED = Row(
    id="org--planted-00000000",
    model="org/planted",
    mode="check",
    status=AS_EXPECTED,
    reason="all 2 claims are as expected",
    verdict="2 supported",
    expected_by="registry",
    key="k",
    weights="commit:1",
    version="0.1.0",
    finished="2026-11-27T01:00:00+00:00",
    seconds=12.5,
    report="models/org--planted-00000000/report.html",
    architecture="LlamaForCausalLM",
    parameters=221888,
    dtype="float32",
    blocks=4,
    super_weights=(Place("[1, 41, 23]", 4.0),),
    neurons=1,
    activation=Activation(41, 0, 1, 3, 171.0),
    carried=Carried(85223.0, 65145.0, 111490.0, "carries the model (x85,223)"),
    corpus="builtin",
    claims={"C1": "supported", "C3": "supported"},
)


def named(name: str, **changes: Any) -> Row:
    """Return the row under another name, with what else differs."""
    return replace(PLANTED, id=f"{name.replace('/', '--')}-00000000", model=name, **changes)


def index(*rows: Row, complete: bool = True) -> bytes:
    """Return an index.json of some rows."""
    return index_json(map(encoded, rows), complete=complete)


def parsed(data: bytes) -> dict[str, Any]:
    """Return what an index.json says."""
    document: dict[str, Any] = json.loads(data)
    return document
