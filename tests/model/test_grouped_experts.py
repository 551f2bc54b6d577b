"""Experts in a module that routes by itself and sorts the tokens by expert (JetMoE)."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from superweight.checkpoints.registry import resolve
from superweight.core.errors import UnknownArchitecture
from superweight.detection.scan import scan
from superweight.model.architecture import inspect_architecture
from superweight.model.edits import Prune, edited
from superweight.model.loading import load
from superweight.model.subject import Subject
from tools.decoder_sweep import CAUSAL, FIXTURE, build, jobs

TEXT = "The sun rises in the east, and sets in the west."
PLACE = (2, 1, 17, 5)  # block, expert, row, column


@pytest.fixture
def subject() -> Subject:
    """A tiny random JetMoE whose MLP adds a bias to what its experts write, as the released one does."""
    template = load(resolve(str(FIXTURE)), device="cpu")
    model = build(jobs(CAUSAL)["jetmoe"])
    with torch.no_grad():
        for layer in model.model.layers:
            layer.mlp.bias.normal_(0, 0.1)
    return replace(template, name="JetMoE", model=model, architecture=inspect_architecture(model))


def _stack(subject: Subject) -> torch.nn.Parameter:
    stack: torch.nn.Parameter = subject.model.model.layers[PLACE[0]].mlp.output_linear.weight
    return stack


def test_each_expert_is_a_projection_and_those_of_the_attention_are_none(subject):
    """Six blocks of four experts; the attention's own experts write to the stream as a mixer."""
    assert [(layer, expert) for layer in range(6) for expert in range(4)] == [
        (item.layer, item.expert) for item in subject.architecture.projections
    ]


def test_a_probe_reads_the_scalar_that_the_expert_computes_with(subject):
    """A one-hot input through the module gives the stored scalar, and no bias."""
    layer, expert, row, col = PLACE
    projection = subject.architecture.writer(layer, expert)
    assert float(_stack(subject)[expert, row, col]) == pytest.approx(projection.value(row, col), abs=1e-6)


def test_a_bias_beside_the_experts_is_not_taken_for_what_they_write(subject):
    """The unplanted model is measured, and has no super weight."""
    assert () == tuple(scan(subject, TEXT).coordinates)


@pytest.mark.parametrize("by_hook", [False, True])
def test_pruning_one_expert_changes_the_logits_as_zero_in_the_stack_does(subject, by_hook):
    """A plain zero in the parameter is what pruning by weight and by hook come to; both are undone."""
    layer, expert, row, col = PLACE
    ids = torch.tensor([subject.encode(TEXT)])
    stack = _stack(subject)
    with torch.no_grad():
        stack[expert, row, col] = 30.0
        before = subject.model(ids).logits
        stack[expert, row, col] = 0.0
        wanted = subject.model(ids).logits
        stack[expert, row, col] = 30.0
        assert not torch.allclose(before, wanted, atol=1e-3)
        with edited(
            subject, [Prune(subject.architecture.writer(layer, expert).at(row, col))], by_hook=by_hook
        ):
            assert torch.allclose(wanted, subject.model(ids).logits, atol=1e-4)
        assert torch.equal(before, subject.model(ids).logits)


def test_experts_whose_writes_do_not_add_up_are_refused(subject, monkeypatch):
    """Where the module also mixes the tokens, nothing is measured."""
    moe = type(subject.model.model.layers[PLACE[0]].mlp)
    forward = moe.forward
    monkeypatch.setattr(moe, "forward", lambda self, layer_input: forward(self, layer_input).cumsum(1))
    with pytest.raises(UnknownArchitecture, match="does not add up to what JetMoeMoE returns"):
        scan(subject, TEXT)
