"""A measurement is computed whole before any of it is fetched: an accelerator is not waited for meanwhile."""

from __future__ import annotations

import contextlib
import copy
from dataclasses import replace

import pytest
import torch
from transformers import masking_utils

from superweight.core.coordinates import Coordinate
from superweight.core.errors import EditFailed
from superweight.measurement import batched_ablation, evaluate
from superweight.measurement.conditions import Condition, pruned
from superweight.measurement.corpus import cut, documents
from superweight.measurement.evaluate import measure
from superweight.model.architecture import inspect_architecture
from superweight.model.edit_proofs import deferred_proofs, prove


class Computed(Exception):
    """Raised where all is computed and nothing has been fetched."""


@pytest.fixture
def windows(planted):
    return cut(planted, documents("builtin"), "builtin", count=8)


@pytest.fixture
def shapes_only(planted, monkeypatch):
    """The planted model without numbers: what asks for one, as a GPU's host does, raises.

    Transformers itself asks once a pass, before the first block, whether sequences are packed.
    """
    monkeypatch.setattr(masking_utils, "find_packed_sequence_indices", lambda position_ids: None)
    model = copy.deepcopy(planted.model).to("meta")
    return replace(planted, model=model, architecture=inspect_architecture(model))


@pytest.fixture
def conditions(planted):
    place = Coordinate(1, 41, 23)
    return [
        Condition("pruned", pruned([place])),
        Condition("another", pruned([Coordinate(2, 3, 5)])),
    ]


def compute(subject, windows, conditions):
    """Compute a measurement whose numbers nobody fetches."""
    ids, tracked = torch.from_numpy(windows.ids).to(subject.device), torch.tensor([3], device=subject.device)
    with deferred_proofs():
        evaluate._fitting(subject, ids, conditions, tracked, {"pruned"})
        raise Computed


def test_nothing_is_fetched_before_all_is_computed(shapes_only, windows, conditions):
    """Head, losses, divergences and the proofs of edits: of tensors without numbers they ask for none."""
    with pytest.raises(Computed):
        compute(shapes_only, windows, conditions)


def test_a_number_that_is_asked_for_meanwhile_is_noticed(shapes_only, windows, conditions, monkeypatch):
    """The look above would fail."""
    whole = evaluate._whole
    monkeypatch.setattr(evaluate, "_whole", lambda parts: [whole(parts), float(parts[0].nll.sum())][0])
    with pytest.raises(RuntimeError, match="meta"):
        compute(shapes_only, windows, conditions)


def test_an_edit_that_did_nothing_is_refused_when_all_is_computed(planted, windows, conditions, monkeypatch):
    """The proof waits, and is not forgotten: nothing of the measurement is returned."""
    monkeypatch.setattr(batched_ablation, "_rescale", lambda *_: lambda *_: None)
    with pytest.raises(EditFailed, match="'pruned' computes with"):
        measure(planted, windows, conditions)


def test_proofs_run_at_once_where_nobody_defers_them():
    """And when the block is left, in their order, where somebody does; not after an exception."""
    ran = []
    prove(lambda: ran.append(1))
    with deferred_proofs():
        prove(lambda: ran.append(2))
        prove(lambda: ran.append(3))
        assert [1] == ran
    assert [1, 2, 3] == ran
    with contextlib.suppress(Computed), deferred_proofs():
        prove(lambda: ran.append(4))
        raise Computed
    prove(lambda: ran.append(5))
    assert [1, 2, 3, 5] == ran
