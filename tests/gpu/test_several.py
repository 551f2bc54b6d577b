"""One model over several GPUs: laid out by accelerate, measured as if it were in one place."""

from __future__ import annotations

import accelerate
import pytest
import torch

from superweight.checkpoints.registry import resolve
from superweight.core.resources import fixtures_directory
from superweight.detection.scan import scan
from superweight.measurement.corpus import cut, documents
from superweight.measurement.evaluate import Condition, measure
from superweight.model import loading, placement
from superweight.model.devices import Device
from superweight.model.edits import Prune, edited
from superweight.model.loading import load
from superweight.model.placement import stored_bytes

TEXT = "A short prompt."
PLANTED = fixtures_directory() / "checkpoints" / "tiny-planted"


def split_over_hooks(subject):
    """Send a model's halves through accelerate's hooks, as a model over two GPUs is, on one CPU."""
    names = [f"model.layers.{layer}" for layer in range(len(subject.architecture.blocks))]
    device_map = dict.fromkeys(
        ["model.embed_tokens", "model.rotary_emb", *names, "model.norm", "lm_head"], "cpu"
    )
    accelerate.dispatch_model(subject.model, device_map=device_map, force_hooks=True)
    assert all(hasattr(block, "_hf_hook") for block in subject.architecture.blocks)
    return subject


def split_over_gpus(monkeypatch):
    """Load the tiny model as if each of two GPUs had room for six tenths of it."""
    if torch.cuda.device_count() < 2:
        pytest.skip(f"needs two GPUs, and torch sees {torch.cuda.device_count()}")
    room = int(0.6 * stored_bytes(PLANTED))
    monkeypatch.setattr(placement, "WORKING", 0)
    monkeypatch.setattr(loading, "present", lambda: (Device("fake", room, room),) * 2)
    subject = load(resolve("tiny-planted"), device="cuda", offload=False)
    assert {0, 1} == {parameter.device.index for parameter in subject.model.parameters()}
    return subject


@pytest.fixture(params=["hooks-cpu", pytest.param("two-cuda", marks=pytest.mark.gpu)])
def split(request, monkeypatch):
    if request.param == "two-cuda":
        return split_over_gpus(monkeypatch)
    return split_over_hooks(load(resolve("tiny-planted"), device="cpu"))


def test_a_split_model_is_measured_as_a_whole_one(split, planted):
    """Scan, prune, restore and resumed measurement give what the model in one place gives."""
    whole = scan(planted, TEXT)
    found = scan(split, TEXT)
    assert whole.coordinates == found.coordinates
    assert whole.strongest.magnitude == pytest.approx(found.strongest.magnitude, rel=0.02)
    (place,) = found.coordinates
    with edited(split, [Prune(place)]):
        assert 0.0 == split.architecture.value(place)
    conditions = [
        Condition("pruned", (Prune(place),)),
        Condition("restored", (Prune(place),), found.super_activations),
    ]
    windows = cut(planted, documents("builtin"), "builtin", count=8)
    expected, measured = measure(planted, windows, conditions), measure(split, windows, conditions)
    for name, each in expected.items():
        assert each.perplexity == pytest.approx(measured[name].perplexity, rel=0.02)
