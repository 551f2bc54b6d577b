"""What is found in real models that are no textbook, held to what plain torch said of them first.

They run where the files lie: `SUPERWEIGHT_MODELS` names the folder of gemma3-270m.gguf and
qwen2.5-coder-0.5b.gguf. The figures are those of `python -m benchmarks.plain`.
"""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from superweight.checkpoints.registry import resolve
from superweight.claims.evidence import Evidence
from superweight.claims.paper import location, one_pass
from superweight.claims.verdict import SUPPORTED
from superweight.core.coordinates import Coordinate, GainCoordinate
from superweight.detection.scan import SUPPRESSED
from superweight.detection.scan_record import neurons
from superweight.detection.steadiness import look_at_prompts
from superweight.measurement.corpus import BUILTIN, cut, documents, prompts
from superweight.measurement.effect import measure_effect, summary
from superweight.model.loading import load

VARIABLE = "SUPERWEIGHT_MODELS"
NORM = "post_feedforward_layernorm"

pytestmark = pytest.mark.slow


def evidence_of(name, file):
    """Load a registry entry from the file at hand, or skip."""
    path = Path(os.environ.get(VARIABLE, "")) / file
    if VARIABLE not in os.environ or not path.is_file():
        pytest.skip(f"{file} is not at hand: {VARIABLE} names no folder that holds it")
    return Evidence(load(resolve(f"{name}={path}"), device="cpu", dtype="float32"), BUILTIN)


@pytest.fixture(scope="module")
def gemma():
    return evidence_of("google/gemma-3-270m", "gemma3-270m.gguf")


@pytest.fixture(scope="module")
def qwen():
    return evidence_of("Qwen/Qwen2.5-Coder-0.5B-Instruct", "qwen2.5-coder-0.5b.gguf")


def test_a_chain_over_six_blocks_is_six_scalars_and_not_fifty(gemma):
    """One scalar in each of blocks 3 to 8, each making 89 to 99 % of its block's write."""
    found = gemma.scan
    columns = {3: 1414, 4: 84, 5: 584, 6: 1824, 7: 1455, 8: 188}
    assert tuple(Coordinate(layer, 163, col) for layer, col in columns.items()) == found.coordinates
    assert all(0.89 <= weight.share <= 0.995 for weight in found.super_weights)
    assert {3, 4, 5, 6, 7, 8} <= {link.layer for link in found.links if link.part > 0.09}
    assert SUPPRESSED == found.stop_reason
    assert found.passes <= 2


def test_the_gains_that_make_it_enormous_are_the_largest_of_their_norms(gemma):
    """585 in block 3, 709 in block 8, and found in all nine prompts."""
    making = {gain.coordinate: gain for gain in gemma.scan.making_gains}
    assert {GainCoordinate(layer, NORM, 163) for layer in range(3, 9)} <= making.keys()
    assert all(1 == gain.rank for gain in making.values())
    assert 585.0 == pytest.approx(making[GainCoordinate(3, NORM, 163)].value, rel=1e-3)
    assert 709.0 == pytest.approx(making[GainCoordinate(8, NORM, 163)].value, rel=1e-3)
    steady = look_at_prompts(gemma.subject, gemma.scan, prompts().values())
    assert {9} == {seen.prompts for seen in steady.seen.values()}


def test_two_neurons_a_block_are_read_as_neurons(qwen):
    """Channel 62 is the core; what the same neurons write to channel 490 are companions."""
    found = qwen.scan
    assert (Coordinate(2, 62, 1980), Coordinate(3, 62, 2247), Coordinate(3, 62, 3016)) == found.coordinates
    beside = {place.coordinate for place in found.companions}
    assert {Coordinate(2, 490, 1980), Coordinate(3, 490, 2247), Coordinate(3, 490, 3016)} <= beside
    assert 3 == len(neurons(found.super_weights))


@pytest.mark.parametrize("model", ["gemma", "qwen"])
def test_the_place_is_the_registrys_and_the_same_in_nine_prompts(model, request):
    """C1 and C2 as the registry expects them."""
    evidence = request.getfixturevalue(model)
    for claim in (location, one_pass):
        verdict = claim.judge(evidence)
        assert SUPPORTED == verdict.status == evidence.subject.entry.expected(verdict.claim.id), verdict


@pytest.mark.parametrize(("model", "least", "most"), [("gemma", 1.5, 5.0), ("qwen", 1.0, 2.0)])
def test_neither_carries_its_model(model, least, most, request):
    """Pruned, the core multiplies perplexity by a small number; the first line says so."""
    evidence = request.getfixturevalue(model)
    windows = cut(evidence.subject, documents(BUILTIN), BUILTIN)
    effect = measure_effect(evidence.subject, evidence.scan, windows)
    assert least < effect.whole.value < most
    assert "carries the model" not in summary(evidence.scan, effect)
