"""Inside a look the host waits for nothing of ours: CUDA itself raises where it does."""

from __future__ import annotations

from unittest.mock import patch

import pytest
import torch
from transformers import masking_utils

from superweight.checkpoints.registry import resolve
from superweight.claims.evidence import Evidence
from superweight.measurement import batched_ablation, evaluate
from superweight.model.loading import load
from superweight.model.subject import free


@pytest.fixture
def evidence():
    subject = load(resolve("tiny-planted"), device="cuda")
    yield Evidence(subject, "builtin")
    free(subject)


@pytest.mark.gpu
@pytest.mark.slow
def test_a_look_waits_for_nothing(evidence):
    """All conditions are computed before one number of them is fetched; of transformers one wait a pass."""
    subject, conditions = evidence.subject, evidence.conditions
    ids = torch.from_numpy(evidence.windows.first(8).ids).to(subject.device)
    nothing = torch.zeros(0, dtype=torch.long, device=subject.device)
    names = {condition.name for condition in conditions}
    assert len(conditions) > 5
    with (
        patch.object(masking_utils, "find_packed_sequence_indices", return_value=None),
        patch.object(batched_ablation, "prove") as proofs,
    ):
        torch.cuda.set_sync_debug_mode("error")
        try:
            evaluate._fitting(subject, ids, conditions, nothing, names)
        finally:
            torch.cuda.set_sync_debug_mode("default")
    # One for each block of which some condition scales a scalar.
    edited = {scale.coordinate.layer for condition in conditions for scale in condition.scales}
    assert len(edited) == proofs.call_count > 1
