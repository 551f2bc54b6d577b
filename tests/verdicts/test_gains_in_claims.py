"""Gains behind the MLP in the claims: named by C1, counted over prompts by C2, held to the base by C14."""

from __future__ import annotations

from dataclasses import replace

import pytest

from superweight.claims.evidence import Evidence
from superweight.claims.paper import fine_tuning, location, one_pass
from superweight.claims.verdict import REFUTED, SUPPORTED
from superweight.measurement.corpus import prompts
from superweight.report.html import page
from tests.model.families import FAMILIES, planted_in

GAIN = "[1, post_feedforward_layernorm, 17]"


@pytest.fixture
def evidence(planted):
    """A tiny Gemma 3 with a planted scalar and the gain that magnifies it."""
    subject = FAMILIES["Gemma 3"].build(planted)
    with planted_in(subject):
        yield Evidence(subject, "builtin")


def test_the_evidence_of_c1_names_the_gains(evidence):
    """With the rank of each among its norm's; a model without any has no such entry."""
    assert [{"at": GAIN, "rank": 1}] == location.judge(evidence).evidence["gains"]


def test_the_evidence_of_c2_counts_the_prompts_that_show_a_gain(evidence):
    """All nine, as they show the scalar."""
    seen = one_pass.judge(evidence).evidence["gains"][GAIN]
    assert len(prompts()) == seen["prompts"]


def test_a_gain_that_only_one_of_two_models_has_refutes_c14(evidence):
    """Its scalars are where they were; the gain that makes them large is gone."""
    evidence.base = evidence.scan
    assert SUPPORTED == fine_tuning.judge(evidence).status
    evidence.scan = replace(evidence.scan, gains=())
    verdict = fine_tuning.judge(evidence)
    assert REFUTED == verdict.status
    assert [GAIN] == verdict.evidence["lost"]


def test_a_model_without_such_norms_has_no_gains_in_its_evidence(planted):
    """So that what is on record of it stays as it is."""
    evidence = Evidence(planted, "builtin")
    assert "gains" not in location.judge(evidence).evidence
    assert "gains" not in one_pass.judge(evidence).evidence


def test_the_page_lists_neurons_gains_and_what_they_carry():
    """One row a neuron with its channels, one a gain, one a condition."""
    observed = {
        "prompt": "p",
        "blocks": 2,
        "super_weights": [],
        "cancellers": [],
        "magnitudes": {"intact": {"input": [1.0, 1.0], "output": [1.0, 1.0]}},
        "neurons": [{"layer": 2, "col": 1980, "rows": [62, 490]}],
        "gains": [{"at": GAIN, "layer": 1, "value": 585.0, "median": 4.4, "rank": 1, "part": 0.104}],
        "effect": {
            "windows": 8,
            "corpus": "builtin",
            "perplexity": 20.0,
            "verdict": "carries the model (x15,038)",
            "conditions": [
                {
                    "condition": "pruned",
                    "pruned": 2,
                    "control": False,
                    "perplexity_ratio": 15038.2,
                    "interval": [1600.0, 141314.0],
                }
            ],
        },
    }
    document = {"model": "m", "provenance": {}, "verdicts": [], "observed": observed}
    html = page(document, {"1-magnitudes": "<svg/>"})
    assert "<td>1980</td><td>62, 490</td>" in html
    assert f"{GAIN}</th><td>585</td><td>4.4</td><td>1</td><td>10.4 %</td>" in html
    assert "<td>x15,038</td><td>x1,600 to x141,314</td>" in html
