"""Four verdicts: what was not looked at is never called damaged, and never passes for kept."""

from __future__ import annotations

import json

import huggingface_hub
import pytest
import torch
from safetensors.torch import load_file, save_file

from superweight.checkpoints.model_ref import parse_model
from superweight.claims.run_config import RunConfig
from superweight.core.errors import BadInput, TooLarge, Unavailable
from superweight.release import quality_checks
from superweight.release.compare import CompareRequest, compare
from superweight.release.result import (
    ACTIVATIONS,
    CANNOT_JUDGE,
    DAMAGED,
    DEGRADED,
    DEPTHS,
    KEPT,
    NOT_COMPARABLE,
    QUALITY,
    STATIC,
    Check,
    Comparison,
)
from tests.helpers.checkpoint_files import copy_checkpoint

DEEPER = {ACTIVATIONS: CANNOT_JUDGE, QUALITY: CANNOT_JUDGE}


@pytest.fixture
def release(tmp_path):
    """A byte-identical copy of the base, to be changed."""
    return copy_checkpoint("tiny-planted", tmp_path / "release")


def compared(release, **options):
    return compare(CompareRequest(parse_model("tiny-planted"), parse_model(str(release)), **options))


def statuses(result):
    return {check.depth: check.status for check in result.checks}


@pytest.mark.parametrize(
    ("status", "required", "verdict"),
    [
        (KEPT, (STATIC,), KEPT),
        (DEGRADED, (STATIC,), KEPT),
        (DAMAGED, (STATIC,), DAMAGED),
        (CANNOT_JUDGE, (STATIC,), CANNOT_JUDGE),
        (NOT_COMPARABLE, (STATIC,), CANNOT_JUDGE),
        (KEPT, (STATIC, QUALITY), CANNOT_JUDGE),
        (DAMAGED, (STATIC, QUALITY), DAMAGED),
        (KEPT, (), KEPT),
        (NOT_COMPARABLE, (), CANNOT_JUDGE),
    ],
)
def test_a_verdict_needs_what_was_required(status, required, verdict):
    """Damage outranks what was not reached, and that outranks what was kept."""
    assert verdict == Comparison("a", "b", (Check(STATIC, "x", status, "why"),), required).verdict


def test_one_thing_that_could_not_be_looked_at_leaves_its_depth_unreached():
    """The scalar is what the static depth is about: a structure that is there does not stand in for it."""
    checks = (Check(STATIC, "structure", KEPT, "there"), Check(STATIC, "scalar", CANNOT_JUDGE, "packed"))
    assert (STATIC,) == Comparison("a", "b", checks, (STATIC,)).unreached


def test_a_degraded_release_is_kept_and_says_so():
    """The first line of the verdict says it; damage beside it is damage."""
    worse = Check(QUALITY, "perplexity", DEGRADED, "1.2 times the base's")
    assert ("kept, degraded", True) == (
        Comparison("a", "b", (worse,)).headline,
        Comparison("a", "b", (worse,)).degraded,
    )
    both = Comparison("a", "b", (worse, Check(STATIC, "x", DAMAGED, "gone")))
    assert ("damaged", False) == (both.headline, both.degraded)


def test_an_architecture_that_is_not_known_here_cannot_be_judged(release):
    """Its files are compared all the same; the deeper depths say what stopped them."""
    config = json.loads((release / "config.json").read_text())
    (release / "config.json").write_text(json.dumps(config | {"model_type": "not-yet-known"}))
    result = compared(release)
    assert (CANNOT_JUDGE, {STATIC: KEPT} | DEEPER) == (result.verdict, statuses(result))
    assert KEPT == compared(release, require=(STATIC,)).verdict


def test_too_little_memory_for_the_release_cannot_be_judged(release, monkeypatch):
    """What does not fit here may be sound elsewhere; the reason is said once for all depths."""
    whole = RunConfig.evidence

    def too_large(self, spec, progress):
        if str(spec) == str(release):
            raise TooLarge("its weights take 900 GiB")
        return whole(self, spec, progress)

    monkeypatch.setattr(RunConfig, "evidence", too_large)
    result = compared(release)
    assert (CANNOT_JUDGE, {STATIC: KEPT} | DEEPER) == (result.verdict, statuses(result))
    (reason,) = result.reasons
    assert "its weights take 900 GiB" in reason


def test_too_little_memory_for_the_base_cannot_be_judged(release, monkeypatch):
    """The files are compared first; the base that does not fit leaves the rest open."""

    def too_large(self, spec, progress):
        raise TooLarge("its weights take 900 GiB")

    monkeypatch.setattr(RunConfig, "evidence", too_large)
    result = compared(release)
    assert (CANNOT_JUDGE, {STATIC: KEPT} | DEEPER) == (result.verdict, statuses(result))


def test_a_kernel_that_throws_cannot_be_judged(release, monkeypatch):
    """An operation that is not to be had on this machine says nothing of the release."""

    def thrown(*_):
        raise RuntimeError("no kernel image is available")

    monkeypatch.setattr(quality_checks, "_predictions", thrown)
    result = compared(release)
    assert (CANNOT_JUDGE, CANNOT_JUDGE) == (result.verdict, statuses(result)[QUALITY])
    assert "no kernel image is available" in result.reasons[0]


def test_a_hub_that_is_not_there_is_bad_input(release, monkeypatch):
    """A name that leads nowhere is for a person to mend: nothing is published as damaged."""

    def unreachable(*_, **__):
        raise Unavailable("the hub has no org/misspelt")

    # Nor does it say what the name is.
    monkeypatch.setattr(huggingface_hub.HfApi, "model_info", unreachable)
    whole = RunConfig.evidence
    monkeypatch.setattr(
        RunConfig,
        "evidence",
        lambda self, spec, progress: (
            unreachable() if "misspelt" in str(spec) else whole(self, spec, progress)
        ),
    )
    with pytest.raises(BadInput, match="the hub has no org/misspelt"):
        compare(
            CompareRequest(parse_model("tiny-planted"), parse_model("org/misspelt"), depths=(ACTIVATIONS,))
        )


def test_numbers_that_are_not_finite_are_damage(release):
    """NaN was seen, in a file or in a forward pass: that is damage at every depth."""
    tensors = load_file(release / "model.safetensors")
    name = next(name for name in tensors if name.endswith("up_proj.weight"))
    tensors[name][0, 0] = float("nan")
    save_file(tensors, release / "model.safetensors", {"format": "pt"})
    for depth in DEPTHS:
        assert DAMAGED == compared(release, depths=(depth,)).verdict


def test_an_overflow_in_the_forward_pass_is_damage(release):
    """Finite weights whose products are not: seen by running the model."""
    tensors = load_file(release / "model.safetensors")
    for name in tensors:
        if name.endswith(("up_proj.weight", "gate_proj.weight", "down_proj.weight")):
            tensors[name] = (tensors[name].double() * 1e15).to(torch.float32)
    save_file(tensors, release / "model.safetensors", {"format": "pt"})
    assert DAMAGED == compared(release, depths=(ACTIVATIONS,)).verdict


def test_a_depth_cannot_be_required_that_is_not_looked_at(release, refusal):
    """--require names what --depth leaves out: refused before anything is loaded."""
    line = refusal(CompareRequest, "tiny-planted", str(release), depths=(STATIC,), require=(QUALITY,))
    assert "--require quality" in line


def test_the_command_has_an_exit_code_for_each(release, superweight, monkeypatch):
    """Kept 0, damaged 1, cannot be judged 3, bad input 4, unforeseen 70: 1 is damage and nothing else."""
    static = ("compare", "tiny-planted", str(release), "--depth", "static")
    assert 0 == superweight(*static).exit_code
    assert 4 == superweight(*static, "--require", "everything").exit_code
    config = json.loads((release / "config.json").read_text())
    (release / "config.json").write_text(json.dumps(config | {"model_type": "not-yet-known"}))
    assert 3 == superweight("compare", "tiny-planted", str(release), "--depth", "activations").exit_code
    (release / "model.safetensors").write_bytes((release / "model.safetensors").read_bytes()[:-64])
    assert 1 == superweight(*static).exit_code

    def unforeseen(*_, **__):
        raise ZeroDivisionError("by nobody")

    monkeypatch.setattr("superweight.release.compare.compare", unforeseen)
    result = superweight(*static)
    assert 70 == result.exit_code
    assert "by nobody; please report it" in result.stderr
