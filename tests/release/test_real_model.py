"""The gate on the real model: the harness's own conversion, and every release that is made of it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from superweight.checkpoints.model_ref import parse_model
from superweight.checkpoints.registry import resolve
from superweight.checkpoints.sources import fetch
from superweight.claims.run_config import RunConfig
from superweight.core.coordinates import Coordinate
from superweight.measurement.corpus import cut, documents
from superweight.model.gguf_conversion import converted_copy
from superweight.model.loading import load
from superweight.release.compare import CompareRequest, compare, loaded_base
from superweight.release.result import ACTIVATIONS, STATIC

from .releases import DAMAGED, KEPT, clipped, make, sharded

NAME = "smollm2-135m-instruct-q4_1"
PLACES = [Coordinate(11, 507, 1229), Coordinate(11, 507, 1487)]

BASELINES = Path(__file__).parents[1] / "claims" / "baselines"

pytestmark = pytest.mark.checkpoint


@pytest.fixture(scope="module")
def copy():
    return converted_copy(fetch(resolve(NAME)).path)


def test_the_safetensors_copy_holds_what_the_gguf_holds(copy):
    """Both super weights are the dequantised ones exactly, and rank first and second in their matrix."""
    result = compare(CompareRequest(parse_model(NAME), parse_model(str(copy)), depths=(STATIC,)))
    assert ("kept", ()) == (result.verdict, result.reasons)
    figures = [check.figures for check in result.checks if check.name.startswith("super weight")]
    assert [0.0, 0.0] == [item["relative_error"] for item in figures]
    assert {1, 2} == {item["release_rank"] for item in figures}


@pytest.mark.slow
def test_int4_with_one_block_a_tensor_is_damage_outside_of_the_super_weights(copy, tmp_path):
    """They stay within their limit; rows are emptied, and the activation that they made is gone."""
    change, _ = DAMAGED["int4, one block a tensor"]
    release = make(copy, tmp_path / "int4", change, PLACES)
    result = compare(
        CompareRequest(parse_model(str(copy)), parse_model(str(release)), depths=(STATIC, ACTIVATIONS))
    )
    assert "damaged" == result.verdict
    assert result.reasons[0].startswith("emptied: ")
    assert any(
        each.startswith("the super activation on channel 507, token 0 is gone") for each in result.reasons
    )
    scalars = [check for check in result.checks if check.name.startswith("super weight [")]
    assert ["kept", "kept"] == [check.status for check in scalars]


@pytest.fixture(scope="module")
def passages(tmp_path_factory):
    """A quarter of the corpus: the verdicts are the same, and there are many releases."""
    folder = tmp_path_factory.mktemp("passages")
    for index, text in enumerate(documents("builtin")[:12]):
        (folder / f"{index:02}.txt").write_text(text)
    return folder


@pytest.fixture(scope="module")
def run_config(passages):
    return RunConfig(corpus=str(passages), baselines=BASELINES)


@pytest.fixture(scope="module")
def base(copy, run_config):
    """The real model, loaded and measured once for all its releases."""
    model = parse_model(f"{NAME}={copy}")
    return loaded_base(CompareRequest(model, model, run_config=run_config))


@pytest.fixture
def compared(base, copy, run_config):
    """Compare at full depth; the contract, as it is written."""

    def compare_with(release):
        models = parse_model(f"{NAME}={copy}"), parse_model(str(release))
        result = compare(CompareRequest(*models, run_config=run_config), held=base)
        return json.loads(json.dumps(result.as_dict(), allow_nan=False))

    return compare_with


@pytest.mark.slow
@pytest.mark.parametrize("name", list(KEPT))
def test_a_faithful_release_is_kept(name, copy, compared, tmp_path):
    """A copy, casts and rounding by row are kept without a reason."""
    found = compared(make(copy, tmp_path / "release", KEPT[name], PLACES))
    assert ("kept", []) == (found["verdict"], found["reasons"])


# What the real model's gate says first of each damage.
FIRST_REASON = {
    "super weight pruned": "super weight [11, 507, 1229] was pruned: from 5.87573 to 0",
    "super weight sign-flipped": "super weight [11, 507, 1229] changed its sign: from 5.87573 to -5.87573",
    "super weight halved": "super weight [11, 507, 1229] went from 5.87573 to 2.93787 (50.00% off)",
    "int4, one block a tensor": "emptied: row 87 of model.layers.0.self_attn.k_proj.weight",
    "clipped at z = 9": "new: super activation on channel 247, token 0",
    "columns of one matrix moved": "super weight [11, 507, 1229] changed its sign",
    "random weights of the same shape": "the super activation on channel 507, token 0 is gone (it was 22552)",
}


@pytest.mark.slow
@pytest.mark.parametrize("name", list(DAMAGED))
def test_a_damaged_release_is_named(name, copy, compared, tmp_path):
    """What was done to it leads the reasons."""
    found = compared(make(copy, tmp_path / "release", DAMAGED[name][0], PLACES))
    assert "damaged" == found["verdict"]
    assert found["reasons"][0].startswith(FIRST_REASON[name])


@pytest.mark.slow
def test_swapped_shards_are_damage(copy, compared, tmp_path):
    """The files do not hold what their index says, and none of it is loaded."""
    found = compared(sharded(copy, tmp_path / "release", swapped=True))
    assert "damaged" == found["verdict"]
    assert found["reasons"][0].startswith("the release's files do not fit together: ")


@pytest.mark.slow
def test_restoring_what_was_clipped_is_better_and_the_comparison_says_by_how_much(copy, compared, tmp_path):
    """The super weights put back after clipping win back most of the divergence."""
    apart = {}
    for restored in (False, True):
        release = make(copy, tmp_path / f"restored-{restored}", clipped(restored=restored), PLACES)
        found = compared(release)
        assert "damaged" == found["verdict"]
        (apart[restored],) = (c["figures"]["kl"] for c in found["checks"] if c["check"] == "divergence")
    assert apart[True] < apart[False]


@pytest.mark.slow
def test_fifty_steps_of_fine_tuning_are_kept(copy, compared, passages, tmp_path):
    """AdamW at 1e-5 over the corpus moves every matrix, and what carries the model stays."""
    torch.manual_seed(0)
    subject = load(resolve(str(copy)))
    windows = torch.from_numpy(cut(subject, documents(str(passages)), str(passages)).ids)
    subject.model.requires_grad_(True).train()
    optimiser = torch.optim.AdamW(subject.model.parameters(), lr=1e-5)
    for step in range(50):
        ids = windows[torch.arange(4 * step, 4 * step + 4) % len(windows)]
        subject.model(ids, labels=ids).loss.backward()
        optimiser.step()
        optimiser.zero_grad()
    subject.model.save_pretrained(tmp_path / "tuned")
    subject.tokenizer.save_pretrained(tmp_path / "tuned")
    found = compared(tmp_path / "tuned")
    assert ("kept", []) == (found["verdict"], found["reasons"])
    changed = [
        c["figures"]["relative_error"] for c in found["checks"] if c["check"].startswith("super weight")
    ]
    assert all(0 < error < 0.01 for error in changed)
