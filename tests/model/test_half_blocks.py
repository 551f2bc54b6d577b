"""Blocks of two dense MLPs and experts beside them, seen as two blocks each (LongCat-Flash)."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from superweight.checkpoints.registry import resolve
from superweight.core.errors import UnknownArchitecture
from superweight.detection.scan import scan
from superweight.model.architecture import inspect_architecture
from superweight.model.loading import load
from superweight.model.prefix_cache import keeping_prefixes, resumed
from superweight.model.subject import Subject
from tools.decoder_sweep import CAUSAL, FIXTURE, build, jobs

TEXT = "The sun rises in the east, and sets in the west."


@pytest.fixture
def subject() -> Subject:
    """A tiny random LongCat-Flash of six blocks."""
    template = load(resolve(str(FIXTURE)), device="cpu")
    model = build(jobs(CAUSAL)["longcat_flash"])
    return replace(template, name="LongCat", model=model, architecture=inspect_architecture(model))


@pytest.fixture
def ids(subject) -> torch.Tensor:
    return torch.tensor([subject.encode(TEXT)])


def test_every_dense_mlp_has_a_layer_of_its_own_in_the_order_of_the_pass(subject):
    """Layer 2 n is the first MLP of block n, layer 2 n + 1 the second one, with the experts."""
    layers = subject.model.model.layers
    assert [layers[n // 2].mlps[n % 2].down_proj for n in range(12)] == [
        item.dense.module for item in subject.architecture.layout
    ]
    assert [None, layers[0].mlp.experts] == [
        item.experts and item.experts.module for item in subject.architecture.layout[:2]
    ]
    assert subject.model.config.num_hidden_layers == len(subject.architecture.layout)


def test_the_halves_compute_what_the_class_computes(subject, ids):
    """A model that nobody looked into gives the same logits, and has the same names."""
    plain = build(jobs(CAUSAL)["longcat_flash"])
    with torch.no_grad():
        assert torch.allclose(plain(ids).logits, subject.model(ids).logits, atol=1e-6)
        cached = subject.model(ids, use_cache=True).logits
    assert torch.allclose(plain(ids).logits, cached, atol=1e-6)
    assert list(plain.state_dict()) == list(subject.model.state_dict())


def test_looking_twice_gives_the_same_halves(subject):
    """The blocks of a second look are those of the first."""
    again = inspect_architecture(subject.model)
    assert all(one is other for one, other in zip(subject.architecture.blocks, again.blocks, strict=True))


@pytest.mark.parametrize("layer", range(12))
def test_a_pass_resumed_at_any_half_gives_the_same_logits(subject, ids, layer):
    """What the experts read is handed on with the stream."""
    with torch.no_grad():
        with keeping_prefixes(subject, [layer]) as kept:
            wanted = subject.model(ids, use_cache=False).logits
        with resumed(subject, kept[layer]):
            assert torch.equal(wanted, subject.model(ids, use_cache=False).logits)
        with keeping_prefixes(subject, [layer]) as kept:
            subject.model(ids.repeat(3, 1), use_cache=False)
        with resumed(subject, kept[layer].of_first_sequence()):
            assert torch.allclose(wanted, subject.model(ids, use_cache=False).logits, atol=1e-6)


def test_a_block_that_is_more_than_its_halves_is_refused(monkeypatch):
    """Where the class's own pass gives something else, nothing is measured."""
    template = load(resolve(str(FIXTURE)), device="cpu")
    model = build(jobs(CAUSAL)["longcat_flash"])
    block = type(model.model.layers[0])
    forward = block.forward
    monkeypatch.setattr(block, "forward", lambda self, *given, **named: 1.01 * forward(self, *given, **named))
    subject = replace(template, name="LongCat", model=model, architecture=inspect_architecture(model))
    with pytest.raises(UnknownArchitecture, match="do not make up the block"):
        scan(subject, TEXT)
