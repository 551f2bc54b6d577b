"""Gains behind the MLP in the claims: named by C1, counted over prompts by C2, held to the base by C14."""

from __future__ import annotations

from dataclasses import replace

import pytest

from superweight.claims.evidence import Evidence
from superweight.claims.paper import activation_restoration, fine_tuning, location, one_pass, pruning
from superweight.claims.verdict import NOT_APPLICABLE, REFUTED, SUPPORTED
from superweight.core.coordinates import Coordinate
from superweight.measurement.conditions import (
    COMPANIONS,
    GAINS,
    RESTORED_ACTIVATION,
    SINGLES,
    restorable,
    treatments,
)
from superweight.measurement.corpus import prompts
from superweight.release.activation_checks import compare_activations
from superweight.release.limits import Limits
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


def test_gains_and_companions_are_pruned_as_conditions_of_their_own_in_c3(evidence):
    """Their ratios stand beside the set's; the set itself is what decides."""
    verdict = pruning.judge(evidence)
    assert GAINS in verdict.evidence["ratios"]
    assert COMPANIONS not in verdict.evidence["ratios"]
    assert "measured_alone" not in verdict.evidence
    (weight,) = evidence.scan.super_weights
    beside = replace(weight, coordinate=Coordinate(2, 3, 4), part=0.06)
    again = Evidence(evidence.subject, "builtin")
    again.scan = replace(evidence.scan, companions=(beside,))
    assert COMPANIONS in pruning.judge(again).evidence["ratios"]


def test_an_activation_beyond_the_windows_is_not_restored(evidence):
    """Its token is one that no window of text has: C8 does not apply, and nothing is measured for it."""
    far = tuple(replace(item, token=200) for item in evidence.scan.super_activations)
    evidence.scan = replace(evidence.scan, super_activations=far)
    assert () == restorable(evidence.scan)
    assert NOT_APPLICABLE == activation_restoration.judge(evidence).status
    assert RESTORED_ACTIVATION not in [item.name for item in treatments(evidence.scan)]


def test_of_many_super_weights_c3_says_how_many_were_pruned_alone(evidence):
    """Ten scalars: eight of them alone, and the evidence says eight."""
    (weight,) = evidence.scan.super_weights
    many = tuple(replace(weight, coordinate=Coordinate(1, 17, col), part=col / 100) for col in range(10))
    evidence.scan = replace(evidence.scan, super_weights=many)
    verdict = pruning.judge(evidence)
    assert SINGLES == verdict.evidence["measured_alone"]
    assert SINGLES == sum(name.endswith("alone") for name in verdict.evidence["ratios"])


def test_of_as_many_as_are_pruned_alone_c3_says_nothing(evidence):
    """Eight scalars: each of them alone."""
    (weight,) = evidence.scan.super_weights
    many = tuple(replace(weight, coordinate=Coordinate(1, 17, col), part=0.1) for col in range(SINGLES))
    evidence.scan = replace(evidence.scan, super_weights=many)
    verdict = pruning.judge(evidence)
    assert "measured_alone" not in verdict.evidence
    assert SINGLES == sum(name.endswith("alone") for name in verdict.evidence["ratios"])


def test_a_release_whose_gain_no_longer_makes_the_activation_has_lost_a_maker(evidence):
    """Among the checks of the activations, named as it is written."""
    found = evidence.scan
    checks = compare_activations(found, replace(found, gains=()), 0.1, Limits())
    (lost,) = [check for check in checks if check.name == "makers"]
    assert GAIN in lost.reason
    assert not [check for check in compare_activations(found, found, 0.1, Limits()) if check.name == "makers"]
