"""Conditions that ride together compute what each would compute alone."""

from __future__ import annotations

import dataclasses

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from superweight.core.coordinates import Coordinate
from superweight.detection.detect import SuperActivation
from superweight.measurement import batched_ablation
from superweight.measurement.batched_ablation import run_batched
from superweight.measurement.conditions import INTACT, Condition
from superweight.measurement.generation import continue_greedily
from superweight.measurement.hidden_states import decode_batched, decode_one_by_one
from superweight.model.edits import EditFailed, Prune, Scale, edited

PLACE = Coordinate(1, 41, 23)
ACTIVATION = SuperActivation(channel=41, token=0, onset=1, last=3, magnitude=0.0)


def coordinates(subject):
    shape = subject.architecture.projections[0]
    return st.builds(
        Coordinate,
        st.integers(0, len(subject.architecture.blocks) - 1),
        st.integers(0, shape.hidden - 1),
        st.integers(0, shape.intermediate - 1),
    )


def drawn(subject, data, factors):
    places = st.lists(coordinates(subject), min_size=1, max_size=6, unique=True)
    sets = data.draw(st.lists(places, min_size=1, max_size=4))
    return [
        Condition(str(index), tuple(Scale(place, data.draw(factors)) for place in [*chosen]))
        for index, chosen in enumerate(sets)
    ]


def some_ids(windows=3, tokens=12):
    ids = torch.randint(3, 200, (windows, tokens), generator=torch.Generator().manual_seed(windows))
    return ids.index_fill(1, torch.tensor([0]), 256)  # BOS, where the super activation is


@settings(max_examples=25, deadline=None)
@given(st.data())
def test_pruning_side_by_side_equals_pruning_one_by_one(planted, data):
    """Any scalars of any blocks, in any order: the same hidden states, to the last bit."""
    conditions = drawn(planted, data, st.just(0.0))
    ids = some_ids(data.draw(st.integers(1, 4)))
    together, alone = decode_batched(planted, ids, conditions), decode_one_by_one(planted, ids, conditions)
    assert {INTACT, *(condition.name for condition in conditions)} == together.hidden.keys()
    for name, hidden in alone.hidden.items():
        assert torch.equal(hidden, together.hidden[name])


@settings(max_examples=25, deadline=None)
@given(st.data())
def test_scaling_side_by_side_equals_scaling_one_by_one(planted, data):
    """Another factor rounds a product elsewhere, and nothing more."""
    conditions = drawn(planted, data, st.floats(-3, 3, width=32))
    ids = some_ids()
    together, alone = decode_batched(planted, ids, conditions), decode_one_by_one(planted, ids, conditions)
    for name, hidden in alone.hidden.items():
        torch.testing.assert_close(together.hidden[name], hidden, rtol=1e-4, atol=1e-4)


def test_a_restored_activation_rides_along(planted):
    """It is taken from the intact rows of the same pass, exactly as one kept from an earlier pass."""
    conditions = [
        Condition("pruned", (Prune(PLACE),)),
        Condition("restored", (Prune(PLACE),), restored=(ACTIVATION,)),
    ]
    together, alone = (way(planted, some_ids(), conditions) for way in (decode_batched, decode_one_by_one))
    for name, hidden in alone.hidden.items():
        assert torch.equal(hidden, together.hidden[name])
    assert not torch.equal(together.hidden["pruned"], together.hidden["restored"])


def test_the_blocks_before_an_edit_run_for_the_intact_rows_alone(planted):
    """A block's batch holds the conditions that have begun, no others."""
    seen = []
    hooks = [
        block.register_forward_hook(lambda module, arguments, output: seen.append(len(output)))
        for block in planted.architecture.blocks
    ]
    late = Condition("late", (Prune(Coordinate(3, 0, 0)),))
    decode_batched(planted, some_ids(2), [late, Condition("pruned", (Prune(PLACE),))])
    for hook in hooks:
        hook.remove()
    assert [2, 4, 4, 6] == seen


@pytest.mark.parametrize("fault", ["nothing is scaled", "the next seat is scaled", "all seats are scaled"])
def test_an_edit_that_does_not_hold_on_its_own_rows_alone_is_refused(planted, fault, monkeypatch):
    """The proof looks at every seat: one that should have changed, and one that should not."""
    whole = batched_ablation._own

    def broken(condition, layer):
        found = whole(condition, layer)
        if fault == "nothing is scaled":
            return [dataclasses.replace(scale, factor=1.0) for scale in found]
        wanted = [Scale(PLACE, 0.0)] if layer == PLACE.layer else []
        return wanted if fault == "all seats are scaled" or condition.name == "other" else []

    rescale = batched_ablation._rescale

    def sabotaged(seats, layer):
        hook = rescale(seats, layer)

        def run(*arguments):
            with monkeypatch.context() as patch:
                patch.setattr(batched_ablation, "_own", broken)
                return hook(*arguments)

        return run

    monkeypatch.setattr(batched_ablation, "_rescale", sabotaged)
    conditions = [Condition("pruned", (Prune(PLACE),)), Condition("other", (Prune(Coordinate(1, 2, 3)),))]
    with pytest.raises(EditFailed, match=r"block 1, row \d+, column \d+: '.+' computes with"):
        with run_batched(planted, conditions, 1):
            pytest.fail("the proof came too late")


def test_writing_side_by_side_equals_writing_alone(planted):
    """Token by token, from a cache of its own, each condition continues as it would by itself."""
    prompts = ["The tide turned.", "A bell rang out over the harbour."]
    pruned = Condition("pruned", (Prune(PLACE),))
    together = continue_greedily(planted, prompts, [pruned], tokens=12)
    with edited(planted, pruned.scales):
        alone = continue_greedily(planted, prompts, tokens=12)[INTACT]
    assert alone == together["pruned"]
    assert continue_greedily(planted, prompts, tokens=12)[INTACT] == together[INTACT]
    assert together[INTACT] != together["pruned"]


def test_nothing_is_left_behind(planted):
    """After the pass, and after an exception in it, no hook is left and the bits are the same."""
    ids, condition = some_ids(), Condition("pruned", (Prune(PLACE),))
    with torch.no_grad():
        before = planted.model(input_ids=ids, use_cache=False).logits
    with pytest.raises(KeyError):
        with run_batched(planted, [condition], 3):
            raise KeyError
    decode_batched(planted, ids, [condition])
    with torch.no_grad():
        assert torch.equal(before, planted.model(input_ids=ids, use_cache=False).logits)
