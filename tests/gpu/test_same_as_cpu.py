"""The models at hand on CUDA: same coordinates, same verdicts, and the numbers of the CPU's baselines."""

from __future__ import annotations

from pathlib import Path

import pytest

from superweight.checkpoints.registry import resolve
from superweight.claims.baselines import baseline_path, differences, read
from superweight.claims.catalogue import CLAIMS
from superweight.claims.evidence import Evidence
from superweight.claims.record import record
from superweight.model.loading import load
from superweight.model.subject import free

BASELINES = Path(__file__).parents[1] / "claims" / "baselines"
GPU = [pytest.mark.gpu, pytest.mark.slow]


@pytest.fixture(
    scope="module",
    params=[
        pytest.param(("tiny-planted", "cpu"), id="tiny-planted-cpu"),
        pytest.param(("tiny-planted", "cuda"), id="tiny-planted-cuda", marks=GPU),
        pytest.param(("tiny-plain", "cuda"), id="tiny-plain-cuda", marks=GPU),
        pytest.param(
            ("smollm2-135m-instruct-q4_1", "cuda"),
            id="smollm2-135m-instruct-q4_1-cuda",
            marks=[*GPU, pytest.mark.checkpoint],
        ),
    ],
)
def evidence(request):
    name, device = request.param
    subject = load(resolve(name), device=device, dtype="float32")
    assert device == subject.provenance.device
    yield Evidence(subject, "builtin")
    free(subject)


@pytest.mark.parametrize("claim", CLAIMS, ids=lambda claim: claim.id)
def test_a_claim_is_judged_as_on_the_cpu(evidence, claim):
    """Status and criteria are those of the CPU's baseline, within its tolerances."""
    name = evidence.subject.name
    stored = read(baseline_path(BASELINES, name, "cpu", "float32", claim.id))
    new = record(name, CLAIMS[claim](evidence), {})
    assert stored["status"] == new["status"]
    if claim.id != "C1":
        # Of what is told beside the criteria, how much text was read.
        for record_of in (stored, new):
            record_of["evidence"] = {"windows": record_of["evidence"].get("windows")}
    assert [] == differences(stored, new)
